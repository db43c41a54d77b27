"""The WAL that an archive holds: what is there, from a listing alone, and reading any part of it.

Object keys say timeline, segment and, for pieces, the bytes inside; so which WAL is contiguous is
known without opening an object. Only the size of a segment is read, from the head of one.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pitr.archive.store import ObjectInfo, Store
from pitr.errors import CorruptObject, ObjectMissing
from pitr.postgres.wal.history import HistoryEntry, parse_history
from pitr.postgres.wal.segment_name import SegmentName
from pitr.postgres.wal.versions import version_of_magic
from pitr.postgres.wal_store.object import WalHead, WalObject
from pitr.postgres.wal_store.spans import WalSpan, WalSpans, no_wal
from pitr.postgres.wal_store.text import decode_text
from pitr.vocabulary.position import Lsn

_WAL_KEY = re.compile(r"wal/([0-9A-F]{8})/(\1[0-9A-F]{16})(?:\.([0-9A-F]{8})-([0-9A-F]{8}))?")
_HISTORY_KEY = re.compile(r"timeline/([0-9A-F]{8})")
# An index of blocks takes 12 bytes a block, 1.5 KiB for a segment of 16 MiB.
_OPEN_OBJECTS_MAX = 256

T = TypeVar("T")


class WalArchive:
    """The WAL of one archive. An ArchivedWal; safe to use from several threads at once."""

    def __init__(self, store: Store) -> None:
        """Name the store; nothing is read before the first question."""
        self._store = store
        self._lock = threading.Lock()
        self._head: WalHead | None = None
        self._spans: WalSpans | None = None
        self._open: OrderedDict[str, WalObject] = OrderedDict()
        self._bytes_read = 0

    @property
    def segment_bytes(self) -> int:
        """Return the size of a WAL segment. Raises ArchiveLacks when there is no WAL."""
        return self._needed_head().segment_bytes

    @property
    def major(self) -> int:
        """Return the major version of the server that wrote it. Raises ArchiveLacks."""
        return version_of_magic(self._needed_head().page_magic).major

    @property
    def system_identifier(self) -> str:
        """Return the cluster's system identifier. Raises ArchiveLacks."""
        return self._needed_head().system_identifier

    @property
    def bytes_read(self) -> int:
        """Return how many stored bytes were read so far."""
        return self._bytes_read + sum(found.bytes_read for found in list(self._open.values()))

    def refresh(self) -> None:
        """List the archive again. Raises StoreUnusable, CorruptObject."""
        infos = list(self._store.list("wal/"))
        histories = dict(self._read_histories())
        if self._head is None:
            self._head = self._find_head(infos)
        head = self._head
        spans = [] if head is None else spans_of(infos, head.segment_bytes)
        self._spans = WalSpans(spans, histories)

    def timelines(self) -> list[int]:
        """Return the timelines that have WAL or a `.history` file, ascending."""
        return self.spans.timelines()

    def history(self, timeline: int) -> tuple[HistoryEntry, ...]:
        """Return the ancestors of a timeline, oldest first; none for one without `.history`."""
        return self.spans.history(timeline)

    def ranges(self, timeline: int) -> list[tuple[Lsn, Lsn]]:
        """Return the stretches of WAL that `read` can serve, ascending."""
        return self.spans.ranges(timeline)

    def read(self, timeline: int, begin: Lsn, end: Lsn) -> bytes:
        """Return the WAL bytes [begin, end) of a timeline; only their blocks are fetched.

        Raises ArchiveGap naming the first stretch that is missing; CorruptObject.
        """
        # A piece may have been replaced since the listing, by a larger piece or the whole segment.
        return self._again_when_missing(lambda: self._read(timeline, begin, end))

    @property
    def spans(self) -> WalSpans:
        """Return what is there, as of the last look."""
        if self._spans is None:
            self.refresh()
        assert self._spans is not None
        return self._spans

    def open(self, span: WalSpan) -> WalObject:
        """Return the object of a span. Raises ObjectMissing, CorruptObject."""
        with self._lock:
            found = self._open.get(span.name)
            if found is not None:
                self._open.move_to_end(span.name)
                return found
        opened = WalObject(self._store, span.name, span.size)
        self._require_same_source(opened.head, span.name)
        with self._lock:
            self._open[span.name] = opened
            while len(self._open) > _OPEN_OBJECTS_MAX:
                self._bytes_read += self._open.popitem(last=False)[1].bytes_read
        return opened

    def _read(self, timeline: int, begin: Lsn, end: Lsn) -> bytes:
        parts = []
        for span, low, high in self.spans.pieces(timeline, begin, end):
            segment_begin = low - low % self.segment_bytes
            parts.append(self.open(span).read(low - segment_begin, high - segment_begin))
        return b"".join(parts)

    def _again_when_missing(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except ObjectMissing:
            self.refresh()
            return read()

    def _needed_head(self) -> WalHead:
        if self._head is None:
            self.refresh()
        if self._head is None:
            raise no_wal(self._store.location)
        return self._head

    def _find_head(self, infos: list[ObjectInfo]) -> WalHead | None:
        """Return the head of any object that can be read."""
        damage: CorruptObject | None = None
        for info in infos:
            if _WAL_KEY.fullmatch(info.key):
                try:
                    return WalObject(self._store, info.key, info.size).head
                except CorruptObject as error:
                    damage = error
        if damage is not None:
            raise damage
        return None

    def _require_same_source(self, head: WalHead, key: str) -> None:
        first = self._needed_head()
        found = (head.system_identifier, head.segment_bytes, head.page_magic)
        if found[:2] != (first.system_identifier, first.segment_bytes):
            raise CorruptObject(
                key,
                f"It is of cluster {found[0]} with segments of {found[1]} bytes; the archive holds "
                f"{first.system_identifier} with segments of {first.segment_bytes} bytes.",
            )

    def _read_histories(self) -> Iterator[tuple[int, tuple[HistoryEntry, ...]]]:
        for info in self._store.list("timeline/"):
            match = _HISTORY_KEY.fullmatch(info.key)
            if match:
                text = decode_text(info.key, self._store.get(info.key))
                timeline = int(match[1], 16)
                yield timeline, parse_history(timeline, text)


def spans_of(infos: Iterable[ObjectInfo], segment_bytes: int) -> Iterator[WalSpan]:
    """Yield what the listed objects below `wal/` hold; names of other forms are passed over."""
    for info in infos:
        match = _WAL_KEY.fullmatch(info.key)
        if match is None:
            continue
        try:
            name = SegmentName.parse(match[2], segment_bytes)
        except ValueError:
            continue
        begin, end = 0, segment_bytes
        if match[3] is not None:
            begin, end = int(match[3], 16), int(match[4], 16)
        yield WalSpan(
            name.begin + begin,
            name.begin + end,
            name.timeline,
            info.key,
            info.size,
            info.modified_us,
        )


def holds_wal(store: Store, timeline: int, end: Lsn, segment_bytes: int) -> bool:
    """Return whether the segment before an LSN is archived up to there; one small listing.

    Captures store WAL in order, so what comes before that segment is archived too, gaps excepted.
    """
    name = SegmentName.at(timeline, end.value - 1, segment_bytes)
    infos = list(store.list(f"wal/{timeline:08X}/{name}"))
    ranges = WalSpans(spans_of(infos, segment_bytes), {}).ranges(timeline)
    return any(low.value == name.begin and end <= high for low, high in ranges)
