"""Rows made from archived WAL itself, where no index object holds them."""

from __future__ import annotations

from collections import OrderedDict

from pitr.errors import ArchiveGap, CorruptWal
from pitr.postgres.index.making import IndexedRows, make_rows
from pitr.postgres.wal.scan import Scan, ScanState, scan
from pitr.postgres.wal.versions import version_of_major
from pitr.postgres.wal_store.spans import ArchivedWal
from pitr.vocabulary.position import Lsn

_ROWS_KEPT = 16


class WalScans:
    """Scans of archived WAL, segment by segment; the last ones are kept.

    A record that began in a segment before belongs to the one in which it ends, so a scan begins
    where the one before it stopped, or else searches backwards for where the record begins.
    """

    def __init__(self, wal: ArchivedWal) -> None:
        """Name the WAL; nothing is read yet."""
        self._wal = wal
        self._rows: OrderedDict[tuple[int, int, int], IndexedRows] = OrderedDict()
        self._states: dict[tuple[int, int], ScanState] = {}

    def forget(self) -> None:
        """Forget everything, since the WAL may have grown."""
        self._rows.clear()
        self._states.clear()

    def rows(self, timeline: int, begin: int, end: int) -> IndexedRows:
        """Return the rows of records that end in (begin, end]; at most a segment or so.

        Raises ArchiveGap, CorruptObject, CorruptWal.
        """
        key = (timeline, begin, end)
        if key not in self._rows:
            found = self.scan(timeline, begin, end)
            version = version_of_major(self._wal.major)
            self._rows[key] = make_rows(found, version, self._wal.segment_bytes)
            while len(self._rows) > _ROWS_KEPT:
                self._rows.popitem(last=False)
        self._rows.move_to_end(key)
        return self._rows[key]

    def scan(self, timeline: int, begin: int, end: int) -> Scan:
        """Return the scan of a stretch, begun so that it has the record that ends first in it."""
        state = self._states.get((timeline, begin)) or self._state_at(timeline, begin)
        found = self._scan(timeline, max(begin, state.position), end, state)
        self._states[timeline, end] = found.state
        return found

    def _state_at(self, timeline: int, begin: int) -> ScanState:
        """Return the state of a scan at a position, found by scanning what lies before it."""
        size = self._wal.segment_bytes
        start = begin - begin % size or begin
        fresh = ScanState(begin)
        while start > 0:
            start -= size if start == begin else 0
            try:
                found = self._scan(timeline, start, begin, ScanState(start))
            except ArchiveGap:
                return fresh  # nothing is archived before: the record's beginning is not there
            if len(found.records) or found.state.carry:
                return found.state
            start -= size
        return fresh

    def _scan(self, timeline: int, begin: int, end: int, state: ScanState) -> Scan:
        data = self._wal.read(timeline, Lsn(begin), Lsn(end)) if begin < end else b""
        found = scan(
            data,
            begin,
            state,
            version=version_of_major(self._wal.major),
            segment_bytes=self._wal.segment_bytes,
        )
        if found.end.is_fault:
            raise CorruptWal(
                f"archived WAL is damaged at {Lsn(found.state.position)}",
                detail=f"Timeline {timeline}: {found.end.meaning}.",
                hint="Run 'pitr verify' to see every damaged object and which targets remain.",
            )
        return found
