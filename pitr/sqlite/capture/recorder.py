"""Write what capture sees into the archive: number it, bundle it, map it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain

from pitr.sqlite.capture.seen import SeenCommit
from pitr.sqlite.pagelog.pagemap import CurrentPages, encode_map
from pitr.sqlite.pagelog.segment import CommitKind, CommitRecord, SegmentWriter, page_digest

# A page map is due when reading the index of the log since the last one costs as much as the map.
_MAP_ENTRIES_MIN = 4096


class Recorder:
    """The writing end of one archive under one lease."""

    def __init__(
        self,
        emit: Callable[[str, bytes], None],
        current: CurrentPages,
        *,
        lease: int,
        number: int,
        end_us: int,
        fork: int,
        entries_since_map: int,
        flush_seconds: float,
        bytes_max: int,
    ) -> None:
        """Go on after commit `number`, which ended at `end_us` with the state `current`."""
        self._emit = emit
        self._lease = lease
        self._is_open = False
        self._flush_seconds = flush_seconds
        self._bytes_max = bytes_max
        self._entries_since_map = entries_since_map
        self._unflushed_since: float | None = None
        self.current = current
        self.number = number
        self.end_us = end_us
        self.fork = fork
        self._writer = self._new_writer()

    def _new_writer(self) -> SegmentWriter:
        return SegmentWriter(
            self._emit,
            page_size=self.current.page_size,
            lease=self._lease,
            chain=self.current.chain,
            bytes_max=self._bytes_max,
        )

    def commit(self, seen: SeenCommit) -> None:
        """Record a commit, or as many as were folded into one state."""
        self._record(CommitKind.COMMIT if seen.commits == 1 else CommitKind.MERGED, seen)

    def difference(self, kind: CommitKind, seen: SeenCommit) -> CommitRecord | None:
        """Record a state by the pages that differ from the newest one; None when none does."""
        pages = iter(seen.pages)
        first = next(pages, None)
        if first is None and seen.page_count == self.current.page_count:
            return None
        if kind is CommitKind.FORK:
            self.fork += 1
        return self._record(kind, replace(seen, pages=chain([first] if first else [], pages)))

    def base(self, seen: SeenCommit, page_size: int) -> CommitRecord:
        """Record a whole state, and a page map of it; all but the first under a new fork number."""
        self.flush()
        before, self.current = self.current, CurrentPages(page_size)
        self.current.chain = before.chain
        self._writer = self._new_writer()
        if self.number:
            self.fork += 1
        record = self._record(CommitKind.BASE, seen)
        self._write_map()
        return record

    def _record(self, kind: CommitKind, seen: SeenCommit) -> CommitRecord:
        number = self.number + seen.commits
        writer, current, page_count = self._writer, self.current, seen.page_count
        self._is_open = True
        writer.begin(
            number=number,
            first_covered=self.number + 1,
            kind=kind,
            fork=self.fork,
            time_begin_us=seen.interval.begin_us,
            time_end_us=seen.interval.end_us,
            page_count=page_count,
            wal=seen.wal,
            change_counter=seen.change_counter,
        )
        if page_count > current.page_count:
            current.resize(page_count)
        for page_number, image in seen.pages:
            # A transaction may have written pages that it then cut off with the end of the file.
            if page_number <= page_count:
                digest = page_digest(image)
                writer.page(page_number, image, digest)
                current.record(page_number, number, digest)
                self._entries_since_map += 1
        record = writer.end()
        self._is_open = False
        if page_count < current.page_count:
            current.resize(page_count)
        current.commit, current.chain = number, record.chain
        self.number, self.end_us = number, seen.interval.end_us
        if self._unflushed_since is None:
            self._unflushed_since = time.monotonic()
        return record

    @property
    def has_pending(self) -> bool:
        """Return whether commits wait to be bundled into an object."""
        return self._writer.pending_commits > 0

    def flush_if_due(self) -> None:
        """Flush what has waited for the flush interval."""
        since = self._unflushed_since
        if since is not None and time.monotonic() - since >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Emit everything recorded so far, and a page map when one is due.

        After a commit that could not be recorded to its end nothing is emitted: what was pending
        is found again as part of the next page difference.
        """
        if self._is_open:
            return
        self._writer.flush()
        self._unflushed_since = None
        if self._entries_since_map >= max(self.current.page_count, _MAP_ENTRIES_MIN):
            self._write_map()

    def _write_map(self) -> None:
        self._entries_since_map = 0
        self._emit(*encode_map(self.current))
