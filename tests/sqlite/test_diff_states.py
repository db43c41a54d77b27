"""How the live database is read: one snapshot, proven where it can be, and no trace left in it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pitr.errors import PreconditionFailed, SourceUnusable
from pitr.sqlite.diff import states as states_module
from pitr.sqlite.diff.classified import classify
from pitr.sqlite.diff.states import open_states
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.segment import WalMark
from pitr.sqlite.wal.index import WalIndex
from pitr.vocabulary.row_class import RowClass
from tests.sqlite.capture_world import App, read_file
from tests.sqlite.diff_world import WHOLE, DiffWorld, making_worlds

Make = Callable[..., DiffWorld]
TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, a)"
FILL = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {})"
ROWS = FILL.format(500) + " INSERT INTO t SELECT i, i FROM n"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a function that makes a world of the test's own."""
    with making_worlds(tmp_path) as function:
        yield function


def lost(states: states_module.States) -> int:
    (table,) = classify(states, WHOLE)
    return table.counts.get(RowClass.LOST, 0)


def test_wal_snapshot_is_the_commit_that_the_archive_has(make: Make) -> None:
    """A state is proven by its place in the WAL; one commit more, and it is not."""
    world = make(TABLE, ROWS)
    before = world.mark()
    world.run("DELETE FROM t WHERE id <= 5")
    newest = world.mark()
    with world.states(before, "t") as states:
        assert states.live_commit == newest
    world.run("DELETE FROM t WHERE id = 6")
    with world.states(before, "t") as states:
        assert states.live_commit is None
        assert lost(states) == 6


def test_wal_snapshot_is_found_when_the_archive_has_gone_on(make: Make) -> None:
    """Every archived commit is found by its place in the WAL, not only the newest."""
    world = make(TABLE, ROWS)
    world.mark()
    world.run(*(f"DELETE FROM t WHERE id = {at}" for at in range(1, 9)))
    world.mark()
    archive = PageArchive(world.store)
    for record in archive.commits():
        assert record.wal is not None
        assert states_module._find_commit(archive, place_of(record.wal), 1) == record.number
    beyond = replace(record.wal, frame=record.wal.frame + 1)
    assert states_module._find_commit(archive, place_of(beyond), 1) is None


def place_of(mark: WalMark) -> WalIndex:
    """Return the wal-index that stands at a commit."""
    return WalIndex(
        change=1,
        big_endian=False,
        page_size=4096,
        max_frame=mark.frame,
        page_count=1,
        checksum1=mark.checksum1,
        checksum2=mark.checksum2,
        salt1=mark.salt1,
        salt2=mark.salt2,
        backfilled=0,
    )


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_states_wait_for_a_capture_that_is_behind(make: Make, mode: str) -> None:
    """A commit that reaches the archive within the time is the one that live is proven to be."""
    world = make(TABLE, ROWS, mode=mode)
    before = world.mark()
    stored = {info.key for info in world.store.list()}
    world.run("DELETE FROM t WHERE id <= 5")
    newest = world.mark()
    late = {info.key: world.store.get(info.key) for info in world.store.list()}
    for key in late.keys() - stored:
        world.store.delete(key)
    sources = world.sources(before, "t")

    def archive_the_rest() -> None:
        for key in late.keys() - stored:
            world.store.put(key, late[key])

    timer = threading.Timer(0.2, archive_the_rest)
    timer.start()
    with open_states(sources, wait_seconds=10) as states:
        assert states.live_commit == newest
    timer.join()


def test_snapshot_taken_while_writers_write_is_one_state(make: Make) -> None:
    """Two tables that are always changed together are never seen apart."""
    world = make(TABLE, "CREATE TABLE u (id INTEGER PRIMARY KEY, a)", ROWS)
    world.run("INSERT INTO u SELECT * FROM t")
    before = world.mark()
    sources = world.sources(before, "t", "u")
    stop = threading.Event()
    with App(world.path) as writer:
        writing = threading.Thread(target=delete_pairs, args=(writer, stop))
        writing.start()
        try:
            for _ in range(15):
                with open_states(sources, wait_seconds=0) as states:
                    one, other = classify(states, WHOLE)
                    assert one.counts == other.counts
        finally:
            stop.set()
            writing.join()


