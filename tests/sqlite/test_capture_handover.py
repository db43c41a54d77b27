"""The hand-over at its narrow places: what happens between two steps of the follower.

Method: the follower is driven by hand, and an application acts exactly between two calls. What is
handed on must be every commit, or the follower must say that it cannot know.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.clock import now_us
from pitr.sqlite.capture.handover import WalFollower
from pitr.sqlite.capture.seen import Discontinuity, PollClock, SeenCommit
from pitr.sqlite.capture.source import Source
from pitr.sqlite.pagelog.segment import WalMark
from tests.sqlite.capture_world import App

WAL = ("PRAGMA journal_mode=WAL", "CREATE TABLE t(a INTEGER PRIMARY KEY, b)")


class Followed:
    """An application and the followers of its database; `seen` is what was handed on."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.seen: list[WalMark | None] = []
        self.open: list[Source] = []

    def follower(self, reset_frames: int = 4000) -> WalFollower:
        source = Source(self.app.path)
        self.open.append(source)
        return WalFollower(source, PollClock(now_us(), now_us()), 4096, reset_frames=reset_frames)

    def take(self, commit: SeenCommit) -> None:
        list(commit.pages)
        self.seen.append(commit.wal)

    def close(self) -> None:
        while self.open:
            self.open.pop().close()

    def write(self, count: int = 1) -> None:
        for _ in range(count):
            self.app.run("INSERT INTO t(b) VALUES(zeroblob(3000))")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Followed]:
    with App(tmp_path / "app.db", *WAL, "PRAGMA wal_autocheckpoint=0") as app:
        followed = Followed(app)
        yield followed
        followed.close()


def archived_mark(world: Followed) -> WalMark:
    """The position that an earlier capture has archived; it has ended since."""
    follower = world.follower()
    image = follower.image()
    mark = image.state([]).wal
    world.close()
    assert mark is not None
    return mark


def test_unread_frames_survive_a_restart_right_after_the_start(world: Followed) -> None:
    """Everything is copied back when capture starts, so the next writer overwrites the WAL."""
    world.write(3)
    mark = archived_mark(world)
    world.write(5)
    world.app.run("PRAGMA wal_checkpoint")
    follower = world.follower()
    assert follower.holds(mark) is True
    world.write(2)  # over the frames that nobody has handed on yet
    follower.poll(world.take)
    assert len(world.seen) == 7
    assert len({commit.salt1 for commit in world.seen if commit}) == 2


def test_wal_that_is_overwritten_before_it_is_looked_at_says_nothing(world: Followed) -> None:
    """Neither held nor a fork: only a page difference can tell."""
    world.write(3)
    mark = archived_mark(world)
    world.write(5)
    world.app.run("PRAGMA wal_checkpoint")
    follower = world.follower()
    world.write(2)
    assert follower.holds(mark) is None


def test_wal_that_was_not_read_and_is_gone_is_a_discontinuity(world: Followed) -> None:
    """Should a restart ever come between the start and the first reading, it is noticed."""
    world.write(3)
    mark = archived_mark(world)
    world.write(5)
    follower = world.follower()
    assert follower.holds(mark) is True
    follower._held.end()  # as if the lock had been lost
    world.app.run("PRAGMA wal_checkpoint(TRUNCATE)")
    world.write(2)
    with pytest.raises(Discontinuity, match="before it had been read"):
        follower.poll(world.take)


def test_commits_behind_a_lost_lock_are_missed_aloud(world: Followed) -> None:
    """The change counter of the index says that more was committed than the WAL still has."""
    follower = world.follower()
    follower.image()
    world.write(3)
    follower.poll(world.take)
    assert len(world.seen) == 3
    follower._held.end()
    world.write(4)
    world.app.run("PRAGMA wal_checkpoint(TRUNCATE)")
    world.write(2)
    with pytest.raises(Discontinuity, match="holds 2 of 6 commits"):
        follower.poll(world.take)
    assert len(world.seen) == 3


def test_image_of_a_database_that_is_copied_back_needs_no_wal(world: Followed) -> None:
    """On read lock 0 the file alone is the state, and stays it while the WAL is overwritten."""
    world.write(3)
    world.app.run("PRAGMA wal_checkpoint")
    follower = world.follower()
    world.write(4)
    image = follower.image()
    assert not image.frames
    pages = dict(image.pages())
    assert len(pages) == image.page_count
    follower.poll(world.take)
    assert len(world.seen) == 4


def test_image_takes_what_is_not_copied_back_from_the_wal(world: Followed) -> None:
    """Half copied back, half not: each page from where its newest image is."""
    world.write(3)
    follower = world.follower()
    world.write(2)
    world.app.run("PRAGMA wal_checkpoint")  # up to the follower's mark
    world.write(2)
    image = follower.image()
    assert image.frames
    before = dict(image.pages())
    follower.poll(world.take)
    assert len(world.seen) == 4
    world.close()
    with App(world.app.path) as other:
        assert other.run("SELECT count(*) FROM t") == [[7]]
    assert before[1][:16] == b"SQLite format 3\0"


def test_letting_go_waits_until_it_may(world: Followed) -> None:
    """What is not durable elsewhere stays in the WAL, checkpoint or not."""
    follower = world.follower()
    follower.image()
    world.write(3)
    follower.poll(world.take, may_let_go=False)
    world.app.run("PRAGMA busy_timeout=0")
    world.app.run("PRAGMA wal_checkpoint(FULL)")
    follower.poll(world.take, may_let_go=False)
    assert world.app.run("PRAGMA wal_checkpoint(TRUNCATE)")[0][0] == 1
    follower.poll(world.take, may_let_go=True)
    assert world.app.run("PRAGMA wal_checkpoint(TRUNCATE)")[0][0] == 0


def test_barrier_gives_way_to_a_long_transaction(world: Followed) -> None:
    """The write lock is asked for, not waited for: the next poll tries again."""
    follower = world.follower(reset_frames=2)
    follower.image()
    world.write(5)
    world.app.run("PRAGMA busy_timeout=0")
    with App(world.app.path) as reader:
        reader.run("BEGIN")
        reader.run("SELECT count(*) FROM t")
        world.app.run("BEGIN IMMEDIATE")
        began = time.monotonic()
        follower.poll(world.take)
        assert time.monotonic() - began < 1.0
        assert len(world.seen) == 5
        world.app.run("INSERT INTO t(b) VALUES('x')")
        world.app.run("COMMIT")
        reader.run("COMMIT")
    follower.poll(world.take)
    assert len(world.seen) == 6
    world.write()
    follower.poll(world.take)
    assert [mark.frame for mark in world.seen if mark][-1] < 5
