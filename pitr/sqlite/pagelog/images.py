"""Fetch page images: verified, cached, and fetched ahead of the reader by other threads."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from operator import attrgetter
from typing import NamedTuple, TypeAlias, TypeVar

import zstandard

from pitr.archive.object import decompress
from pitr.archive.store import Store
from pitr.errors import CorruptObject, ObjectMissing, PitrError
from pitr.sqlite.pagelog.segment import SegmentIndex, page_digest

_IMAGES_BYTES = 64 << 20
# Announced pages that were never asked for make room for others from here on.
AHEAD_BYTES_MAX = 32 << 20
_PIECE_BYTES = 2 << 20  # of images, decompressed: what one request brings
_REQUESTS_AT_ONCE = 8
# A local page costs less than handing it to another thread.
_LOCAL_PAGES_MIN = 8

_Frame: TypeAlias = "bytes | bytearray | memoryview[int]"  # as zstandard wants it

T = TypeVar("T")
R = TypeVar("R")


class Place(NamedTuple):
    """Where one page image lies: the index of the object that holds it, and its entry there."""

    segment: SegmentIndex
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
        self._ahead: dict[Place, _Batch] = {}
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
        if image is not None:
            return image
        batch = self._ahead.get(place)
        if batch is not None:
            self._take(batch)
        image = self._images.get(place)
        if image is None:
            image = self._images[place] = self._read(place)
            _forget_oldest(self._images, _IMAGES_BYTES // place.segment.page_size)
        return image

    def _take(self, batch: _Batch) -> None:
        """Wait for images that are on their way; those that came whole can be had from now on."""
        for place, image in zip(batch.places, batch.images.result(), strict=True):
            if self._ahead.pop(place, None) and image is not None:
                self._images[place] = image
        _forget_oldest(self._images, _IMAGES_BYTES // batch.places[0].segment.page_size)

    def _read(self, place: Place) -> bytes:
        if place.segment.key not in self._gone:
            try:
                return self._fetch(place)
            except ObjectMissing:
                self._gone.add(place.segment.key)
        return self._fetch(self._relocate(place))

    def _fetch(self, place: Place) -> bytes:
        index, entry = place
        [frame] = self._store.get_ranges(index.key, [index.extent(entry)])
        self.bytes_read += len(frame)
        return checked_image(index, entry, frame)

    def prefetch(self, places: Iterable[Place]) -> None:
        """Begin to fetch page images that will be asked for soon.

        A hint: stops at what it can keep, and leaves to `image` what cannot be had.
        """
        wanted: dict[Place, None] = {}  # in order, and each place once
        room_bytes = AHEAD_BYTES_MAX
        for place in places:
            room_bytes -= place.segment.page_size
            if room_bytes < 0:
                break
            if place not in self._images and place not in self._ahead:
                wanted[place] = None
        pieces = list(_pieces(list(wanted)))
        if self._store.is_remote:
            for piece in pieces:
                self._expect(piece, self._workers.submit(_fetched, self._store, piece))
        elif len(wanted) >= _LOCAL_PAGES_MIN:
            # Read here: in another thread each system call would have to wait for Python's lock.
            with suppress(PitrError):
                frames = [frame for piece in pieces for frame in _frames(self._store, piece)]
                places = [place for piece in pieces for place in piece]
                self._expect(places, self._workers.submit(_verified, places, frames))

    def _expect(self, places: list[Place], images: Future[list[bytes | None]]) -> None:
        self._ahead.update(dict.fromkeys(places, _Batch(places, images)))
        self.bytes_read += sum(segment.lengths[entry] for segment, entry in places)
        _forget_oldest(self._ahead, AHEAD_BYTES_MAX // places[0].segment.page_size)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Images that other threads fetch and decompress; None for whatever is wrong with one."""

    places: list[Place]
    images: Future[list[bytes | None]]


def _fetched(store: Store, piece: list[Place]) -> list[bytes | None]:
    try:
        frames = _frames(store, piece)
    except PitrError:
        return [None] * len(piece)
    return _verified(piece, frames)


def _verified(places: list[Place], frames: list[_Frame]) -> list[bytes | None]:
    """Return the images in frames; None for whatever is wrong with them.

    Decompressed in one call, for which Python's lock is free: a call for each page would have to
    wait for the lock each time.
    """
    sizes = array("Q", [place.segment.page_size for place in places])
    try:
        images = zstandard.ZstdDecompressor().multi_decompress_to_buffer(
            frames, decompressed_sizes=sizes.tobytes(), threads=1
        )
    except zstandard.ZstdError:
        return [None] * len(places)
    found: list[bytes | None] = []
    for at, (segment, entry) in enumerate(places):
        image = images[at].tobytes()
        found.append(image if page_digest(image) == segment.digests[entry] else None)
    return found


def _frames(store: Store, piece: list[Place]) -> list[_Frame]:
    """Fetch the zstd frames of images in one object, neighbours as one range."""
    offsets, entries = piece[0].segment.offsets, [place.entry for place in piece]
    breaks = [at for at in range(1, len(entries)) if entries[at] - entries[at - 1] > 1]
    runs = [
        range(entries[begin], entries[end - 1] + 1)
        for begin, end in pairwise([0, *breaks, len(entries)])
    ]
    extents = [(offsets[run.start], offsets[run.stop]) for run in runs]
    frames: list[_Frame] = []
    for run, data in zip(runs, store.get_ranges(piece[0].segment.key, extents), strict=True):
        whole, begin = memoryview(data), offsets[run.start]
        frames += [whole[offsets[at] - begin : offsets[at + 1] - begin] for at in run]
    return frames


def _pieces(places: list[Place]) -> Iterator[list[Place]]:
    """Yield the places in each object, ascending, in pieces of bounded size."""
    of_object: dict[SegmentIndex, list[Place]] = {}
    for place in places:
        of_object.setdefault(place.segment, []).append(place)
    for segment, found in of_object.items():
        found.sort(key=attrgetter("entry"))
        pages = max(1, _PIECE_BYTES // segment.page_size)
        yield from (found[begin : begin + pages] for begin in range(0, len(found), pages))


def _forget_oldest(kept: dict[Place, T], count_max: int) -> None:
    """Make room for an eighth more once a dictionary has grown beyond its limit."""
    if len(kept) > count_max:
        for place in list(islice(kept, len(kept) - count_max + count_max // 8)):
            del kept[place]
