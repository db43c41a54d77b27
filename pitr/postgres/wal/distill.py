"""Distil WAL: the chosen records at exactly their LSNs, filler in between. No I/O of its own.

PostgreSQL's redo reads the result as if it were the WAL itself, and does only what the chosen
records say. The rules, each checked by xlogreader.c:

    a kept record    stays at its LSN, byte for byte; only xl_prev and the CRC change when what
                     stands before it did
    a gap            becomes XLOG_NOOP records of zeros, at most FILLER_BYTES_MAX each
    a later segment  is reached with one XLOG_SWITCH record at the gap's start, when that record
                     fits into the segment; whole segments in between hold one page
    a redo point     of a kept checkpoint is where a record begins here, too
    the stop         a NOOP of 32 bytes at which recovery is told to stop

XLOG_OVERWRITE_CONTRECORD is never kept and its page flag is never written: the broken record in
front of it is filler, so there is nothing that was overwritten.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pitr.postgres.wal.checksum import crc32c
from pitr.postgres.wal.geometry import WalGeometry

FILLER_BYTES_MAX = 1 << 20
STOP_BYTES = 32
_RECORD = struct.Struct("<IIQBBxxI")  # total length, xid, prev, info, resource manager, CRC
_RECORD_BYTES = _RECORD.size
_PAGE = struct.Struct("<HHIQI4x")  # magic, info, timeline, address, remaining length
_LONG = struct.Struct("<QII")  # system identifier, segment size, page size
_NOOP, _SWITCH = 0x20, 0x40
_CONTRECORD, _LONG_HEADER = 0x0001, 0x0002
_DATA_SHORT, _DATA_LONG = 255, 254


@dataclass(frozen=True, slots=True)
class KeptRun:
    """Records that follow each other and are all kept.

    `begin` is the LSN of the first one, `last` of the last one, `end` where the next record may
    begin (8-aligned, possibly the end of a page).
    """

    begin: int
    last: int
    end: int


@dataclass(frozen=True, slots=True)
class WalLayout:
    """What the page headers of a cluster's WAL say alike."""

    geometry: WalGeometry
    magic: int
    system_identifier: int


@dataclass(frozen=True, slots=True)
class DistilledSegment:
    """One segment of the result: the bytes up to the last one that matters; the rest is zeros."""

    number: int
    timeline: int
    data: bytes | bytearray


@dataclass(frozen=True, slots=True)
class TimelineSpan:
    """The timeline that is followed from this LSN on."""

    timeline: int
    begin: int


@dataclass(frozen=True, slots=True)
class Distillation:
    """What to make: from the redo point `begin` to the `stop`, both LSNs at which records begin.

    `runs` and `redo_points` are in order and lie in [begin, stop). So are `timelines`, whose first
    begins at or before `begin`. Filler carries `xid`, so that redo counts past it: it is the newest
    of the transactions whose rows are there, also where none of their records is kept.
    """

    layout: WalLayout
    timelines: Sequence[TimelineSpan]
    begin: int
    stop: int
    runs: Sequence[KeptRun]
    redo_points: Sequence[int]
    xid: int = 0


def distil(plan: Distillation, read: Callable[[int, int], bytes]) -> Iterator[DistilledSegment]:
    """Yield the segments in order. `read(begin, end)` returns bytes of the WAL between two LSNs.

    Only kept records are read. Raises what `read` raises.
    """
    writer = _Writer(plan, read)
    for run, redo_points in _with_redo_points(plan):
        for redo in redo_points:
            yield from writer.fill(redo)
        if run is not None:
            yield from writer.fill(run.begin)
            yield from writer.copy(run)
    yield from writer.fill(plan.stop)
    yield from writer.put(_filler(STOP_BYTES, plan.xid), STOP_BYTES)
    yield writer.current()


def _with_redo_points(plan: Distillation) -> Iterator[tuple[KeptRun | None, list[int]]]:
    """Yield each run with the redo points in the gap before it; at the end those after the last."""
    points = list(plan.redo_points)
    at = 0
    for run in plan.runs:
        before = []
        while at < len(points) and points[at] < run.end:
            # One inside a run begins a kept record as it is.
            if points[at] < run.begin:
                before.append(points[at])
            at += 1
        yield run, before
    yield None, points[at:]


# --- gaps ----------------------------------------------------------------------------------------


