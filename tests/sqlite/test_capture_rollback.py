"""Capture of rollback-journal databases: exact states, one a poll, and journal modes that change.

Method: an application in a process of its own in each journal mode; every archived state is opened
and asked.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from pitr.errors import SourceUnusable
from pitr.sqlite.capture.difference import LiveImage
from pitr.sqlite.capture.seen import Interval
from pitr.sqlite.capture.source import Source
from pitr.sqlite.pagelog.segment import CommitKind
from tests.memory_store import MemoryStore
from tests.sqlite.capture_world import (
    App,
    capture_once,
    capturing,
    newest_image,
    newest_value,
    read_file,
    records,
    states,
    value,
)

COUNT = "SELECT count(*) FROM t"
TABLE = "CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)"
JOURNAL_MODES = ["DELETE", "TRUNCATE", "PERSIST", "MEMORY"]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.mark.parametrize("mode", JOURNAL_MODES)
def test_states_follow_the_change_counter(store: MemoryStore, path: Path, mode: str) -> None:
    """Each commit that a poll sees becomes a state of its own, whatever becomes of the journal."""
    with App(path, f"PRAGMA journal_mode={mode}", TABLE) as app, capturing(store, path) as running:
        for number in range(1, 6):
            app.run("INSERT INTO t VALUES(?, randomblob(3000))", number)
            running.wait_for_value(COUNT, number)
        app.run("DELETE FROM t WHERE a > 1")
        app.run("VACUUM")
        running.wait_for_value(COUNT, 1)
        running.wait(lambda: newest_image(store) == read_file(path), "the file as it is")
    found = records(store)
    assert {record.kind for record in found[1:]} == {CommitKind.COMMIT}
    assert all(record.wal is None for record in found)
    counters = [record.change_counter for record in found]
    assert counters == sorted(set(counters))
    for _, image in states(store):
        assert value(image, "PRAGMA integrity_check") == "ok"


def test_states_are_whole_while_a_writer_never_pauses(store: MemoryStore, path: Path) -> None:
    """The SHARED lock keeps commits out of the comparison: no state mixes two of them."""
    with App(path, TABLE, "CREATE TABLE u(a INTEGER PRIMARY KEY, b)") as app:
        ended = threading.Event()

        def write() -> None:
            number = 0
            while not ended.is_set():
                number += 1
                app.run("BEGIN IMMEDIATE")
                for table in "tu":
                    app.run(f"INSERT INTO {table} VALUES(?, randomblob(2000))", number)
                app.run("COMMIT")

        thread = threading.Thread(target=write)
        thread.start()
        with capturing(store, path) as running:
            running.wait(lambda: len(records(store)) > 10)
        ended.set()
        thread.join()
    for _, image in states(store):
        assert value(image, "SELECT (SELECT count(*) FROM t) - (SELECT count(*) FROM u)") == 0
        assert value(image, "PRAGMA integrity_check") == "ok"


def test_database_that_stays_the_same_records_nothing(store: MemoryStore, path: Path) -> None:
    """Neither while it is polled nor at a restart; a change while away is one gap."""
    with App(path, TABLE) as app:
        capture_once(store, path)
        with capturing(store, path):
            time.sleep(0.1)
        assert len(records(store)) == 1
        app.run("INSERT INTO t VALUES(1, 'x')")
        app.run("INSERT INTO t VALUES(2, 'x')")
        capture_once(store, path)
    assert [record.kind for record in records(store)] == [CommitKind.BASE, CommitKind.GAP]
    assert newest_value(store, COUNT) == 2


def test_change_to_wal_mode_is_followed(store: MemoryStore, path: Path) -> None:
    """While capture runs the application enters WAL mode: nothing is missed, commits get finer."""
    with App(path, TABLE) as app, capturing(store, path) as running:
        app.run("INSERT INTO t VALUES(1, 'x')")
        running.wait_for_value(COUNT, 1)
        assert app.run("PRAGMA journal_mode=WAL") == [["wal"]]
        for number in range(2, 12):
            app.run("INSERT INTO t VALUES(?, 'x')", number)
        running.wait_for_value(COUNT, 11)
        before = len(records(store))
        for number in range(12, 22):
            app.run("INSERT INTO t VALUES(?, 'x')", number)
        running.wait_for_value(COUNT, 21)
    found = records(store)
    assert {record.kind for record in found[1:]} == {CommitKind.COMMIT}
    assert len(found) == before + 10
    assert found[-1].wal is not None
    assert running.told("journal mode")


def test_journal_mode_may_change_while_capture_is_away(store: MemoryStore, path: Path) -> None:
    """Back and forth between the modes, with commits in each: every state is exact."""
    with App(path, TABLE) as app:
        for number, mode in enumerate(["WAL", "DELETE", "WAL", "TRUNCATE"], start=1):
            app.run(f"PRAGMA journal_mode={mode}")
            app.run("INSERT INTO t VALUES(?, 'x')", number)
            capture_once(store, path)
            assert newest_value(store, COUNT) == number
    assert {record.kind for record in records(store)[1:]} == {CommitKind.GAP}


def test_page_size_change_while_following_takes_a_new_base(store: MemoryStore, path: Path) -> None:
    """VACUUM with another page size replaces every page at once."""
    with App(path, TABLE) as app, capturing(store, path) as running:
        app.run("INSERT INTO t VALUES(1, 'x')")
        running.wait_for_value(COUNT, 1)
        app.run("PRAGMA page_size=8192")
        app.run("VACUUM")
        running.wait(lambda: records(store)[-1].kind is CommitKind.BASE)
        app.run("INSERT INTO t VALUES(2, 'x')")
        running.wait_for_value(COUNT, 2)
    found = records(store)
    assert [record.fork for record in found][-1] == 1
    assert found[-1].kind is CommitKind.COMMIT


def test_crashed_transaction_is_not_captured(store: MemoryStore, path: Path) -> None:
    """A hot journal waits for its writer to come back; half-written pages are nobody's state."""
    writer = App(path, TABLE, "INSERT INTO t VALUES(1, zeroblob(100000))", "PRAGMA cache_size=2")
    writer.run("BEGIN")
    writer.run("UPDATE t SET b = randomblob(100000)")
    writer.run("INSERT INTO t VALUES(2, randomblob(200000))")
    writer.kill()
    assert path.with_name("app.db-journal").stat().st_size
    with pytest.raises(SourceUnusable, match="cannot read"):
        capture_once(store, path)
    with App(path) as app:
        app.run(COUNT)
        capture_once(store, path)
    assert newest_value(store, "SELECT b = zeroblob(100000) FROM t WHERE a = 1") == 1


