"""Fetch page images: verified, cached, and from a remote store in merged ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from pitr.archive.object import decompress
from pitr.archive.store import Store
from pitr.errors import CorruptObject
from pitr.sqlite.segment import SegmentIndex, page_digest

_IMAGES_CACHED = 4096
_READAHEAD_BYTES_MIN = 32 << 10
_READAHEAD_BYTES_MAX = 2 << 20
_REQUESTS_AT_ONCE = 8

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one page image lies: the index of the object that holds it, and its entry there."""

    index: SegmentIndex
    entry: int


def each(store: Store, items: Sequence[T], work: Callable[[T], R]) -> Iterator[R]:
    """Yield the work done on each item, in order; side by side when requests cost round trips."""
    if not store.is_remote or len(items) < 2:
        return map(work, items)
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        return iter(list(pool.map(work, items)))


class ImageReader:
    """Read page images of one archive. Use from one thread.

    A local store is asked for single pages. From a remote one, neighbours come along with each
    request: few at first, more while the reading is sequential.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.bytes_read = 0
        self._images: dict[tuple[str, int], bytes] = {}
        self._frames: dict[tuple[str, int], bytes] = {}
        self._next_miss: tuple[str, int] | None = None
        self._readahead_bytes = _READAHEAD_BYTES_MIN

    def image(self, place: Place) -> bytes:
        """Return one page image, verified against its digest. Raises CorruptObject."""
        key = (place.index.key, place.entry)
        image = self._images.get(key)
        if image is None:
            frame = self._frames.pop(key, None) or self._fetch(place)
            image = decompress(key[0], frame, place.index.page_size)
            if page_digest(image) != place.index.digests[place.entry]:
                number = place.index.numbers[place.entry]
                raise CorruptObject(key[0], f"The image of page {number} has been altered.")
            if len(self._images) >= _IMAGES_CACHED:
                del self._images[next(iter(self._images))]
            self._images[key] = image
        return image

    def _fetch(self, place: Place) -> bytes:
        begin, end = place.index.extent(place.entry)
        if not self._store.is_remote:
            self.bytes_read += end - begin
            return self._store.get_ranges(place.index.key, [(begin, end)])[0]
        return self._fetch_ahead(place)

    def _fetch_ahead(self, place: Place) -> bytes:
        """Fetch a page and its neighbours in one request; more of them when reading on and on."""
        index, entry = place.index, place.entry
        in_sequence = self._next_miss == (index.key, entry)
        self._readahead_bytes = (
            min(2 * self._readahead_bytes, _READAHEAD_BYTES_MAX)
            if in_sequence
            else _READAHEAD_BYTES_MIN
        )
        last = entry + 1
        begin = index.offsets[entry]
        while (
            last < len(index.numbers)
            and index.offsets[last + 1] - begin <= self._readahead_bytes
            and (index.key, last) not in self._images
        ):
            last += 1
        self._next_miss = (index.key, last)
        self._fetch_run(index, entry, last)
        return self._frames.pop((index.key, entry))

    def _fetch_run(self, index: SegmentIndex, first: int, last: int) -> None:
        begin, end = index.offsets[first], index.offsets[last]
        data = self._store.get_ranges(index.key, [(begin, end)])[0]
        self.bytes_read += end - begin
        for entry in range(first, last):
            frame_begin, frame_end = index.extent(entry)
            self._frames[(index.key, entry)] = data[frame_begin - begin : frame_end - begin]

    def prefetch(self, places: Iterable[Place]) -> None:
        """Fetch many page images in merged ranges when the store is remote."""
        if not self._store.is_remote:
            return
        wanted: dict[str, tuple[SegmentIndex, list[int]]] = {}
        for place in places:
            key = (place.index.key, place.entry)
            if key not in self._images and key not in self._frames:
                wanted.setdefault(key[0], (place.index, []))[1].append(place.entry)
        runs = [
            (index, *run) for index, entries in wanted.values() for run in _runs(index, entries)
        ]
        list(each(self._store, runs, lambda run: self._fetch_run(*run)))


def _runs(index: SegmentIndex, entries: list[int]) -> Iterator[tuple[int, int]]:
    """Yield half-open runs of entries, joined over small distances, each of bounded size."""
    entries.sort()
    first = last = -1
    for entry in entries:
        near = first >= 0 and index.offsets[entry] - index.offsets[last] <= _READAHEAD_BYTES_MIN
        if near and index.offsets[entry + 1] - index.offsets[first] <= _READAHEAD_BYTES_MAX:
            last = entry + 1
            continue
        if first >= 0:
            yield first, last
        first, last = entry, entry + 1
    if first >= 0:
        yield first, last
