"""Follow a rollback-journal database by page differences.

There is no log of what was done, so what is seen is one state after the other: all commits between
two readings count as one. The change counter in the file's header says when to look; while the
pages are compared a SHARED lock is held, and writers wait with their commit.
"""

from __future__ import annotations

import apsw

from pitr.clock import now_us
from pitr.sqlite.capture.difference import LiveImage, differing_pages
from pitr.sqlite.capture.seen import Discontinuity, PollClock, Sink
from pitr.sqlite.capture.source import BUSY_ATTEMPTS, ReadTransaction, Source, locked
from pitr.sqlite.pagelog.pagemap import CurrentPages
from pitr.sqlite.pagelog.segment import WalMark


class JournalFollower:
    """The reader of one rollback-journal database. Methods may raise Discontinuity."""

    def __init__(self, source: Source, clock: PollClock, page_size: int) -> None:
        self._source = source
        self._clock = clock
        self._reading = ReadTransaction(source)
        self._known: CurrentPages | None = None
        self._change_counter = -1
        self.page_size = page_size

    def holds(self, _mark: WalMark | None) -> bool | None:
        """Return None: nothing in the file tells whether it is as the archive left it."""
        return None

    def image(self) -> LiveImage:
        """Return the whole state, under a SHARED lock that `follow` lets go."""
        for _ in range(BUSY_ATTEMPTS):
            found = self._image()
            if found is not None:
                return found
        raise locked(self._source.path)

    def _image(self) -> LiveImage | None:
        before_us = now_us()
        try:
            self._reading.begin()
        except (apsw.BusyError, apsw.LockedError):
            return None
        interval = self._clock.interval(before_us)
        # Only under the lock the header belongs to the pages, and the mode cannot change.
        header = self._source.header()
        if header is None or header.is_wal or header.page_size != self.page_size:
            self._reading.end()
            raise Discontinuity("the journal mode or the page size was changed", is_coarse=True)
        self._change_counter = header.change_counter
        page_count = header.page_count or self._source.size // header.page_size
        return LiveImage(
            self._source,
            interval,
            header.page_size,
            page_count,
            frames={},
            change_counter=header.change_counter,
        )

    def follow(self, known: CurrentPages) -> None:
        """Let go of the lock; from now on `known` is what the archive holds."""
        self._reading.end()
        self._known = known

    def poll(self, sink: Sink, *, may_let_go: bool = True) -> None:
        """Hand the present state to `sink` if anything was committed since the last one."""
        assert self._known is not None, "poll comes after follow"
        before_us = now_us()
        header = self._source.header()
        if header is None or header.is_wal or header.page_size != self.page_size:
            raise Discontinuity("the journal mode or the page size was changed", is_coarse=True)
        if header.change_counter == self._change_counter:
            self._clock.interval(before_us)
            return
        image = self._image()
        if image is not None:
            try:
                sink(image.state(differing_pages(image, self._known)))
            finally:
                self._reading.end()

    # Between two polls no lock is held; and there is no WAL.
    can_be_awaited = False
    unsealed_frames = 0

    def is_awaited(self) -> bool:
        """Return whether anybody waits for this reader: nobody does."""
        return False

    def finish(self) -> None:
        """Leave nothing behind; there is nothing."""