def plan_gap(geometry: WalGeometry, begin: int, end: int) -> Iterator[int | None]:
    """Yield what fills the positions from `begin` to `end`: lengths of NOOPs, None for a SWITCH.

    A SWITCH goes on at the next segment. The gap is empty or has room for a record (24 bytes).
    """
    last = geometry.segment(geometry.start(end))
    # Where the last segment has too little room for a filler, one of the segment before reaches in.
    if 0 < end - geometry.segment_position(last) < _RECORD_BYTES:
        last -= 1
    segment = geometry.segment(geometry.start(begin))
    while segment < last:
        segment += 1
        boundary = geometry.segment_position(segment)
        if boundary - begin >= _RECORD_BYTES:
            yield None
            begin = boundary
            continue
        length = _RECORD_BYTES
        if 0 < end - begin - length < _RECORD_BYTES:
            length = end - begin
        yield length
        begin += length
    while begin < end:
        length = min(end - begin, FILLER_BYTES_MAX)
        if 0 < end - begin - length < _RECORD_BYTES:
            length -= _RECORD_BYTES
        yield length
        begin += length


@lru_cache(maxsize=4096)
def _filler(length: int, xid: int) -> bytes:
    """Return the head of a NOOP of this length, without its xl_prev; what follows is zeros.

    The CRC is that of a record with xl_prev 0: see `_with_previous`.
    """
    body = _filler_body(length - _RECORD_BYTES)
    zeros = length - _RECORD_BYTES - len(body)
    return _sealed(length, xid, _NOOP, crc32c(bytes(zeros), crc32c(body))) + body


def _filler_body(length: int) -> bytes:
    """Return the first bytes of a body of zeros: the header of a record's main data."""
    if not length:
        return b""
    if length <= 2 + 255:
        return bytes((_DATA_SHORT, length - 2))
    return bytes((_DATA_LONG,)) + (length - 5).to_bytes(4, "little")


def _sealed(length: int, xid: int, info: int, body_crc: int) -> bytes:
    """Return the header of an XLOG record without an xl_prev, with its CRC."""
    header = _RECORD.pack(length, xid, 0, info, 0, 0)
    return header[:-4] + crc32c(header[:-4], body_crc).to_bytes(4, "little")


_ZEROS_CRC = crc32c(bytes(12))


def _with_previous(header: bytes, previous: int) -> bytes:
    """Return a record's header with another xl_prev and the CRC that follows.

    A CRC is linear: what the eight bytes change does not depend on the body, so a body that was
    damaged before is found out all the same.
    """
    length, xid, before, info, manager, crc = _RECORD.unpack(header)
    changed = (before ^ previous).to_bytes(8, "little")
    crc ^= crc32c(changed + bytes(4)) ^ _ZEROS_CRC
    return _RECORD.pack(length, xid, previous, info, manager, crc)


# --- the result ----------------------------------------------------------------------------------


