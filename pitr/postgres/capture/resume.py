"""Where a capture goes on: what the archive has, against what the server still keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pitr.errors import ArchiveGap, SourceUnusable
from pitr.postgres.wal.end import LogEnd
from pitr.postgres.wal.history import HistoryEntry
from pitr.postgres.wal.scan import ScanState, scan
from pitr.postgres.wal.segment_name import SegmentName
from pitr.postgres.wal.versions import version_of_major
from pitr.postgres.wal_store.archive import WalArchive
from pitr.vocabulary.position import Lsn


@dataclass(frozen=True, slots=True)
class Start:
    """The segment with which to go on, from its first byte.

    `known` is the LSN up to which the archive has this history, None when it has nothing of it;
    beyond it WAL is missing when the segment begins later. `archived` is what the archive has of
    the segment, in objects called `pieces`; `before` is the scan's state where it begins.
    """

    segment: SegmentName
    known: Lsn | None
    archived: bytes = b""
    pieces: tuple[str, ...] = ()
    before: ScanState | None = None


def start_from_archive(
    wal: WalArchive, timeline: int, *, flushed: Lsn, kept: Lsn | None, segment_bytes: int
) -> Start | None:
    """Return where to go on in the history of a timeline; None when nothing of it is archived.

    That is the end of the first stretch that the server can continue, since its slot keeps WAL from
    `kept` on; so WAL that archive_command skipped is fetched. Without one it is the end of all.
    Raises SourceUnusable when the archive has more than the server.
    """
    ends = [end for _, end in wal.ranges(timeline)]
    if not ends:
        return None
    first_kept = segment_begin(kept, segment_bytes) if kept is not None else Lsn(0)
    end = next((end for end in ends if end >= first_kept), ends[-1])
    if end > flushed:
        raise SourceUnusable(
            f"the server has less WAL than the archive: {flushed} of timeline {timeline}",
            detail=f"The archive has this timeline up to {end}. The server was restored from an "
            "older copy, or lost what it had called durable.",
            hint="Begin a new archive: 'pitr init SOURCE --archive LOCATION' with another location,"
            " then 'pitr backup'.",
        )
    owner = owner_of(end, timeline, wal.history(timeline))
    segment = SegmentName.at(owner, end.value, segment_bytes)
    return Start(
        segment,
        end,
        _readable(wal, timeline, Lsn(segment.begin), end),
        _pieces(wal, segment),
        _state_before(wal, timeline, segment),
    )


def start_from_slot(
    kept: Lsn,
    timeline: int,
    histories: Mapping[int, tuple[HistoryEntry, ...]],
    *,
    known: Lsn | None,
    segment_bytes: int,
) -> Start:
    """Return the first segment that the slot keeps."""
    owner = owner_of(kept, timeline, histories.get(timeline, ()))
    return Start(SegmentName.at(owner, kept.value, segment_bytes), known)


def owner_of(lsn: Lsn, timeline: int, history: tuple[HistoryEntry, ...]) -> int:
    """Return which timeline wrote the byte at an LSN, in the history of a timeline."""
    return next((entry.timeline for entry in history if lsn < entry.switch), timeline)


def segment_begin(lsn: Lsn, segment_bytes: int) -> Lsn:
    """Return the LSN at which the segment of an LSN begins."""
    return Lsn(lsn.value - lsn.value % segment_bytes)


def _readable(wal: WalArchive, timeline: int, begin: Lsn, end: Lsn) -> bytes:
    try:
        return wal.read(timeline, begin, end)
    except ArchiveGap:
        return b""  # the segment is archived in part, without its beginning


def _pieces(wal: WalArchive, segment: SegmentName) -> tuple[str, ...]:
    return tuple(
        span.name
        for span in wal.spans.of_timeline(segment.timeline)
        if segment.begin <= span.begin < segment.end
        and span.end - span.begin < segment.segment_bytes
    )


def _state_before(wal: WalArchive, timeline: int, segment: SegmentName) -> ScanState | None:
    """Return the state of a scan at the segment's begin, from the archived segment before it."""
    begin = Lsn(max(0, segment.begin - segment.segment_bytes))
    try:
        data = wal.read(timeline, begin, Lsn(segment.begin))
    except ArchiveGap:
        return None
    found = scan(
        data,
        begin.value,
        ScanState(begin.value),
        version=version_of_major(wal.major),
        segment_bytes=segment.segment_bytes,
    )
    is_joined = found.state.prev or found.state.carry
    return found.state if is_joined and found.end in (LogEnd.CLEAN, LogEnd.TORN) else None
