"""`pitr restore` of a PostgreSQL table from a base backup and WAL, as a user types it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pitr.postgres.wal.segment_name import SegmentName
from pitr.vocabulary.position import Lsn
from tests.cli.commands import Done, pitr, succeed, told
from tests.postgres.replay_world import archiving_server, finish_wal, take_base, world_folder

TABLE = "CREATE TABLE orders (id int PRIMARY KEY, item text, cents numeric)"
ROWS = "INSERT INTO orders SELECT i, 'item ' || i, i * 10 FROM generate_series(1, 100) AS i"


@dataclass(frozen=True, slots=True)
class Accident:
    """A cluster's backup and WAL; the transaction `xid` deleted orders, another dropped them."""

    folder: Path
    programs: Path
    xid: int
    lsn: str
    stopped: str

    def words(self, *more: str) -> list[str]:
        """Return the words of a restore from the backup and the WAL."""
        places = ["--from-backup", str(self.folder / "base"), "--from-wal"]
        return ["restore", *places, str(self.folder / "wal"), *more]


@pytest.fixture(scope="module")
def accident() -> Iterator[Accident]:
    """Record an accident: a DELETE without its WHERE, and later a DROP TABLE."""
    with world_folder() as folder:
        with archiving_server(folder, 15, segment_megabytes=1) as server:
            server.query(TABLE)
            server.query("CREATE UNLOGGED TABLE cache (i int)")
            server.query("CREATE VIEW dear AS SELECT * FROM orders WHERE cents > 500")
            server.query("CREATE DATABASE second")
            server.query("CREATE TABLE orders AS SELECT 'of the second' AS item", "second")
            take_base(server, folder)
            server.query(ROWS)
            server.query("UPDATE orders SET cents = 0 WHERE id = 7")
            server.query("SELECT pg_create_restore_point('good')")
            with server.connect() as connection:
                connection.execute("BEGIN")
                xid = connection.execute("SELECT txid_current()").fetchone()
                connection.execute("DELETE FROM orders")
                connection.execute("COMMIT")
            server.query("CREATE TABLE later (i int)")
            lsn = server.value("SELECT pg_current_wal_insert_lsn()")
            server.query("DROP TABLE orders CASCADE")
            stopped = server.value("SELECT now()::text")
            finish_wal(server)
            programs = server.bin
        assert xid is not None
        yield Accident(folder, programs, int(xid[0]), str(lsn), str(stopped))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Return a folder for commands, with a place for sidecars that their user can walk to."""
    with world_folder() as sidecars:
        os.environ["PITR_SIDECAR_FOLDER"] = str(sidecars)
        os.environ["PITR_STATE"] = str(tmp_path / "state")
        yield tmp_path
        assert not [path for path in sidecars.iterdir() if not is_kept(tmp_path, path)]
        del os.environ["PITR_SIDECAR_FOLDER"], os.environ["PITR_STATE"]


def is_kept(place: Path, sidecar: Path) -> bool:
    """Return whether a sidecar's folder belongs to a recovery."""
    return (place / "state/recoveries" / sidecar.name / "recovery.json").exists()


def test_restore_brings_the_rows_back_and_they_can_be_asked(
    accident: Accident, place: Path
) -> None:
    """Before the DELETE all rows are there; sql and psql answer; drop leaves nothing."""
    target = ["-t", "orders", "--at", f"before:xid:{accident.xid}", "--json"]
    found = succeed(place, *accident.words(*target)).json

    table = found["tables"][0]
    assert (table["table"], table["rows"]) == ("public.orders", 100)
    assert (table["missing_in_live"], table["differs"], table["extra_in_live"]) == (None,) * 3
    assert found["target"]["position"].startswith("lsn:")
    assert found["bytes_read"] > 1 << 20
    asked = succeed(place, "recoveries", "sql", "SELECT cents FROM orders WHERE id = 7", "--json")
    assert asked.json["rows"] == [["0"]]
    psql = succeed(place, "recoveries", "psql", found["recovery"], "--", "-Atc", "TABLE orders")
    assert len(psql.out.splitlines()) == 100
    listed = succeed(place, "recoveries", "--json").json["recoveries"]
    assert [item["recovery"] for item in listed] == [found["recovery"]]
    assert Path(found["sidecar"]).is_dir()
    succeed(place, "recoveries", "drop", found["recovery"])
    assert not Path(found["sidecar"]).exists()


