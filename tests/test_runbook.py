"""The runbook for lost rows is executed as it stands, on both engines.

Goal: at the worst moment its commands are right. Each block marked ```console runbook is run, in
the order of the page; `runbook sqlite` and `runbook postgresql` on that engine only. The page's
example positions and paths give way to those of the accident that is made here.
"""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.cli.commands import PITR, environment, pitr, succeed
from tests.postgres.capture_world import wait_until
from tests.postgres.replay_world import archiving_server, finish_wal, take_base, world_folder
from tests.test_tidy import ROOT
from tools.postgres_servers import Server

PAGE = ROOT / "docs" / "guides" / "rows-were-deleted.md"
EXAMPLES = {"commit": "commit:4711", "lsn": "lsn:0/61B64F0", "xid": "xid:726"}
MERGE = re.compile(r"(?<!name:)\bm-\d{4}-[\w-]+")  # not the marks around it
COMMAND_SECONDS_MAX = 240  # some start two servers, on a machine that may be busy
LOST, KEPT = 90, 10
ROWS = [(number, f"item {number}", number * 10) for number in range(1, LOST + KEPT + 1)]


def commands(text: str, engine: str) -> list[str]:
    """Return the commands of a page that are for an engine, in its order."""
    blocks = re.findall(r"^```console runbook([^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [
        line
        for engines, block in blocks
        if not engines.split() or engine in engines.split()
        for line in re.findall(r"^\$ (.*)", block, re.MULTILINE)
    ]


def follow(engine: str, folder: Path, examples: dict[str, str]) -> dict[str, str]:
    """Run the page's commands in a folder; return each with its output."""
    told: dict[str, str] = {}
    for line in commands(PAGE.read_text(), engine):
        for example, actual in examples.items():
            line = line.replace(example, actual)
        merges = [found for output in told.values() for found in MERGE.findall(output)]
        if merges:
            line = MERGE.sub(merges[-1], line)
        program, *words = shlex.split(line)
        assert program == "pitr", line
        done = subprocess.run(
            [*PITR, *words],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
        assert done.returncode == 0, f"$ {line}\n{done.stdout}{done.stderr}"
        told[line] = done.stdout
    return told


def assert_private(folder: Path) -> None:
    """Nobody else may enter a folder or read a file below: rows of production lie there."""
    found = [folder, *folder.rglob("*")]
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in found if not path.is_symlink()}
    assert len(modes) > 1
    assert not {path: oct(mode) for path, mode in modes.items() if mode & 0o077}


def deletion(folder: Path) -> dict[str, object]:
    """Return the transaction that the log shows to have deleted the rows."""
    log = succeed(folder, "log", "-t", "orders", "--json").json
    [found] = [
        entry
        for entry in log["transactions"]
        if any(table["deleted"] == LOST for table in entry["tables"])
    ]
    assert isinstance(found, dict)
    return found


@contextmanager
def captured(folder: Path, source: str) -> Iterator[None]:
    """Capture a source into an archive beside it while the block runs."""
    succeed(folder, "init", source, "--archive", "archive", "--name", "shop")
    log = folder / "capture.log"
    with log.open("w") as output:
        capture = subprocess.Popen([*PITR, "capture"], cwd=folder, env=environment(), stderr=output)
        try:
            # A mark with no capture running archives by itself, and would keep the capture out.
            status = partial(succeed, folder, "status", "--json")
            wait_until(lambda: status().json["capturing"] or capture.poll(), "the capture", 60)
            wait_until(lambda: pitr(folder, "mark", "ready").code == 0, "it to be current", 60)
            yield
        finally:
            capture.terminate()
            assert capture.wait(60) == 0, log.read_text()


def test_runbook_on_sqlite(tmp_path: Path) -> None:
    """A DELETE without WHERE, work that goes on; the page's commands bring back what is lost."""
    with closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as shop:
        shop.execute("PRAGMA journal_mode = WAL")
        shop.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, cents INTEGER)")
        shop.executemany("INSERT INTO orders VALUES (?, ?, ?)", ROWS)
        with captured(tmp_path, "shop.db"):
            shop.execute(f"DELETE FROM orders WHERE id > {KEPT}")
            shop.execute("INSERT INTO orders VALUES (1000, 'later', 1)")
            succeed(tmp_path, "mark", "seen")
            position = str(deletion(tmp_path)["position"])
            told = follow("sqlite", tmp_path, {EXAMPLES["commit"]: position})
            rows = shop.execute("SELECT * FROM orders ORDER BY id").fetchall()
    assert rows == [*ROWS, (1000, "later", 1)]
    assert_private(tmp_path / "archive")
    assert_private(tmp_path / ".pitr")
    assert f"{LOST} inserted" in told["pitr merge --plan plan.json --yes"]


@pytest.fixture
def cluster() -> Iterator[tuple[Path, Server]]:
    """A cluster with a database of its own, whose WAL is archived into a folder as well."""
    with world_folder() as folder, archiving_server(folder, 15, segment_megabytes=1) as server:
        server.query("CREATE DATABASE shop")
        server.query(
            "CREATE TABLE orders (id int PRIMARY KEY, item text, cents int);"
            "INSERT INTO orders SELECT i, 'item ' || i, i * 10"
            f" FROM generate_series(1, {LOST + KEPT}) AS i",
            "shop",
        )
        yield folder, server


@pytest.mark.soak  # a minute of servers
def test_runbook_on_postgresql(
    cluster: tuple[Path, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same on a cluster, and once more from a base backup and WAL files alone."""
    folder, server = cluster
    monkeypatch.setenv("PITR_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PITR_SIDECAR_FOLDER", str(folder / "sidecars"))
    monkeypatch.setenv("PITR_PG_BINDIR", os.fspath(server.bin))
    take_base(server, folder)
    with captured(tmp_path, server.url("shop")):
        succeed(tmp_path, "backup", "--checkpoint", "fast")
        server.query(f"DELETE FROM orders WHERE id > {KEPT}", "shop")
        server.query("INSERT INTO orders VALUES (1000, 'later', 1)", "shop")
        succeed(tmp_path, "mark", "seen")
        finish_wal(server)
        accident = deletion(tmp_path)
        examples = {
            EXAMPLES["lsn"]: str(accident["position"]),
            EXAMPLES["xid"]: f"xid:{accident['xid']}",
            "/backups": str(folder),
        }
        told = follow("postgresql", tmp_path, examples)
        rows = server.query("SELECT * FROM orders ORDER BY id", "shop")
    assert [tuple(row) for row in rows] == [*ROWS, (1000, "later", 1)]
    for private in (tmp_path / "archive", tmp_path / "state"):
        assert_private(private)
    for sidecar in (folder / "sidecars").iterdir():
        assert_private(sidecar)
    assert f"{LOST} inserted" in told["pitr merge --plan plan.json --yes"]
    [from_files] = [line for line in told if "--from-backup" in line]
    assert str(folder / "base") in from_files


def test_commands_are_chosen_by_engine() -> None:
    """A block without an engine is for both; a block of another kind for none."""
    page = "".join(
        f"```console{mark}\n$ pitr {word}\noutput\n```\n"
        for mark, word in (
            (" runbook", "a"),
            (" runbook sqlite", "b"),
            (" runbook postgresql", "c"),
            (" test", "d"),
        )
    )

    assert commands(page, "sqlite") == ["pitr a", "pitr b"]
    assert commands(page, "postgresql") == ["pitr a", "pitr c"]
