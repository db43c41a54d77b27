"""Capture that begins again, ends, or must not run: how the archive and the source are left.

Method: real applications in processes of their own; between two captures they write, close, crash,
or a copy is put back. The archive is read back commit by commit and asked by SQL.
"""

from __future__ import annotations

import struct
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pitr.archive.document import encode_document
from pitr.archive.lease import read_newest_lease
from pitr.errors import ArchiveHeld, SourceUnusable
from pitr.sqlite.capture.session import CaptureOptions
from pitr.sqlite.pagelog.segment import CommitKind
from pitr.sqlite.pagelog.verify import verify_archive
from pitr.vocabulary.event import Level
from tests.memory_store import MemoryStore
from tests.sqlite.capture_world import (
    App,
    AppError,
    capture_once,
    capturing,
    copy_file,
    newest_value,
    read_file,
    records,
    states,
    value,
)

COUNT = "SELECT count(*) FROM t"
WAL = ("PRAGMA journal_mode=WAL", "CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


def kinds(store: MemoryStore) -> list[CommitKind]:
    return [record.kind for record in records(store)]


def counts(store: MemoryStore) -> list[int]:
    """The number of rows after each archived commit."""
    return [value(image, COUNT) for _, image in states(store)]


# ---- starting again ------------------------------------------------------------------------------


def test_restart_over_the_same_wal_continues_commit_by_commit(
    store: MemoryStore, path: Path
) -> None:
    """As long as the WAL still has it, what was committed meanwhile is archived one by one."""
    with App(path, *WAL) as app:
        for number in range(1, 4):
            capture_once(store, path)
            app.run("INSERT INTO t VALUES(?, 'x')", 2 * number)
            app.run("INSERT INTO t VALUES(?, 'x')", 2 * number + 1)
        events = capture_once(store, path)
    assert counts(store) == list(range(7))
    assert set(kinds(store)[1:]) == {CommitKind.COMMIT}
    assert any("goes on after commit:5" in event.message for event in events)


def test_restart_after_nothing_happened_records_nothing(store: MemoryStore, path: Path) -> None:
    """Also when the WAL is gone, and also time and again."""
    with App(path, *WAL) as app:
        app.run("INSERT INTO t VALUES(1, 'x')")
        capture_once(store, path)
        capture_once(store, path)
    before = [info.key for info in store.list("log/")]
    with App(path) as app:  # the last connection to be closed removes the WAL
        app.run(COUNT)
    assert not path.with_name("app.db-wal").exists()
    capture_once(store, path)
    with capturing(store, path):
        time.sleep(0.1)
    assert [info.key for info in store.list("log/")] == before
    assert len(records(store)) == 1


@pytest.mark.parametrize("is_removed", [True, False])
def test_restart_after_the_archive_lost_commits_takes_a_base(
    store: MemoryStore, path: Path, is_removed: bool
) -> None:
    """Production stays captured; what was lost is still told, until it is pruned."""
    with App(path, *WAL) as app:
        for number in range(1, 4):
            app.run("INSERT INTO t VALUES(?, 'x')", number)
            capture_once(store, path)
        second = [info.key for info in store.list("log/")][1]
        data = store.get(second)
        store.delete(second)
        if not is_removed:
            store.put_new(second, data[:-40] + bytes(40))

        events = capture_once(store, path)
        app.run("INSERT INTO t VALUES(4, 'x')")
        assert any("goes on after commit:4" in one.message for one in capture_once(store, path))

    told = [event.message for event in events if event.level is Level.WARNING]
    assert "the archived state of commit:3 cannot be read: a new base follows it" in told
    found = [(record.kind, value(image, COUNT)) for record, image in states(store, begin=4)]
    assert found == [(CommitKind.BASE, 3), (CommitKind.COMMIT, 4)]
    report = verify_archive(store)
    assert report.holes == (((2, 2),) if is_removed else ())
    assert [key for key, _ in report.damaged] == ([] if is_removed else [second])
    assert report.last_good_commit == 1


def test_restart_after_the_wal_is_gone_records_one_gap(store: MemoryStore, path: Path) -> None:
    """A small change to a larger database costs a small object: never a second whole image."""
    with App(path, *WAL) as app:
        app.run(
            "WITH RECURSIVE n(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM n WHERE x<1000)"
            " INSERT INTO t SELECT x, randomblob(2000) FROM n"
        )
        capture_once(store, path)
    with App(path) as app:
        app.run("INSERT INTO t VALUES(2000, 'missed')")
        app.run("INSERT INTO t VALUES(2001, 'missed')")
    assert not path.with_name("app.db-wal").exists()
    events = capture_once(store, path)
    found = records(store)
    assert [record.kind for record in found] == [CommitKind.BASE, CommitKind.GAP]
    assert found[1].time_begin_us >= found[0].time_end_us
    assert any(event.level is Level.WARNING and "missed" in event.message for event in events)
    sizes = [info.size for info in store.list("log/")]
    assert sizes[1] < sizes[0] / 50
    assert newest_value(store, COUNT) == 1002
    with App(path) as app, capturing(store, path) as running:
        app.run("DELETE FROM t WHERE a = 2001")
        running.wait_for_value(COUNT, 1001)
    assert records(store)[-1].fork == 0


def test_copy_put_back_while_stopped_begins_a_fork(store: MemoryStore, path: Path) -> None:
    """Production that fell behind the archive is recognised; what was archived stays."""
    copy = path.with_name("copy.db")
    with App(path, *WAL) as app:
        app.run("INSERT INTO t VALUES(1, 'old')")
    copy_file(path, copy)
    with App(path) as app:
        for number in range(2, 5):  # growth alters page 1, and with it the change counter
            app.run("INSERT INTO t VALUES(?, zeroblob(5000))", number)
    capture_once(store, path)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    copy_file(copy, path)
    events = capture_once(store, path)
    found = records(store)
    assert [record.kind for record in found] == [CommitKind.BASE, CommitKind.FORK]
    assert [record.fork for record in found] == [0, 1]
    assert counts(store) == [4, 1]
    assert any("fork 1 begins" in event.message for event in events)


def test_power_loss_that_takes_commits_back_begins_a_fork(store: MemoryStore, path: Path) -> None:
    """The WAL of the same generation, but shorter than what was archived from it."""
    wal = path.with_name("app.db-wal")
    app = App(path, *WAL, "PRAGMA wal_autocheckpoint=0")
    app.run("INSERT INTO t VALUES(1, 'durable')")
    length = wal.stat().st_size
    app.run("INSERT INTO t VALUES(2, 'lost')")
    capture_once(store, path)
    app.kill()
    with wal.open("r+b") as file:
        file.truncate(length)
    path.with_name("app.db-shm").unlink()
    # `capture_once` has copied the WAL back; the lost commit must not be there either.
    _take_back(path, wal)
    capture_once(store, path)
    assert kinds(store) == [CommitKind.BASE, CommitKind.FORK]
    assert counts(store) == [2, 1]


def _take_back(path: Path, wal: Path) -> None:
    """Write the pages of the WAL over those of the database file, as a checkpoint would."""
    data = wal.read_bytes()
    with path.open("r+b") as file:
        for begin in range(32, len(data), 4120):
            (number,) = struct.unpack_from(">I", data, begin)
            file.seek((number - 1) * 4096)
            file.write(data[begin + 24 : begin + 4120])


def test_copy_moved_over_the_running_source_is_noticed(store: MemoryStore, path: Path) -> None:
    """Another file under the same name, while capture holds the old one open."""
    copy = path.with_name("copy.db")
    with App(path, *WAL) as app:
        app.run("INSERT INTO t VALUES(1, 'old')")
    copy_file(path, copy)
    with App(path) as app:
        for number in range(2, 5):
            app.run("INSERT INTO t VALUES(?, zeroblob(5000))", number)
    with capturing(store, path) as running:
        running.wait_for_value(COUNT, 4)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        copy.rename(path)
        running.wait_for_value(COUNT, 1)
        with App(path) as app:
            app.run("INSERT INTO t VALUES(10, 'on the fork')")
            running.wait_for_value(COUNT, 2)
    assert kinds(store) == [CommitKind.BASE, CommitKind.FORK, CommitKind.COMMIT]
    assert records(store)[-1].fork == 1


def test_page_size_change_takes_a_new_base(store: MemoryStore, path: Path) -> None:
    """Nothing of the old pages fits; a new base begins under a new fork number."""
    with App(path, *WAL) as app:
        app.run("INSERT INTO t VALUES(1, 'x')")
        capture_once(store, path)
    with App(path, "PRAGMA journal_mode=DELETE", "PRAGMA page_size=1024", "VACUUM"):
        pass
    with App(path, "PRAGMA journal_mode=WAL"), capturing(store, path) as running:
        running.wait(lambda: len(records(store)) == 2)
    found = records(store)
    assert [record.kind for record in found] == [CommitKind.BASE, CommitKind.BASE]
    assert found[1].fork == 1
    assert newest_value(store, COUNT) == 1
    capture_once(store, path)
    assert len(records(store)) == 2


# ---- leaving -------------------------------------------------------------------------------------


def test_stop_leaves_the_database_file_complete_and_the_wal_in_place(
    store: MemoryStore, path: Path
) -> None:
    """A copy of the file alone has everything, and the next capture still finds its position."""
    app = App(path, *WAL, "PRAGMA wal_autocheckpoint=0")
    with capturing(store, path) as running:
        app.run("INSERT INTO t VALUES(1, 'x')")
        app.close()  # not the last connection: ours is still there
        running.wait_for_value(COUNT, 1)
    assert path.with_name("app.db-wal").stat().st_size
    assert value(read_file(path), COUNT) == 1
    with App(path) as app:
        app.run("INSERT INTO t VALUES(2, 'x')")
        capture_once(store, path)
    assert kinds(store) == [CommitKind.BASE, CommitKind.COMMIT, CommitKind.COMMIT]


def test_commits_up_to_the_stop_are_archived(store: MemoryStore, path: Path) -> None:
    """Stopping reads the source once more and stores what is pending."""
    options = CaptureOptions(poll_seconds=60, flush_seconds=60)
    with App(path, *WAL) as app, capturing(store, path, options=options):
        app.run("INSERT INTO t VALUES(1, 'x')")
        app.run("INSERT INTO t VALUES(2, 'x')")
    assert counts(store) == [0, 1, 2]


def test_schema_and_settings_of_the_source_stay_as_they_were(
    store: MemoryStore, path: Path
) -> None:
    """No table, no setting, no page of the database is ours."""
    with App(path, *WAL, "INSERT INTO t VALUES(1, 'x')"):
        pass
    before = read_file(path)
    with capturing(store, path):
        time.sleep(0.1)
    assert read_file(path) == before


def test_leaving_wal_mode_has_to_wait_for_the_end_of_capture(
    store: MemoryStore, path: Path
) -> None:
    """As with any other open connection, SQLite refuses the change; afterwards it works."""
    with App(path, *WAL) as app:
        with capturing(store, path) as running:
            with pytest.raises(AppError, match="locked"):
                app.run("PRAGMA journal_mode=DELETE")
            app.run("INSERT INTO t VALUES(1, 'x')")
            running.wait_for_value(COUNT, 1)
        assert app.run("PRAGMA journal_mode=DELETE") == [["delete"]]


# ---- who else -----------------------------------------------------------------------------------


def test_second_capture_of_one_archive_is_refused(store: MemoryStore, path: Path) -> None:
    """And says who holds it."""
    with App(path, *WAL), capturing(store, path), pytest.raises(ArchiveHeld, match="pid"):
        capture_once(store, path)


def test_capture_that_lost_its_lease_stops(
    store: MemoryStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever took the archive over is not disturbed."""
    monkeypatch.setattr("pitr.archive.lease.RENEW_SECONDS", 0)
    with App(path, *WAL) as app, capturing(store, path) as running:
        ours = read_newest_lease(store)
        assert ours is not None
        store.put("lease/00000002", encode_document(b"LEAS", replace(ours, epoch=2)))
        app.run("INSERT INTO t VALUES(1, 'x')")
        with pytest.raises(AssertionError):
            running.wait(lambda: False)
        assert isinstance(running.failure, ArchiveHeld)
        running.failure = None


def test_exclusive_locking_is_refused(
    store: MemoryStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be read is said, not waited for without end."""
    monkeypatch.setattr("pitr.sqlite.capture.handover.BUSY_ATTEMPTS", 2)
    with App(path, *WAL) as app:
        app.run("PRAGMA locking_mode=EXCLUSIVE")
        app.run("INSERT INTO t VALUES(1, 'x')")
        with pytest.raises(SourceUnusable, match="locked"):
            capture_once(store, path)


def test_empty_file_is_waited_for(store: MemoryStore, path: Path) -> None:
    """Capture may be started before the application has created its first table."""
    path.touch()
    assert capture_once(store, path)
    assert not records_exist(store)
    with App(path) as app:

        def create() -> None:
            time.sleep(0.2)
            for statement in (*WAL, "INSERT INTO t VALUES(1, 'x')"):
                app.run(statement)

        thread = threading.Thread(target=create)
        thread.start()
        with capturing(store, path) as running:
            thread.join()
            running.wait_for_value(COUNT, 1)


def records_exist(store: MemoryStore) -> bool:
    return any(True for _ in store.list("log/"))