def test_restore_stops_where_the_target_says(accident: Accident, place: Path) -> None:
    """After the xid no row is left; a restore point, an LSN and a time are stops, too."""
    for target, rows in (
        (f"xid:{accident.xid}", 0),
        ("name:good", 100),
        (f"lsn:{accident.lsn}", 0),
    ):
        words = accident.words("-t", "orders", "--at", target, "--json")
        done = succeed(place, *words)
        assert done.json["tables"][0]["rows"] == rows, target
        assert "first excluded" in done.err


def test_restore_of_another_database_finds_its_table(accident: Accident, place: Path) -> None:
    """A name of three parts, or --database, chooses."""
    for words in (("-t", "second.public.orders"), ("-t", "orders", "--database", "second")):
        done = succeed(place, *accident.words(*words, "--at", "latest", "--json"))
        assert done.json["tables"][0]["rows"] == 1
        asked = succeed(place, "recoveries", "sql", "SELECT item FROM orders", "--json")
        assert asked.json["rows"] == [["of the second"]]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-t", "ordres", "--at", "name:good"], 2, "no table ordres"),
        (["-t", "orders", "--at", "latest"], 2, "no table orders"),
        (["-t", "cache", "--at", "name:good"], 2, "is unlogged"),
        (["-t", "dear", "--at", "name:good"], 2, "is a view"),
        (["-t", "or ders", "--at", "name:good"], 2, "no name of a table"),
        (["-t", "a.b.orders", "--at", "name:good"], 2, "no database a"),
        (["-t", "orders", "--at", "name:bad"], 4, "no restore point"),
        (["-t", "orders", "--at", "xid:99999"], 4, "transaction 99999 is not"),
        (["-t", "orders", "--at", "lsn:0/100000"], 4, "before what base backup"),
        (["-t", "orders", "--at", "lsn:7/0"], 4, "after what base backup"),
        (["-t", "orders", "--at", "commit:3"], 2, "not for a PostgreSQL source"),
        (["-t", "orders", "--at", "2020-01-01 00:00Z"], 4, "before what base backup"),
    ],
)
def test_restore_that_cannot_be_done_says_why(
    accident: Accident, place: Path, words: list[str], code: int, message: str
) -> None:
    """The exit code is right, the message names the fault, and no recovery is left."""
    done = pitr(place, *accident.words(*words))

    assert (done.code, message in told(done.err)[0]) == (code, True), done.err
    assert not list((place / "state/recoveries").glob("*/recovery.json"))


def test_restore_with_a_gap_in_the_wal_names_it(accident: Accident, place: Path) -> None:
    """Exit 4, and the stretch that is missing; it is not passed over for 'latest' either."""
    wal = place / "wal"
    shutil.copytree(accident.folder / "wal", wal)
    names = sorted(path for path in wal.iterdir() if len(path.name) == 24)
    base = next(wal.glob("*.backup")).name[:24]
    kept = [path for path in names if path.name > base]
    kept[0].unlink()
    words = ["restore", "--from-backup", str(accident.folder / "base"), "--from-wal", str(wal)]
    for target in (f"lsn:{accident.lsn}", "latest"):
        done = pitr(place, *words, "-t", "orders", "--at", target)
        begin = SegmentName.parse(kept[0].name, 1 << 20).begin
        assert done.code == 4, done.err
        assert f"WAL is missing from {Lsn(begin)} to {Lsn(begin + (1 << 20))}" in done.err


def test_restore_without_the_programs_names_the_package(accident: Accident, place: Path) -> None:
    """Exit 3 with the package, when a folder without them is named."""
    done = failing(place, accident, PITR_PG_BINDIR=str(place))

    assert done.code == 3
    assert "postgresql-15" in done.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")
def test_restore_as_root_without_the_user_says_how_to_make_it(
    accident: Accident, place: Path
) -> None:
    """Exit 3 with the line that mends it; root itself is no such user."""
    for user in ("nobody-of-this-name", "root"):
        done = failing(place, accident, PITR_SIDECAR_USER=user)
        assert (done.code, "useradd" in done.err) == (3, True)


def failing(place: Path, accident: Accident, **changes: str) -> Done:
    """Run a restore that would work, but for the environment."""
    return pitr(place, *accident.words("-t", "orders", "--at", "name:good"), **changes)