def test_crash_of_the_writer_is_survived(store: MemoryStore, path: Path) -> None:
    """Capture goes on when the application has come back and rolled back."""
    writer = App(path, TABLE, "INSERT INTO t VALUES(1, zeroblob(100000))", "PRAGMA cache_size=2")
    with capturing(store, path) as running:
        writer.run("BEGIN")
        writer.run("UPDATE t SET b = randomblob(100000)")
        writer.run("INSERT INTO t VALUES(2, randomblob(200000))")
        writer.kill()
        time.sleep(0.1)
        with App(path) as app:
            app.run("INSERT INTO t VALUES(3, 'x')")
            running.wait_for_value(COUNT, 2)
    assert [value(image, "SELECT count(*) FROM t WHERE a=2") for _, image in states(store)] == [
        0,
        0,
    ]


def test_page_that_holds_the_lock_byte_is_left_out(path: Path) -> None:
    """SQLite never writes it; whatever lies there in the file is no content."""
    with App(path, "PRAGMA page_size=65536", TABLE):
        pass
    with path.open("r+b") as file:
        file.truncate(65536 * 16387)  # sparse: the lock-byte page is number 16385
    source = Source(path)
    try:
        image = LiveImage(source, Interval(0, 0), 65536, 16387, {})
        found = [number for number, _ in image.pages()]
    finally:
        source.close()
    assert found == [*range(1, 16385), 16386, 16387]
