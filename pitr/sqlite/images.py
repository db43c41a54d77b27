"""Fetch page images: verified, cached, and fetched ahead of the reader by other threads."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, TypeVar

import zstandard

from pitr.archive.object import decompress
from pitr.archive.store import Store
from pitr.errors import CorruptObject, ObjectMissing, PitrError
from pitr.sqlite.segment import SegmentIndex, page_digest

_IMAGES_CACHED = 4096
# Announced pages that were never asked for make room for others from here on.
AHEAD_BYTES_MAX = 32 << 20
_REQUEST_BYTES_MAX = 2 << 20
_GAP_BYTES_MAX = 32 << 10  # read along between two images: cheaper than another request
_REQUESTS_AT_ONCE = 8
# A local page costs less than handing it to another thread.
_LOCAL_PAGES_MIN = 8

T = TypeVar("T")
R = TypeVar("R")


class Place(NamedTuple):
    """Where one page image lies: the index of the object that holds it, and its entry there."""

    index: SegmentIndex
    entry: int


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

    `relocate` is asked where an image lies now when the object that held it is gone; it raises
    when there is no such place.
    """

    def __init__(self, store: Store, relocate: Callable[[Place], Place]) -> None:
        self._store = store
        self._relocate = relocate
        self.bytes_read = 0
        self._images: dict[Place, bytes] = {}
        self._ahead: dict[Place, tuple[_Batch, int]] = {}
        self._gone: set[str] = set()
        self._workers = ThreadPoolExecutor(
            _REQUESTS_AT_ONCE if store.is_remote else 1, thread_name_prefix="pitr-images"
        )

    @property
    def is_remote(self) -> bool:
        """Return whether a page that was not announced costs a network round trip."""
        return self._store.is_remote

    def image(self, place: Place) -> bytes:
        """Return one page image, verified against its digest.

        Raises CorruptObject, and ArchiveLacks when its object is gone and nothing replaces it.
        """
        image = self._images.get(place)
        if image is None:
            image = self._announced(place) or self._read(place)
            if len(self._images) >= _IMAGES_CACHED:
                _forget_oldest(self._images, _IMAGES_CACHED // 8)
            self._images[place] = image
        return image

    def _announced(self, place: Place) -> bytes | None:
        batch, at = self._ahead.pop(place, (None, 0))
        return batch.image(at) if batch else None

    def _read(self, place: Place) -> bytes:
        if place.index.key not in self._gone:
            try:
                return self._fetch(place)
            except ObjectMissing:
                self._gone.add(place.index.key)
        return self._fetch(self._relocate(place))

    def _fetch(self, place: Place) -> bytes:
        index, entry = place
        [frame] = self._store.get_ranges(index.key, [index.extent(entry)])
        self.bytes_read += len(frame)
        return checked_image(index, entry, frame)

    def prefetch(self, places: Iterable[Place]) -> None:
        """Begin to fetch page images that will be asked for soon, in merged ranges.

        A hint: stops at what it can keep, and leaves to `image` what cannot be had.
        """
        wanted: dict[SegmentIndex, list[int]] = {}
        room_bytes = AHEAD_BYTES_MAX
        for place in places:
            room_bytes -= place.index.page_size
            if room_bytes < 0:
                break
            if place not in self._images and place not in self._ahead:
                wanted.setdefault(place.index, []).append(place.entry)
        for index, entries in wanted.items():
            if self._store.is_remote or len(entries) >= _LOCAL_PAGES_MIN:
                for run in _runs(index, sorted(entries)):
                    self._begin(index, run)

    def _begin(self, index: SegmentIndex, entries: list[int]) -> None:
        self.bytes_read += index.offsets[entries[-1] + 1] - index.offsets[entries[0]]
        batch = _Batch(self._workers.submit(_read_batch, self._store, index, entries))
        self._ahead.update((Place(index, entry), (batch, at)) for at, entry in enumerate(entries))
        _forget_oldest(self._ahead, len(self._ahead) - AHEAD_BYTES_MAX // index.page_size)


class _Batch:
    """Images of one object that another thread fetches."""

    __slots__ = ("_future", "_images")

    def __init__(self, future: Future[list[bytes | None]]) -> None:
        self._future = future
        self._images: list[bytes | None] | None = None

    def image(self, at: int) -> bytes | None:
        """Wait for the images and return one; None when it has to be read by itself."""
        if self._images is None:
            self._images = self._future.result()
        return self._images[at]


def _read_batch(store: Store, index: SegmentIndex, entries: list[int]) -> list[bytes | None]:
    """Return the images of some entries; None for whatever is wrong with them.

    Decompressed in one call, for which Python's lock is free: a call for each page would have to
    wait for the lock each time.
    """
    begin, offsets, size = index.offsets[entries[0]], index.offsets, index.page_size
    try:
        [data] = store.get_ranges(index.key, [(begin, offsets[entries[-1] + 1])])
        frames = [data[offsets[entry] - begin : offsets[entry + 1] - begin] for entry in entries]
        images = zstandard.ZstdDecompressor().multi_decompress_to_buffer(
            frames, decompressed_sizes=array("Q", [size]) * len(frames), threads=1
        )
    except (PitrError, zstandard.ZstdError):
        return [None] * len(entries)
    return [
        image.tobytes() if page_digest(image) == index.digests[entry] else None
        for image, entry in zip(images, entries, strict=True)
    ]


def _runs(index: SegmentIndex, entries: list[int]) -> Iterator[list[int]]:
    """Yield ascending entries in runs, joined over small distances, each of bounded size."""
    offsets = index.offsets
    run: list[int] = []
    for entry in entries:
        if run and (
            offsets[entry] - offsets[run[-1] + 1] > _GAP_BYTES_MAX
            or offsets[entry + 1] - offsets[run[0]] > _REQUEST_BYTES_MAX
        ):
            yield run
            run = []
        run.append(entry)
    if run:
        yield run


def _forget_oldest(cache: dict[Place, T], count: int) -> None:
    for place in list(islice(cache, max(0, count))):
        del cache[place]
