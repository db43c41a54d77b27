"""Capture and a store that fails: nothing in the source waits, nothing is lost, nothing is doubled.

Method: the in-memory store with switches that make it fail, hang or lie; the application writes on
all the while. What the archive holds afterwards is read back commit by commit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pitr.archive.document import encode_document
from pitr.archive.lease import read_newest_lease
from pitr.errors import StoreUnusable
from pitr.sqlite.capture.session import CaptureOptions
from pitr.sqlite.pagelog.segment import CommitKind
from pitr.vocabulary.event import Level
from tests.memory_store import FaultyStore, MemoryStore
from tests.sqlite.capture_world import (
    FAST,
    App,
    capture_once,
    capturing,
    newest_value,
    records,
    states,
    value,
)

COUNT = "SELECT count(*) FROM t"
WAL = ("PRAGMA journal_mode=WAL", "CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)")


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses as in production, a hundred times shorter."""
    monkeypatch.setattr("pitr.archive.outbox._FIRST_PAUSE_SECONDS", 0.005)
    monkeypatch.setattr("pitr.archive.outbox._PAUSE_SECONDS_MAX", 0.05)


def spooled(path: Path) -> list[Path]:
    return sorted(path.parent.glob("spool/*/*"))


def counts(store: MemoryStore) -> list[int]:
    return [value(image, COUNT) for _, image in states(store)]


def test_outage_is_bridged_by_the_spool(store: FaultyStore, path: Path) -> None:
    """Commits of an outage keep their numbers, wait on disk, and arrive in order."""
    with App(path, *WAL) as app, capturing(store, path) as running:
        app.run("INSERT INTO t VALUES(1, 'x')")
        running.wait_for_value(COUNT, 1)
        store.is_down = True
        for number in range(2, 22):
            app.run("INSERT INTO t VALUES(?, 'x')", number)
            time.sleep(0.01)
        running.wait(lambda: len(spooled(path)) > 2, "the spool")
        assert counts(store) == [0, 1]
        assert running.told("cannot be reached", Level.WARNING)
        store.is_down = False
        running.wait_for_value(COUNT, 21)
        running.wait(lambda: running.told("is back"))
    assert counts(store) == list(range(22))
    assert not spooled(path)


def test_source_does_not_wait_for_a_store_that_hangs(store: FaultyStore, path: Path) -> None:
    """Writers and checkpoints of the application go on as if nothing was."""
    with App(path, *WAL) as app, capturing(store, path) as running:
        store.hang.clear()
        began = time.monotonic()
        for number in range(1, 101):
            app.run("INSERT INTO t VALUES(?, zeroblob(3000))", number)
        assert time.monotonic() - began < 2.0
        store.hang.set()
        running.wait_for_value(COUNT, 100)
    assert counts(store) == list(range(101))


def test_store_that_loses_its_answers_gets_nothing_twice(store: FaultyStore, path: Path) -> None:
    """An object that arrived although its answer did not is recognised as ours."""
    with App(path, *WAL) as app, capturing(store, path) as running:
        store.loses_answers = True
        for number in range(1, 11):
            app.run("INSERT INTO t VALUES(?, 'x')", number)
            time.sleep(0.01)
        running.wait_for_value(COUNT, 10)
        store.loses_answers = False
    assert counts(store) == list(range(11))
    logged = [key for key in store.written if key.startswith("log/")]
    assert len(logged) == len(set(logged))


def test_spool_of_an_ended_process_is_delivered_first(store: FaultyStore, path: Path) -> None:
    """Stopped in the middle of an outage: the next start goes on without a gap."""
    with App(path, *WAL) as app:
        with capturing(store, path) as running:
            app.run("INSERT INTO t VALUES(1, 'x')")
            running.wait_for_value(COUNT, 1)
            store.is_down = True
            app.run("INSERT INTO t VALUES(2, 'x')")
            running.wait(lambda: spooled(path), "the spool")
            app.run("INSERT INTO t VALUES(3, 'x')")
        assert len(spooled(path)) >= 2
        assert running.told("cannot be reached")
        store.is_down = False
        # A process that has ended is seen to be dead; here it is this one, so say it for it.
        lease = read_newest_lease(store)
        assert lease is not None
        store.put("lease/00000001", encode_document(b"LEAS", replace(lease, released=True)))
        app.run("INSERT INTO t VALUES(4, 'x')")
        capture_once(store, path)
    assert counts(store) == [0, 1, 2, 3, 4]
    assert {record.kind for record in records(store)[1:]} == {CommitKind.COMMIT}
    assert not spooled(path)


def test_once_says_when_it_could_only_spool(store: FaultyStore, path: Path) -> None:
    """Then the run failed for whoever relies on it, and the next one makes it good."""
    with App(path, *WAL) as app:
        capture_once(store, path)
        app.run("INSERT INTO t VALUES(1, 'x')")

        def fail_at_log(key: str, data: bytes) -> None:
            if key.startswith("log/"):
                raise StoreUnusable("the store cannot be reached", detail="It was switched off.")
            MemoryStore.put_new(store, key, data)

        store.put_new = fail_at_log  # type: ignore[method-assign]
        with pytest.raises(StoreUnusable, match="did not take everything"):
            capture_once(store, path)
        del store.put_new
        capture_once(store, path)
    assert counts(store) == [0, 1]
    assert records(store)[-1].kind is CommitKind.COMMIT