def delete_pairs(writer: App, stop: threading.Event) -> None:
    for at in range(1, 501):
        if stop.is_set():
            return
        for statement in ("BEGIN", "DELETE FROM t WHERE id = {}", "DELETE FROM u WHERE id = {}"):
            writer.run(statement.format(at))
        writer.run("COMMIT")


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_quiet_database_is_read_without_a_trace(make: Make, mode: str) -> None:
    """With nobody connected no file is made, changed or removed."""
    world = make(TABLE, ROWS, mode=mode)
    before = world.mark()
    world.run("DELETE FROM t WHERE id <= 5")
    world.mark()
    world.app.close()
    sources = world.sources(before, "t")
    content = read_file(world.path)
    names = sorted(os.listdir(world.folder))
    with open_states(sources, wait_seconds=0) as states:
        assert lost(states) == 5
    assert sorted(os.listdir(world.folder)) == names
    assert read_file(world.path) == content


def test_quiet_wal_database_that_is_written_meanwhile_is_refused(make: Make) -> None:
    """Read as if it could not change, it is looked at again at the end."""
    world = make(TABLE, ROWS)
    before = world.mark()
    world.app.close()
    sources = world.sources(before, "t")

    def read() -> None:
        with open_states(sources, wait_seconds=0) as states:
            lost(states)
            with App(world.path) as other:
                other.run("DELETE FROM t")

    with pytest.raises(SourceUnusable, match="cannot read the live database"):
        read()


def test_rollback_journal_database_is_read_out_of_the_archive(make: Make) -> None:
    """While the archive is current, writers are not held up for a moment."""
    world = make(TABLE, ROWS, mode="DELETE")
    before = world.mark()
    world.run("DELETE FROM t WHERE id <= 5")
    newest = world.mark()
    with world.states(before, "t") as states:
        assert states.live_commit == newest
        world.run("BEGIN EXCLUSIVE", "DELETE FROM t", "COMMIT")
        assert lost(states) == 5


def test_rollback_journal_database_that_is_not_archived_is_copied(make: Make) -> None:
    """Behind the archive's back: the rows are those of a moment, and no lock is left."""
    world = make(TABLE, ROWS, mode="DELETE")
    before = world.mark()
    world.run("DELETE FROM t WHERE id <= 5")
    with world.states(before, "t") as states:
        assert states.live_commit is None
        world.run("BEGIN EXCLUSIVE", "DELETE FROM t", "COMMIT")
        assert lost(states) == 5


def test_rollback_journal_database_too_large_to_copy_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock longer than 50 ms would hold up writers; the hint says what to do."""
    monkeypatch.setattr(states_module, "LOCK_SECONDS_MAX", -1.0)
    monkeypatch.setattr(states_module, "_PAGES_A_STEP", 1)
    world = make(TABLE, ROWS, mode="DELETE")
    before = world.mark()
    world.run("DELETE FROM t WHERE id <= 5")
    with pytest.raises(PreconditionFailed) as refusal, world.states(before, "t"):
        pass
    assert "pitr capture --once" in (refusal.value.hint or "")
    world.run("DELETE FROM t WHERE id = 6")  # nothing holds a lock


def test_wal_without_its_shared_memory_is_refused(make: Make) -> None:
    """What a killed application left behind is not recovered by a reader."""
    world = make(TABLE, ROWS)
    before = world.mark()
    world.run("DELETE FROM t WHERE id <= 5")
    sources = world.sources(before, "t")
    copy = world.folder / "copy.db"
    shutil.copy(world.path, copy)
    shutil.copy(f"{world.path}-wal", f"{copy}-wal")
    object.__setattr__(sources, "live", copy)
    with pytest.raises(SourceUnusable, match="cannot read"), open_states(sources):
        pass
    assert not Path(f"{copy}-shm").exists()


def test_missing_live_database_is_named(make: Make) -> None:
    """The file that is not there, and what to do."""
    world = make(TABLE, ROWS)
    sources = world.sources(world.mark(), "t")
    object.__setattr__(sources, "live", world.folder / "gone.db")
    with pytest.raises(SourceUnusable, match=r"gone\.db"), open_states(sources):
        pass
