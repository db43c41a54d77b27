"""Follow a WAL database commit by commit from another process, without writing to it.

Two read transactions take turns. While one is held, the other is begun; what lies between is read
before the first is ended. So at every moment either the WAL cannot be restarted, or everything in
it has been read:

    held with a mark (read lock 1 to 4)   no restart is possible
    held on read lock 0                   it was taken when nBackfill = mxFrame, and everything up
                                          to there was read while the other one was still held. A
                                          restart is harmless, and no second one can swallow
                                          anything, since lock 0 blocks copying back

Under steady writes nobody ever finds nBackfill = mxFrame, and the WAL grows. Past a threshold the
write lock is taken for a moment (`_reset`), so that the next writer restarts the WAL.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

import apsw

from pitr.clock import now_us
from pitr.errors import CorruptDatabase
from pitr.sqlite.capture.difference import LiveImage
from pitr.sqlite.capture.seen import Discontinuity, Interval, PollClock, SeenCommit, Sink
from pitr.sqlite.capture.source import BUSY_ATTEMPTS, ReadTransaction, Source, attempt, locked
from pitr.sqlite.capture.wal_reader import Run, WalReader
from pitr.sqlite.pagelog.pagemap import CurrentPages
from pitr.sqlite.pagelog.segment import WalMark
from pitr.sqlite.wal.frame import FRAME_HEADER_BYTES, UNSEALED
from pitr.sqlite.wal.index import WalIndex

# From this size on the WAL is to be restarted, by force if no quiet moment comes.
RESET_FRAMES = 4000
# Beyond this the WAL endangers production's disk: capture gives up single commits for a moment, and
# lets writers wait for longer, so that it restarts. Takes writers that are faster than capture.
WAL_BYTES_MAX = 1 << 30
_FOLDED_BYTES_MIN = 64 << 20
# In a quiet moment a restart costs no writer anything: soon at the size at which SQLite's own
# automatic checkpoint would have allowed it, had nobody been reading; after a while at any size.
_QUIET_RESET_FRAMES = 1000
_QUIET_SECONDS = 1.0
_REST_SECONDS = 10.0
# So many unread frames are read within the moment for which the write lock may be held.
_NEAR_BYTES = 16 << 20
# What may be read into memory at once, to be handed on when the WAL is free.
_TAKEN_BYTES_MAX = 256 << 20

# How long another process's checkpoint is waited for, and how often it is looked for.
_CHECKPOINT_SECONDS = 0.05
_CHECKPOINT_PAUSE_SECONDS = 0.0005

# How frames are taken out of the WAL up to an index, all of them seen within an interval.
Take = Callable[[WalIndex, Interval], None]


class WalFollower:
    """The reader of one WAL database. Every method may raise Discontinuity or SourceUnusable."""

    def __init__(
        self,
        source: Source,
        clock: PollClock,
        page_size: int,
        *,
        reset_frames: int = RESET_FRAMES,
        wal_bytes_max: int = WAL_BYTES_MAX,
    ) -> None:
        """Connect and begin the first read transaction.

        From `reset_frames` on the WAL is made to restart; beyond `wal_bytes_max` at any price but
        a wrong state.
        """
        self._source = source
        self._clock = clock
        self._reset_frames = reset_frames
        self._wal_bytes_max = wal_bytes_max
        self._held = ReadTransaction(source)
        self._spare = ReadTransaction(source)
        self._quiet: bytes | None = None
        self._quiet_since = 0.0
        self._has_landed = False
        self._left: Run | None = None
        self._hold_begun_us = now_us()
        self._seen = self._hold()
        self._hold_ended_us = now_us()
        self._checkpointer = source.connect_to_wal()
        self._barrier = source.connect(writable=True)
        self._reader = WalReader(source, page_size)
        self.page_size = page_size

    def _hold(self) -> WalIndex:
        """Begin reading and return the index as it was after that."""
        for _ in range(BUSY_ATTEMPTS):
            try:
                self._held.begin()
            except (apsw.BusyError, apsw.LockedError):
                continue  # the connection has waited already
            index = self._source.index()
            if index is not None:
                return index
            self._held.end()
            header = self._source.header()
            if header is None or not header.is_wal:
                raise Discontinuity("the journal mode was changed", is_coarse=True)
        raise locked(self._source.path)

    # --- where to begin ----------------------------------------------------------------------

    def holds(self, mark: WalMark | None) -> bool | None:
        """Return whether the WAL still contains the archived position `mark`, and go there.

        None when nothing can be said: the WAL is of another generation.
        """
        index = self._seen
        if mark is None or (mark.salt1, mark.salt2) != index.salts:
            return None
        if mark.frame > index.max_frame:
            return False
        try:
            self._reader.go_to(mark.frame)
            is_held = self._reader.mark == mark
            if is_held and index.is_backfilled:
                # Then this may be read lock 0, and a writer may restart the WAL under our reading:
                # what is in it has to be had in one piece, verified to its end.
                self._left = self._reader.run(index.max_frame)
                self._check_end(index)
        except (Discontinuity, CorruptDatabase):
            return None
        now = self._source.index()
        return is_held if is_held or (now and now.salts == index.salts) else None

    def image(self) -> LiveImage:
        """Return the whole state under the first read transaction, and go on from there."""
        index = self._seen
        frames: dict[int, int] = {}
        if index.is_backfilled:
            self._reader.go_to_end(index)
        else:
            self._reader.go_to(index.backfilled)
            frames, _ = self._reader.newest_frames(index.max_frame)
            self._check_end(index)
        interval = self._clock.interval(self._hold_begun_us, self._hold_ended_us)
        # An index that was made over an empty WAL knows no sizes.
        page_count = index.page_count or self._source.size // self.page_size
        return LiveImage(self._source, interval, self.page_size, page_count, frames, self._reader)

    def follow(self, _known: CurrentPages) -> None:
        """Begin to follow. What the archive holds does not matter, the WAL says what is new."""

    # --- following ---------------------------------------------------------------------------

    def poll(self, sink: Sink, *, may_let_go: bool = True) -> None:
        """Hand every commit that is published by now to `sink`, in order.

        `may_let_go` says that all handed on so far is durable elsewhere, so that the WAL may be
        restarted. A WAL of twice the threshold is restarted in any case.
        """
        before_us = now_us()
        if self._left is not None:
            self._hand_on([self._left], self._clock.interval(before_us), sink)
            self._left = None
        if self._source.index_bytes() == self._quiet:
            self._clock.interval(before_us)
            self._use_quiet(sink, may_let_go=may_let_go)
            return
        self._quiet = None
        self._advance(self._to(sink))
        if self._seen.is_backfilled and not may_let_go:
            return
        self._swap(self._to(sink))
        threshold = self._reset_frames if may_let_go else 2 * self._reset_frames
        if self._seen.max_frame >= threshold and not self._has_landed and self._can_take_rest():
            self._reset(sink)
        self._settle()

    def _settle(self) -> None:
        """Remember the index as one that asks for nothing, if it is."""
        data = self._source.index_bytes()
        index = self._source.index()
        if index == self._seen and (self._has_landed or not index.is_backfilled):
            self._quiet = data
            self._quiet_since = time.monotonic()

    def _use_quiet(self, sink: Sink, *, may_let_go: bool) -> None:
        """Let the WAL restart when nobody writes, and so nobody is in the way."""
        if self._has_landed or not may_let_go:
            return
        quiet_seconds = time.monotonic() - self._quiet_since
        is_long = self._seen.max_frame >= _QUIET_RESET_FRAMES
        if quiet_seconds >= (_QUIET_SECONDS if is_long else _REST_SECONDS):
            self._quiet = None
            self._checkpoint()
            self._swap(self._to(sink))
            self._settle()

    @property
    def can_be_awaited(self) -> bool:
        """Return whether anybody could be made to wait: not on read lock 0."""
        return not self._has_landed

    def is_awaited(self) -> bool:
        """Return whether a checkpoint, and with it every writer, may be waiting for this reader.

        Costs two system calls; asked more often than the source is polled.
        """
        return self.can_be_awaited and self._source.is_checkpointer_waiting()

    def _swap(self, take: Take) -> None:
        """Begin the other read transaction, take up to the newest commit, end the first one."""
        before = self._source.index()
        try:
            self._spare.begin()
        except (apsw.BusyError, apsw.LockedError):
            return
        after = self._advance(take)
        if after is None:
            self._spare.end()
            return
        self._held.end()
        self._held, self._spare = self._spare, self._held
        self._has_landed = before == after and after.is_backfilled

    def _advance(self, take: Take) -> WalIndex | None:
        """Take what lies between the position and the newest commit.

        Returns the index as it was read, None when it cannot be: after a writer died while it
        published. Whoever begins to read next mends it, and the caller does.
        """
        before_us = now_us()
        index = self._source.index()
        interval = self._clock.interval(before_us)
        if index is None:
            return None
        if index.max_frame:
            try:
                if index.salts != self._reader.salts:
                    self._change_generation(index)
                take(index, interval)
            except CorruptDatabase as error:
                raise Discontinuity(f"{error.message}: {error.detail}") from error
            self._check_end(index)
        self._seen = index
        return index

    def _hand_on(self, runs: Iterable[Run], interval: Interval, sink: Sink) -> None:
        for page_count, mark, pages in self._reader.commits(runs):
            sink(SeenCommit(interval, page_count, pages, mark))

    def _to(self, sink: Sink) -> Take:
        """Return the way of taking that hands on commit by commit."""

        def take(index: WalIndex, interval: Interval) -> None:
            if self._is_huge(index) and self._unread_bytes(index) > _FOLDED_BYTES_MIN:
                self._fold(index, interval, sink)
            else:
                self._hand_on(self._reader.runs(index.max_frame), interval, sink)

        return take

    def _fold(self, index: WalIndex, interval: Interval, sink: Sink) -> None:
        """Hand on all that is unread as one state, each page once: several times as fast."""
        newest, commits = self._reader.newest_frames(index.max_frame)
        pages = ((number, self._reader.image(newest[number])) for number in sorted(newest))
        mark = self._reader.mark
        sink(SeenCommit(interval, index.page_count, pages, mark, commits=commits))

    def _is_huge(self, index: WalIndex) -> bool:
        return index.max_frame * (FRAME_HEADER_BYTES + self.page_size) > self._wal_bytes_max

    def _unread_bytes(self, index: WalIndex) -> int:
        frames = index.max_frame - self._reader.mark.frame
        return frames * (FRAME_HEADER_BYTES + self.page_size)

    def _change_generation(self, index: WalIndex) -> None:
        reader, seen = self._reader, self._seen
        if reader.salts == seen.salts and reader.mark.frame < seen.max_frame:
            raise Discontinuity("the WAL was restarted before it had been read")
        self._reader.begin_generation()
        if self._reader.salts != index.salts:
            raise Discontinuity("the WAL and its index are of different generations")
        published = (index.change - self._seen.change) & 0xFFFFFFFF
        found = self._reader.count_commits(index.max_frame)
        if found < published:
            raise Discontinuity(
                f"the WAL was restarted and holds {found} of {published} commits since"
            )

    def _check_end(self, index: WalIndex) -> None:
        mark = self._reader.mark
        found, published = (mark.checksum1, mark.checksum2), (index.checksum1, index.checksum2)
        if mark.frame != index.max_frame or found not in (published, UNSEALED):
            raise Discontinuity(
                f"the WAL ends at frame {mark.frame} and its index at {index.max_frame}"
            )

    @property
    def unsealed_frames(self) -> int:
        """Return how many frames without checksum were met so far."""
        return self._reader.unsealed_frames

    # --- letting the WAL restart -------------------------------------------------------------

    def _reset(self, sink: Sink) -> None:
        """Bring the WAL to where the next writer restarts it.

        The bulk is read and copied back outside any lock. Then writers wait while the rest is read,
        copied back, and read lock 0 taken: milliseconds. What was read is handed on afterwards.
        Nothing is written by us but what the next checkpoint of the application would have copied.
        """
        taken: list[tuple[Run, Interval]] = []
        into = partial(self._take, taken)
        try:
            is_free = self._checkpoint()
            self._swap(into)
            if is_free and not self._has_landed and self._is_near():
                self._land_under_lock(into)
        finally:
            for run, interval in taken:
                self._hand_on([run], interval, sink)

    def _land_under_lock(self, into: Take) -> None:
        try:
            attempt(self._source.path, lambda: self._barrier.execute("BEGIN IMMEDIATE"))
        except (apsw.BusyError, apsw.LockedError):
            return  # a long transaction is going on; the next reading tries again
        try:
            self._swap(into)
            self._checkpoint()
            self._swap(into)
        finally:
            self._barrier.execute("ROLLBACK")

    def _take(self, taken: list[tuple[Run, Interval]], index: WalIndex, interval: Interval) -> None:
        """Only read the frames."""
        run = self._reader.run(index.max_frame)
        if run is not None:
            taken.append((run, interval))

    def _can_take_rest(self) -> bool:
        """Return whether what is unread by now fits into memory."""
        index = self._source.index()
        if index is None or index.salts != self._reader.salts:
            return False
        return self._unread_bytes(index) < _TAKEN_BYTES_MAX // 2

    def _is_near(self) -> bool:
        """Return whether so little is left to be read that writers may wait for it."""
        index = self._source.index()
        if index is None or index.salts != self._reader.salts:
            return False
        unread = self._unread_bytes(index)
        return unread <= (_TAKEN_BYTES_MAX // 2 if self._is_huge(index) else _NEAR_BYTES)

    def _checkpoint(self) -> bool:
        """Copy back what can be copied without waiting for a reader or a writer.

        Somebody else may be at it, above all the application itself after each of its commits:
        only a checkpoint begun after that one copies everything. Returns False when the other
        one has not ended within a moment.
        """
        patience = 10 if self._is_huge(self._seen) else 1
        end = time.monotonic() + patience * _CHECKPOINT_SECONDS
        while time.monotonic() < end:
            try:
                attempt(
                    self._source.path,
                    lambda: self._checkpointer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE),
                )
            except (apsw.BusyError, apsw.LockedError):
                time.sleep(_CHECKPOINT_PAUSE_SECONDS)
            else:
                return True
        return False

    def finish(self) -> None:
        """Leave the database file complete when nobody else has it open, as SQLite itself would.

        The connections do not checkpoint when they are closed. Without this, whoever copies the
        file of a stopped application would miss its newest commits. While an application runs it
        is left alone: the less is copied back, the longer the WAL keeps what a capture that is
        started again has not seen.
        """
        if not self._source.has_others():
            self._checkpoint()
