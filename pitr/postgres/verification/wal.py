"""Archived WAL read again: every block's digest, every record's CRC, and what follows what.

Segment by segment, the pieces of one together: where objects overlap they must hold the same. One
segment is in memory at a time. What could be read and verified is the WAL that counts afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from pitr.archive.object import verify_object
from pitr.archive.store import ObjectInfo, Store
from pitr.errors import CorruptObject
from pitr.postgres.index.fingerprint import Fingerprint, fingerprint_of
from pitr.postgres.index.making import make_rows
from pitr.postgres.verification.findings import Findings
from pitr.postgres.wal.end import LogEnd
from pitr.postgres.wal.history import HistoryEntry
from pitr.postgres.wal.page import PAGE_BYTES
from pitr.postgres.wal.scan import Scan, ScanState, scan
from pitr.postgres.wal.segment_name import SegmentName
from pitr.postgres.wal.versions import WalVersion, version_of_magic
from pitr.postgres.wal_store.archive import spans_of
from pitr.postgres.wal_store.object import KIND, WalHead, WalObject
from pitr.postgres.wal_store.spans import WalSpan
from pitr.vocabulary.position import Lsn

_PREFIX = "wal/"
_CHUNK_BYTES = 16 << 20
_ATTEMPTS = 3
_WHOLE = (LogEnd.CLEAN, LogEnd.TORN)


@dataclass(slots=True)
class VerifiedWal:
    """The WAL that is what it was: stretches [begin, end) by timeline, and what an index of it has.

    `fingerprints` are by timeline and begin of a segment, of those whose records are all known.
    """

    segment_bytes: int
    ranges: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    fingerprints: dict[tuple[int, int], Fingerprint] = field(default_factory=dict)

    def spans(self) -> Iterator[WalSpan]:
        """Yield the stretches as spans, for `WalSpans`."""
        for timeline, ranges in self.ranges.items():
            for begin, end in ranges:
                yield WalSpan(begin, end, timeline, "", 0, 0)

    def add(self, timeline: int, begin: int, end: int) -> None:
        """Add a stretch, which lies behind all before it of its timeline."""
        ranges = self.ranges.setdefault(timeline, [])
        if begin == end:
            return
        if ranges and ranges[-1][1] == begin:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((begin, end))


def first_head(store: Store) -> WalHead | None:
    """Return the head of any WAL object that can be read; None when there is none."""
    for info in store.list(_PREFIX):
        if info.key.endswith(".backup"):
            continue
        try:
            return WalObject(store, info.key, info.size).head
        except CorruptObject:
            continue
    return None


def verify_wal(
    store: Store,
    system_identifier: str,
    histories: Mapping[int, tuple[HistoryEntry, ...]],
    found: Findings,
) -> VerifiedWal:
    """Read all WAL objects; return what of it holds. Damage goes to `found`.

    Runs beside a capture: a piece that is replaced meanwhile is looked for again. Raises
    StoreUnusable, PreconditionFailed for objects of a later format.
    """
    head = first_head(store)
    listed = [info for info in store.list(_PREFIX) if not info.key.endswith(".backup")]
    if head is None:
        for info in listed:
            found.count(info.size)
            found.damage(info.key, "It cannot be read, and no other WAL tells its size.")
        return VerifiedWal(0)
    walk = _Walk(store, head, system_identifier, histories, found)
    spans = list(spans_of(listed, head.segment_bytes))
    named = {span.name for span in spans}
    found.leftovers += [info.key for info in listed if info.key not in named]
    ordered = sorted(spans, key=lambda span: (span.timeline, span.begin, -span.end))
    for (timeline, number), group in groupby(
        ordered, key=lambda span: (span.timeline, span.begin // head.segment_bytes)
    ):
        walk.segment(SegmentName(timeline, number, head.segment_bytes), list(group))
    return walk.verified


@dataclass(frozen=True, slots=True)
class _Part:
    """Bytes [begin, end) of the segment, which came from one object first."""

    begin: int
    end: int
    key: str


class _Segment:
    """The bytes of one segment, put together from what holds them."""

    def __init__(self, name: SegmentName) -> None:
        self.name = name
        self._data = bytearray(name.segment_bytes)
        self._parts: list[_Part] = []

    def add(self, key: str, begin: int, data: bytes) -> str | None:
        """Take an object's bytes; return the key of one that has other bytes at the same place."""
        end = begin + len(data)
        for part in self._parts:
            low, high = max(begin, part.begin), min(end, part.end)
            if low < high and data[low - begin : high - begin] != self._data[low:high]:
                return part.key
        self._data[begin:end] = data
        self._parts.append(_Part(begin, end, key))
        return None

    def stretches(self) -> Iterator[tuple[int, int]]:
        """Yield the contiguous stretches [begin, end) that are there."""
        low = high = -1
        for part in sorted(self._parts, key=lambda part: part.begin):
            if part.begin > high:
                if high > low:
                    yield low, high
                low, high = part.begin, part.end
            high = max(high, part.end)
        if high > low:
            yield low, high

    def view(self, begin: int, end: int) -> memoryview:
        """Return bytes without copying them."""
        return memoryview(self._data)[begin:end]

    def key_at(self, offset: int) -> str:
        """Return an object that holds a byte."""
        return next(part.key for part in self._parts if part.begin <= offset < part.end)