def test_full_spool_lets_the_source_go_and_comes_back_with_a_gap(
    store: FaultyStore, path: Path
) -> None:
    """Past the limit production's WAL may be restarted; later one page difference makes it good."""
    options = CaptureOptions(poll_seconds=0.02, flush_seconds=0.02, spool_bytes_max=20_000)
    with App(path, *WAL) as app, capturing(store, path, options=options) as running:
        running.wait_for_value(COUNT, 0)
        store.is_down = True
        number = 0
        while not running.told("the spool is full", Level.ERROR):
            number += 1
            app.run("INSERT INTO t VALUES(?, hex(randomblob(2000)))", number)
            time.sleep(0.005)
        # Nobody reads any more: the application may do with its WAL what it likes.
        running.wait(lambda: app.run("PRAGMA wal_checkpoint(TRUNCATE)")[0][0] == 0)
        for more in range(number + 1, number + 6):
            app.run("INSERT INTO t VALUES(?, 'x')", more)
        assert sum(item.stat().st_size for item in spooled(path)) < 60_000
        store.is_down = False
        running.wait_for_value(COUNT, number + 5)
        app.run("INSERT INTO t VALUES(?, 'x')", number + 6)
        running.wait_for_value(COUNT, number + 6)
    found = records(store)
    gaps = [record for record in found if record.kind is CommitKind.GAP]
    assert len(gaps) == 1
    assert gaps[0].time_begin_us >= found[gaps[0].number - 2].time_begin_us
    before = [
        value(image, COUNT) for record, image in states(store) if record.number < gaps[0].number
    ]
    assert before == list(range(len(before)))


def test_store_that_is_down_from_the_start_is_an_error(store: FaultyStore, path: Path) -> None:
    """Nothing can be known about the archive: capture does not begin, and says why."""
    store.is_down = True
    with App(path, *WAL), pytest.raises(StoreUnusable):
        capture_once(store, path)


# ---- idle ----------------------------------------------------------------------------------------


def test_idle_capture_writes_nothing_but_its_lease(store: FaultyStore, path: Path) -> None:
    """No data objects; the lease at most once in its interval, and it says: current until now."""
    with App(path, *WAL) as app, capturing(store, path) as running:
        app.run("INSERT INTO t VALUES(1, 'x')")
        running.wait_for_value(COUNT, 1)
        time.sleep(0.2)
        before = list(store.written)
        time.sleep(0.5)
        assert store.written == before
    lease = read_newest_lease(store)
    assert lease is not None
    assert lease.released
    assert lease.head_commit == 2
    assert lease.current_until_us > records(store)[-1].time_end_us + 500_000


def test_lease_of_an_idle_capture_is_renewed(
    store: FaultyStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With intervals of a fifth of a second instead of a minute: one overwrite in each."""
    monkeypatch.setattr("pitr.archive.lease.RENEW_SECONDS", 0.2)
    monkeypatch.setattr("pitr.archive.outbox._IDLE_SECONDS", 0.02)
    with App(path, *WAL), capturing(store, path):
        time.sleep(0.1)
        before = len(store.written)
        time.sleep(1.0)
        written = store.written[before:]
    assert set(written) == {"lease/00000001"}
    assert 3 <= len(written) <= 5


# ---- locks ---------------------------------------------------------------------------------------


def _watch_opens(watched: Callable[[str], bool]) -> list[str]:
    """Return a list that every later open() of a watched name in this process is added to."""
    opens: list[str] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            name = os.fsdecode(arguments[0])
            if watched(name):
                opens.append(name)

    sys.addaudithook(hook)
    return opens


def test_capturing_process_opens_database_and_index_once(path: Path, store: FaultyStore) -> None:
    """Closing a second descriptor of either would drop SQLite's locks: there never is one."""
    opens = _watch_opens(lambda name: name in (str(path), f"{path}-shm"))
    options = CaptureOptions(poll_seconds=0.01, flush_seconds=0.02, reset_frames=100)
    with App(path, *WAL) as app, capturing(store, path, options=options) as running:
        running.wait_for_value(COUNT, 0)
        first = list(opens)
        for number in range(1, 400):
            app.run("INSERT INTO t VALUES(?, zeroblob(3000))", number)
            if number % 100 == 0:
                app.run("PRAGMA wal_checkpoint(TRUNCATE)")
        running.wait_for_value(COUNT, 399)
        assert sorted(opens) == sorted(first) == [str(path), f"{path}-shm"]
    assert newest_value(store, COUNT) == 399


_HOLDERS = """
import fcntl, os, struct, sys
flock = struct.Struct("hhqqi")
def holder(name, begin, length):
    asked = flock.pack(fcntl.F_WRLCK, os.SEEK_SET, begin, length, 0)
    descriptor = os.open(name, os.O_RDWR)
    return flock.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[4]
path = sys.argv[1]
print(holder(path, 0x40000002, 510), holder(path + "-shm", 123, 5), holder(path + "-shm", 128, 1))
"""


def test_locks_of_capture_are_held_whatever_it_reads(path: Path, store: FaultyStore) -> None:
    """Seen from another process: the file's, a read mark's, and that of being connected."""
    options = CaptureOptions(poll_seconds=0.01, flush_seconds=0.02, reset_frames=50)
    with App(path, *WAL) as app, capturing(store, path, options=options) as running:
        for number in range(1, 200):
            app.run("INSERT INTO t VALUES(?, 'x')", number)
        running.wait_for_value(COUNT, 199)
        app.close()
        command = [sys.executable, "-c", _HOLDERS, str(path)]
        holders = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert holders.split() == [str(os.getpid())] * 3
        assert path.with_name("app.db-wal").exists()


def test_options_have_the_documented_defaults() -> None:
    """Poll every 250 ms, flush every second, spool at most a gibibyte."""
    options = CaptureOptions()
    assert (options.poll_seconds, options.flush_seconds) == (0.25, 1.0)
    assert options.spool_bytes_max == 1 << 30
    assert FAST.poll_seconds < options.poll_seconds
