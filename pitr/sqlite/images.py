"""Fetch page images: verified, cached, and from a remote store in merged ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from pitr.archive.object import decompress
from pitr.archive.store import Store
from pitr.errors import CorruptObject, ObjectMissing
from pitr.sqlite.segment import SegmentIndex, page_digest

_IMAGES_CACHED = 4096
_FRAMES_BYTES_MAX = 64 << 20
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


@dataclass(frozen=True, slots=True)
class _Run:
    """The entries first <= entry < last of one object, to be fetched in one request."""

    index: SegmentIndex
    first: int
    last: int

    @property
    def extent(self) -> tuple[int, int]:
        return self.index.offsets[self.first], self.index.offsets[self.last]


def each(store: Store, items: Sequence[T], work: Callable[[T], R]) -> Iterator[R]:
    """Yield the work done on each item, in order; side by side when requests cost round trips."""
    if not store.is_remote or len(items) < 2:
        return map(work, items)
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        return iter(list(pool.map(work, items)))


def checked_image(index: SegmentIndex, entry: int, frame: bytes | memoryview) -> bytes:
    """Return the page image of an entry from its zstd frame. Raises CorruptObject."""
    image = decompress(index.key, frame, index.page_size)
    if page_digest(image) != index.digests[entry]:
        number = index.numbers[entry]
        raise CorruptObject(index.key, f"The image of page {number} has been altered.")
    return image


class ImageReader:
    """Read page images of one archive. Use from one thread.

    A local store is asked for single pages. From a remote one, neighbours come along with each
    request: few at first, more while the reading is sequential. `relocate` is asked where an image
    lies now when the object that held it is gone; it raises when there is no such place.
    """

    def __init__(self, store: Store, relocate: Callable[[Place], Place]) -> None:
        self._store = store
        self._relocate = relocate
        self.bytes_read = 0
        self._images: dict[tuple[str, int], bytes] = {}
        self._frames: dict[tuple[str, int], bytes] = {}
        self._frames_bytes = 0
        self._gone: set[str] = set()
        self._next_miss: tuple[str, int] | None = None
        self._readahead_bytes = _READAHEAD_BYTES_MIN

    def image(self, place: Place) -> bytes:
        """Return one page image, verified against its digest.

        Raises CorruptObject, and ArchiveLacks when its object is gone and nothing replaces it.
        """
        image = self._images.get((place.index.key, place.entry))
        if image is not None:
            return image
        if place.index.key not in self._gone:
            try:
                return self._read(place)
            except ObjectMissing:
                self._gone.add(place.index.key)
        return self._read(self._relocate(place))

    def _read(self, place: Place) -> bytes:
        key = (place.index.key, place.entry)
        image = self._images.get(key)
        if image is None:
            frame = self._take(key) or self._fetch(place)
            image = checked_image(place.index, place.entry, frame)
            if len(self._images) >= _IMAGES_CACHED:
                del self._images[next(iter(self._images))]
            self._images[key] = image
        return image

    def _fetch(self, place: Place) -> bytes:
        run = _Run(place.index, place.entry, place.entry + 1)
        if not self._store.is_remote:
            return self._request(run)
        run = self._with_neighbours(run)
        data = self._request(run)
        begin, end = place.index.extent(place.entry)
        self._keep(_Run(run.index, run.first + 1, run.last), data[end - begin :])
        return data[: end - begin]

    def _with_neighbours(self, run: _Run) -> _Run:
        """Lengthen a run of one entry: the more, the longer the reading goes on and on."""
        index, last = run.index, run.last
        if self._next_miss == (index.key, run.first):
            self._readahead_bytes = min(2 * self._readahead_bytes, _READAHEAD_BYTES_MAX)
        else:
            self._readahead_bytes = _READAHEAD_BYTES_MIN
        begin = index.offsets[run.first]
        while (
            last < len(index.numbers)
            and index.offsets[last + 1] - begin <= self._readahead_bytes
            and (index.key, last) not in self._images
        ):
            last += 1
        self._next_miss = (index.key, last)
        return _Run(index, run.first, last)

    def _request(self, run: _Run) -> bytes:
        data = self._store.get_ranges(run.index.key, [run.extent])[0]
        self.bytes_read += len(data)
        return data

    def _keep(self, run: _Run, data: bytes) -> None:
        """Keep frames that will be asked for, and forget the oldest when they grow too many."""
        begin = run.extent[0]
        for entry in range(run.first, run.last):
            frame_begin, frame_end = run.index.extent(entry)
            self._take((run.index.key, entry))
            self._frames[(run.index.key, entry)] = data[frame_begin - begin : frame_end - begin]
        self._frames_bytes += len(data)
        while self._frames_bytes > _FRAMES_BYTES_MAX:
            self._take(next(iter(self._frames)))

    def _take(self, key: tuple[str, int]) -> bytes | None:
        frame = self._frames.pop(key, None)
        if frame is not None:
            self._frames_bytes -= len(frame)
        return frame

    def prefetch(self, places: Iterable[Place]) -> None:
        """Fetch many page images in merged ranges when the store is remote.

        A hint: stops at what it can keep, and leaves objects that are gone to `image`.
        """
        if not self._store.is_remote:
            return
        wanted: dict[str, tuple[SegmentIndex, list[int]]] = {}
        for place in places:
            key = (place.index.key, place.entry)
            if key not in self._images and key not in self._frames and key[0] not in self._gone:
                wanted.setdefault(key[0], (place.index, []))[1].append(place.entry)
        runs = [run for index, entries in wanted.values() for run in _runs(index, entries)]
        sizes = accumulate(run.extent[1] - run.extent[0] for run in runs)
        fitting = sum(1 for size in sizes if size <= _FRAMES_BYTES_MAX)
        for run, data in each(self._store, runs[:fitting], self._request_if_there):
            if data is not None:
                self.bytes_read += len(data)
                self._keep(run, data)

    def _request_if_there(self, run: _Run) -> tuple[_Run, bytes | None]:
        """Fetch a run from any thread; no bytes when its object is gone."""
        try:
            return run, self._store.get_ranges(run.index.key, [run.extent])[0]
        except ObjectMissing:
            return run, None


def _runs(index: SegmentIndex, entries: list[int]) -> Iterator[_Run]:
    """Yield runs of entries, joined over small distances, each of bounded size."""
    entries.sort()
    first = last = -1
    for entry in entries:
        near = first >= 0 and index.offsets[entry] - index.offsets[last] <= _READAHEAD_BYTES_MIN
        if near and index.offsets[entry + 1] - index.offsets[first] <= _READAHEAD_BYTES_MAX:
            last = entry + 1
            continue
        if first >= 0:
            yield _Run(index, first, last)
        first, last = entry, entry + 1
    if first >= 0:
        yield _Run(index, first, last)
