"""Read the WAL from a base backup to a stop, and select the records of the wanted relations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pitr.errors import ArchiveLacks, CorruptWal
from pitr.postgres.wal.distill import Distillation, TimelineSpan, WalLayout
from pitr.postgres.wal.end import LogEnd
from pitr.postgres.wal.geometry import WalGeometry
from pitr.postgres.wal.page import PAGE_BYTES, content_of
from pitr.postgres.wal.record import HEADER_BYTES
from pitr.postgres.wal.scan import Scan, ScanState, scan
from pitr.postgres.wal.select import RecordSelector, Selection, record_boundary
from pitr.postgres.wal.versions import version_of_major
from pitr.postgres.wal.wanted import WantedFiles
from pitr.postgres.wal_store.spans import ArchivedWal
from pitr.vocabulary.position import Lsn

_XID_MASK = 0xFFFFFFFF
_GOOD_ENDS = (LogEnd.CLEAN, LogEnd.STOPPED, LogEnd.TORN)


@dataclass(frozen=True, slots=True)
class WalWindow:
    """The WAL of one recovery: from the redo point of a base to the stop, along a timeline.

    A record that crosses the stop is left out. `oldest_xid` is the next xid of the checkpoint
    that the base begins with.
    """

    wal: ArchivedWal
    timeline: int
    redo: int
    stop: int
    oldest_xid: int

    @property
    def geometry(self) -> WalGeometry:
        """Return the sizes of its segments and pages."""
        return WalGeometry(self.wal.segment_bytes, PAGE_BYTES)

    def timelines(self) -> list[TimelineSpan]:
        """Return the timelines that it follows, oldest first."""
        history = self.wal.history(self.timeline)
        begins = [0, *(entry.switch.value for entry in history)]
        numbers = [*(entry.timeline for entry in history), self.timeline]
        return [TimelineSpan(*pair) for pair in zip(numbers, begins, strict=True)]

    def read(self, begin: int, end: int) -> bytes:
        """Return bytes of the WAL. Raises ArchiveGap, CorruptWal."""
        return self.wal.read(self.timeline, Lsn(begin), Lsn(end))

    def record(self, lsn: int, length: int) -> bytes:
        """Return one whole record without page headers. Raises ArchiveGap, CorruptWal."""
        geometry = self.geometry
        end = geometry.end(geometry.position(lsn) + max(length, HEADER_BYTES))
        return content_of(self.read(lsn, end), lsn, lsn, length, geometry.segment_bytes)


def selector_of(window: WalWindow, wanted: WantedFiles) -> RecordSelector:
    """Return what selects the records of a window."""
    return RecordSelector(
        wanted,
        window.geometry,
        version=version_of_major(window.wal.major),
        oldest_xid=window.oldest_xid,
        redo=window.redo,
        stop=window.stop,
    )


def last_boundary(window: WalWindow) -> int:
    """Return where the last record ends that ends at or before the stop of a window.

    Reads the last segment, and the one before where that holds no record's end.
    """
    size = window.wal.segment_bytes
    begin = window.stop - window.stop % size
    while begin > window.redo:
        for found in scans(replace(window, redo=begin)):
            boundary = record_boundary(found, window.geometry, window.stop)
            if boundary is not None:
                return boundary
        begin -= size
    return select_records(window, WantedFiles()).stop


def select_records(
    window: WalWindow, wanted: WantedFiles, touched: Iterable[int] = ()
) -> Selection:
    """Return what a recovery of the wanted relations needs of the WAL.

    The ends of the transactions `touched` are needed besides those that it finds itself.
    Raises ArchiveGap where WAL is missing, CorruptWal where it contradicts itself.
    """
    selector = selector_of(window, wanted)
    selector.touch(touched)
    for found in scans(window):
        selector.add(found)
    return selector.finish()


def scans(window: WalWindow, *, is_open: bool = False) -> Iterator[Scan]:
    """Yield scans of the window, a segment each, in order.

    With `is_open` the window ends where the WAL does: what is in the last segment behind its last
    record is no damage then. Raises ArchiveGap, ArchiveLacks, CorruptWal.
    """
    version = version_of_major(window.wal.major)
    segment_bytes = window.wal.segment_bytes
    state = ScanState(window.redo)
    while state.position < window.stop:
        begin = state.position
        end = min(begin - begin % segment_bytes + segment_bytes, window.stop)
        found = scan(
            window.read(begin, end),
            begin,
            state,
            version=version,
            segment_bytes=segment_bytes,
            system_identifier=int(window.wal.system_identifier),
            stop=window.stop,
        )
        if not (is_open and end == window.stop):
            _require_whole(window, found)
        yield found
        if found.end not in _GOOD_ENDS:
            return
        state = found.state


def _require_whole(window: WalWindow, found: Scan) -> None:
    """Raise for a scan that did not come to the end of its bytes."""
    if found.end in _GOOD_ENDS:
        return
    at = Lsn(found.state.position)
    if found.end.is_fault:
        raise CorruptWal(
            f"the WAL is damaged at {at}",
            detail=f"{found.end.meaning[:1].upper()}{found.end.meaning[1:]}.",
            hint="Choose a target before it, or another copy of the WAL.",
        )
    raise ArchiveLacks(
        f"the WAL ends at {at}, before the target",
        detail=f"The target needs WAL up to {Lsn(window.stop)}.",
        hint="Choose an earlier target.",
    )


def distillation(window: WalWindow, selection: Selection) -> Distillation:
    """Return how the distilled WAL of a window is made."""
    magic = version_of_major(window.wal.major).magic
    layout = WalLayout(window.geometry, magic, int(window.wal.system_identifier))
    return Distillation(
        layout,
        window.timelines(),
        window.redo,
        selection.stop,
        selection.runs,
        sorted(redo for redo in set(selection.redo_points) if redo < selection.stop),
        _newest(selection.touched, window.oldest_xid),
    )


def _newest(xids: Iterable[int], oldest: int) -> int:
    """Return the xid given out last of some, 0 when there is none; they count in a circle."""
    since = [(xid - oldest) & _XID_MASK for xid in xids if xid]
    found = max((age for age in since if age <= _XID_MASK >> 1), default=None)
    return 0 if found is None else (found + oldest) & _XID_MASK
