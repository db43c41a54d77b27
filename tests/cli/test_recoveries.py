"""recoveries: listed, asked, dropped; and what a killed restore leaves: nothing."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.commands import PITR, environment, pitr, succeed, told, write
from tests.cli.conftest import ORDERS

KILLS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a captured table that takes a while to restore."""
    folder = tmp_path_factory.mktemp("recoveries")
    filler = "WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 60000)"
    statement = f"INSERT INTO orders {filler} SELECT i, printf('%060d', i), i FROM n"
    write(folder / "s.db", ORDERS, "CREATE INDEX by_item ON orders (item)", statement)
    succeed(folder, "init", "s.db", "--archive", "archive")
    succeed(folder, "capture", "--once")
    return folder


def test_recoveries_are_listed_asked_and_dropped(folder: Path) -> None:
    """The newest is meant without an id; what is dropped is gone with its sidecar."""
    words = ("restore", "-t", "orders", "--at", "latest", "--no-compare", "--json", "--where")
    first = succeed(folder, *words, "id < 3").json
    second = succeed(folder, *words, "id < 5").json
    listed = succeed(folder, "recoveries", "--json").json["recoveries"]
    count = ("SELECT count(*) FROM orders", "--json")

    assert [item["recovery"] for item in listed] == [first["recovery"], second["recovery"]]
    assert listed[0].keys() >= {"recovery", "created", "target", "sidecar", "tables"}
    assert listed[1]["tables"] == [{"table": "orders", "rows": 4}]
    assert succeed(folder, "recoveries", "sql", *count).json["rows"] == [[4]]
    assert succeed(folder, "recoveries", "sql", first["recovery"], *count).json["rows"] == [[2]]
    assert "orders (2 rows)" in succeed(folder, "recoveries").out
    for item in (first, second):
        succeed(folder, "recoveries", "drop", item["recovery"])
        assert not Path(item["sidecar"]).exists()
    assert succeed(folder, "recoveries", "--json").json["recoveries"] == []


def test_recovery_that_is_not_there_is_named(folder: Path) -> None:
    """Unknown ids, also such as would lead out of the folder, are usage errors."""
    nothing = pitr(folder, "recoveries", "sql", "SELECT 1")
    outside = pitr(folder, "recoveries", "drop", "../../archive")

    assert (nothing.code, told(nothing.err)[0]) == (2, "error: there is no recovery yet")
    assert (outside.code, told(outside.err)[0]) == (
        2,
        "error: there is no recovery '../../archive'",
    )
    assert (folder / "archive").exists()


def test_recoveries_sql_only_reads(folder: Path, tmp_path: Path) -> None:
    """A sidecar is asked, never changed; a sidecar that is gone is told with the next step."""
    place = tmp_path / "out.db"
    words = ("restore", "-t", "orders", "--at", "latest", "--no-compare", "--where", "id = 1")
    found = succeed(folder, *words, "--to", str(place), "--json").json
    refused = pitr(folder, "recoveries", "sql", "DELETE FROM orders")
    place.unlink()
    gone = pitr(folder, "recoveries", "sql", "SELECT 1")
    succeed(folder, "recoveries", "drop", found["recovery"])

    assert (refused.code, gone.code) == (2, 3)
    assert told(gone.err)[0] == f"error: the sidecar of {found['recovery']} is gone"


def test_options_before_a_subcommand_are_refused(folder: Path) -> None:
    """They would be ignored: `recoveries --source x sql …` must not ask another source."""
    done = pitr(folder, "recoveries", "--source", "x", "sql", "SELECT 1")

    assert (done.code, told(done.err)[0]) == (2, "error: options come after 'sql'")


def test_killed_restore_leaves_nothing_that_passes_for_a_recovery(folder: Path) -> None:
    """SIGKILL at random moments: what is listed is whole, what is not whole is swept."""
    began = time.monotonic()
    words = ("restore", "-t", "orders", "--at", "latest", "--no-compare")
    whole = succeed(folder, *words, "--json").json["recovery"]
    duration = time.monotonic() - began
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(KILLS):
        process = subprocess.Popen(
            [*PITR, *words],
            cwd=folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(duration * chance.uniform(0.3, 1.0))
        process.kill()
        process.wait()
    listed = succeed(folder, "recoveries", "--json").json["recoveries"]
    folders = {path.name for path in (folder / ".pitr" / "recoveries").iterdir()}

    assert whole in folders
    assert {item["recovery"] for item in listed} == folders
    for item in listed:
        with closing(sqlite3.connect(f"file:{item['sidecar']}?mode=ro", uri=True)) as sidecar:
            assert sidecar.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert sidecar.execute("SELECT count(*) FROM orders").fetchone() == (60_000,)