class _Writer:
    """The result as it grows, one segment in memory; `_position` is where the next record goes."""

    def __init__(self, plan: Distillation, read: Callable[[int, int], bytes]) -> None:
        self._read = read
        self._plan = plan
        self._geometry = plan.layout.geometry
        self._position = self._geometry.position(plan.begin)
        self._previous: int | None = None
        self._open(self._geometry.segment(plan.begin))
        page = plan.begin - plan.begin % self._geometry.page_bytes
        # Readers that begin at a page's start skip what a record begun before has left there.
        self._add_header(page, plan.begin - page - self._geometry.header_bytes(page))

    def current(self) -> DistilledSegment:
        """Return the segment that is being written, as far as it goes."""
        last = (self._segment + 1) * self._geometry.segment_bytes - 1
        timeline = self._timeline_at(min(last, self._plan.stop))
        return DistilledSegment(self._segment, timeline, self._buffer)

    def fill(self, lsn: int) -> Iterator[DistilledSegment]:
        """Fill the gap up to an LSN; yield the segments that are complete."""
        for length in plan_gap(self._geometry, self._position, self._geometry.position(lsn)):
            if length is not None:
                yield from self.put(_filler(length, self._plan.xid), length)
                continue
            switch = _sealed(_RECORD_BYTES, self._plan.xid, _SWITCH, 0)
            yield from self.put(switch, _RECORD_BYTES)
            if self._geometry.segment(self._geometry.start(self._position)) == self._segment:
                self._position = self._geometry.segment_position(self._segment + 1)

    def put(self, record: bytes, length: int) -> Iterator[DistilledSegment]:
        """Add a record of ours: its first bytes, and zeros up to its length."""
        lsn = self._geometry.start(self._position)
        if self._previous is not None:
            record = _with_previous(record[:_RECORD_BYTES], self._previous) + record[_RECORD_BYTES:]
        self._previous = lsn
        self._position += length
        remaining = length
        while True:
            yield from self._go_to(lsn)
            page = lsn - lsn % self._geometry.page_bytes
            if lsn == page + self._geometry.header_bytes(page):
                self._add_header(page, remaining if remaining < length else 0)
            room = min(page + self._geometry.page_bytes - lsn, remaining)
            self._place(lsn, record[:room], room)
            record, remaining = record[room:], remaining - room
            page += self._geometry.page_bytes
            if not record:
                page, remaining = self._put_zero_pages(page, remaining)
            if not remaining:
                return
            lsn = page + self._geometry.header_bytes(page)

    def _put_zero_pages(self, page: int, remaining: int) -> tuple[int, int]:
        """Add pages that a record of ours fills with zeros; return the next page and what is left.

        Not the last page of the record, and none beyond the segment: those take the long way.
        """
        page_bytes = self._geometry.page_bytes
        content = page_bytes - self._geometry.header_bytes(page)
        offset = page % self._geometry.segment_bytes
        count = (remaining - 1) // content
        count = min(count, (self._geometry.segment_bytes - offset) // page_bytes)
        timeline = self._timeline_at(page)
        if not offset or count < 1 or self._timeline_at(page + count * page_bytes) != timeline:
            return page, remaining
        self._reach(offset + count * page_bytes)
        pack, buffer, magic = _PAGE.pack_into, self._buffer, self._plan.layout.magic
        for at in range(offset, offset + count * page_bytes, page_bytes):
            pack(buffer, at, magic, _CONTRECORD, timeline, page, remaining)
            page, remaining = page + page_bytes, remaining - content
        return page, remaining

    def copy(self, run: KeptRun) -> Iterator[DistilledSegment]:
        """Copy kept records as they are, but for what the first one says of its predecessor."""
        page = run.begin - run.begin % self._geometry.page_bytes
        yield from self._go_to(run.begin)
        if run.begin == page + self._geometry.header_bytes(page):
            self._add_header(page, 0)
        patch = self._patch(run.begin) if self._previous is not None else {}
        begin = run.begin
        while begin < run.end:
            yield from self._go_to(begin)
            end = min(run.end, (self._segment + 1) * self._geometry.segment_bytes)
            data = bytearray(self._read(begin, end))
            for lsn, byte in patch.items():
                if begin <= lsn < end:
                    data[lsn - begin] = byte
            self._place(begin, data, len(data))
            begin = end
        self._position = self._geometry.position(run.end)
        self._previous = run.last

    def _patch(self, lsn: int) -> dict[int, int]:
        """Return which bytes of the record at an LSN change, where its xl_prev is another now."""
        assert self._previous is not None
        position = self._geometry.position(lsn)
        places = [self._geometry.start(position + at) for at in range(_RECORD_BYTES)]
        raw = self._read(lsn, places[-1] + 1)
        header = bytes(raw[place - lsn] for place in places)
        changed = _with_previous(header, self._previous)
        pairs = zip(places, header, changed, strict=True)
        return {place: new for place, old, new in pairs if new != old}

    def _go_to(self, lsn: int) -> Iterator[DistilledSegment]:
        """Make the segment of an LSN the one being written."""
        while self._segment < self._geometry.segment(lsn):
            yield self.current()
            self._open(self._segment + 1)

    def _open(self, segment: int) -> None:
        self._segment = segment
        # As long as what is in it: most segments of a busy cluster hold one page header here.
        self._buffer = bytearray()
        self._add_header(segment * self._geometry.segment_bytes, 0)

    def _place(self, lsn: int, data: bytes | bytearray, length: int) -> None:
        offset = lsn % self._geometry.segment_bytes
        self._reach(offset + length)
        self._buffer[offset : offset + len(data)] = data

    def _reach(self, size: int) -> None:
        if len(self._buffer) < size:
            self._buffer += bytes(size - len(self._buffer))

    def _add_header(self, page: int, remaining: int) -> None:
        """Write a page's header; so many bytes of a record begun before it come first."""
        layout = self._plan.layout
        offset = page % self._geometry.segment_bytes
        info = (_CONTRECORD if remaining else 0) | (0 if offset else _LONG_HEADER)
        timeline = self._timeline_at(page)
        self._reach(offset + self._geometry.header_bytes(page))
        _PAGE.pack_into(self._buffer, offset, layout.magic, info, timeline, page, remaining)
        if not offset:
            sizes = (self._geometry.segment_bytes, self._geometry.page_bytes)
            _LONG.pack_into(self._buffer, _PAGE.size, layout.system_identifier, *sizes)

    def _timeline_at(self, lsn: int) -> int:
        timeline = self._plan.timelines[0].timeline
        for span in self._plan.timelines[1:]:
            if span.begin <= lsn:
                timeline = span.timeline
        return timeline