class _Walk:
    """The verification of all segments, in the order of their LSNs, timeline by timeline."""

    def __init__(
        self,
        store: Store,
        head: WalHead,
        system_identifier: str,
        histories: Mapping[int, tuple[HistoryEntry, ...]],
        found: Findings,
    ) -> None:
        self.verified = VerifiedWal(head.segment_bytes)
        self._store = store
        self._head = head
        self._system = system_identifier
        self._version: WalVersion = version_of_magic(head.page_magic)
        self._found = found
        self._state: ScanState | None = None
        self._reached = (0, 0)
        self._last: SegmentName | None = None
        # A timeline begins with a copy of its parent's segment: the scan goes on from the parent's.
        self._parents = {
            timeline: entries[-1].timeline for timeline, entries in histories.items() if entries
        }
        size = head.segment_bytes
        switches = {(e[-1].timeline, e[-1].switch.value) for e in histories.values() if e}
        self._wanted = {(timeline, lsn - lsn % size) for timeline, lsn in switches}
        self._kept: dict[tuple[int, int], ScanState] = {}

    def segment(self, name: SegmentName, spans: list[WalSpan]) -> None:
        """Verify everything that is stored of one segment."""
        segment = self._read(name, spans)
        for begin, end in segment.stretches():
            self._stretch(segment, begin, end)
        self._last = name

    def _read(self, name: SegmentName, spans: list[WalSpan]) -> _Segment:
        segment = _Segment(name)
        seen: set[str] = set()
        for _ in range(_ATTEMPTS):
            is_gone = False
            for span in spans:
                if span.name not in seen and not self._take(segment, span):
                    is_gone = True
                seen.add(span.name)
            if not is_gone:
                break
            again: Iterator[ObjectInfo] = self._store.list(f"{_PREFIX}{name.timeline:08X}/{name}")
            spans = list(spans_of(again, name.segment_bytes))
        return segment

    def _take(self, segment: _Segment, span: WalSpan) -> bool:
        """Verify one object and take its bytes; return whether it was there."""
        data = self._found.get(self._store, span.name)
        if data is None:
            return False
        try:
            verify_object(span.name, data, KIND)
            stored = WalObject.of_bytes(span.name, data)
            self._require_same_source(span.name, stored.head)
            other = segment.add(
                span.name, stored.head.begin, stored.read(stored.head.begin, stored.head.end)
            )
            if other is not None:
                raise CorruptObject(span.name, f"It has other bytes than {other} at one place.")
        except CorruptObject as error:
            self._found.damage(span.name, error.reason)
        return True

    def _require_same_source(self, key: str, head: WalHead) -> None:
        found = (head.system_identifier, head.segment_bytes, head.page_magic)
        if found != (self._system, self._head.segment_bytes, self._head.page_magic):
            raise CorruptObject(key, f"It is of cluster {found[0]}, or of another version or size.")

    def _stretch(self, segment: _Segment, begin: int, end: int) -> None:
        """Scan a stretch of one segment, piece by piece, from where the one before it ended."""
        name = segment.name
        state = self._state_at(name.timeline, name.begin + begin)
        # Where nothing was archived before, an index knows no more than this scan.
        is_first = self._last is None or self._last.next != name
        is_joined = is_first or bool(state.prev or state.carry)
        fingerprint = Fingerprint()
        good = end
        for low in range(begin, end, _CHUNK_BYTES):
            high = min(end, low + _CHUNK_BYTES)
            if state.position >= name.begin + high:
                continue  # behind the end of a segment that the server left early
            found = self._scan(segment, low, high, state)
            fault = self._fault(segment, found, state, low, high, is_last=high == end)
            if fault is not None:
                at, meaning = fault
                good = min(max(at - name.begin, begin), end - 1)
                self._found.damage(segment.key_at(good), f"At {Lsn(at)} {meaning}.")
                break
            state = found.state
            rows = make_rows(found, self._version, name.segment_bytes)
            for part in (rows.system, rows.relations):
                fingerprint = fingerprint.plus(fingerprint_of(part))
        self.verified.add(name.timeline, name.begin + begin, name.begin + good)
        if good < end:
            self._state = None
            return
        self._state, self._reached = state, (name.timeline, name.begin + end)
        if self._reached in self._wanted:
            self._kept[self._reached] = state
        if is_joined and (begin, end) == (0, name.segment_bytes):
            self.verified.fingerprints[name.timeline, name.begin] = fingerprint

    def _state_at(self, timeline: int, lsn: int) -> ScanState:
        if self._state is not None and self._reached == (timeline, lsn):
            return self._state
        kept = self._kept.get((self._parents.get(timeline, 0), lsn))
        # A page is the first place at which a scan can begin that knows nothing of what was before.
        return kept or ScanState(-(-lsn // PAGE_BYTES) * PAGE_BYTES)

    def _scan(self, segment: _Segment, low: int, high: int, state: ScanState) -> Scan:
        return scan(
            segment.view(low, high),
            segment.name.begin + low,
            state,
            version=self._version,
            segment_bytes=segment.name.segment_bytes,
            system_identifier=int(self._system),
        )

    def _fault(
        self,
        segment: _Segment,
        found: Scan,
        state: ScanState,
        low: int,
        high: int,
        *,
        is_last: bool,
    ) -> tuple[int, str] | None:
        """Return where and why a scan shows damage, None when it shows none.

        A segment that is not whole ends with a page that the server may not have filled.
        """
        timeline = segment.name.timeline
        if found.end in _WHOLE and found.state.timeline <= timeline:
            return None
        if found.end in _WHOLE:
            return segment.name.begin + low, f"pages of timeline {found.state.timeline} follow"
        if is_last and high < segment.name.segment_bytes:
            cut = (high - 1) // PAGE_BYTES * PAGE_BYTES
            at = found.state.position - segment.name.begin
            if at >= cut or found.end is LogEnd.UNWRITTEN:
                return None
            if cut > low and self._scan(segment, low, cut, state).end in _WHOLE:
                return None
        return found.state.position, found.end.meaning
