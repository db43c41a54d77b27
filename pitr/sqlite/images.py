"""Fetch page images: verified, cached, and fetched ahead of the reader by other threads."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import NamedTuple, TypeVar

import zstandard

from pitr.archive.object import decompress
from pitr.archive.store import Store
from pitr.errors import CorruptObject, ObjectMissing, PitrError
from pitr.sqlite.segment import SegmentIndex, page_digest

_IMAGES_CACHED = 4096
# Announced pages that were never asked for make room for others from here on.
AHEAD_BYTES_MAX = 32 << 20
_PIECE_BYTES = 2 << 20  # of images, decompressed: what one request brings
_REQUESTS_AT_ONCE = 8
# A local page costs less than handing it to another thread.
_LOCAL_PAGES_MIN = 8

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
        wanted: list[Place] = []
        room_bytes = AHEAD_BYTES_MAX
        for place in places:
            room_bytes -= place.segment.page_size
            if room_bytes < 0:
                break
            if place not in self._images and place not in self._ahead:
                wanted.append(place)
        pieces = list(_pieces(wanted))
        if self._store.is_remote:
            for piece in pieces:
                self._begin([piece])
        elif len(wanted) >= _LOCAL_PAGES_MIN:
            self._begin(pieces)

    def _begin(self, pieces: list[_Piece]) -> None:
        batch = _Batch(self._workers.submit(_read_batch, self._store, pieces))
        places = [Place(piece.index, entry) for piece in pieces for entry in piece.entries]
        self.bytes_read += sum(place.segment.lengths[place.entry] for place in places)
        self._ahead.update((place, (batch, at)) for at, place in enumerate(places))
        pages_max = AHEAD_BYTES_MAX // pieces[0].index.page_size
        _forget_oldest(self._ahead, len(self._ahead) - pages_max)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Entries of one object, ascending, to be fetched in one request."""

    index: SegmentIndex
    entries: list[int]


class _Batch:
    """Images that another thread fetches."""

    __slots__ = ("_future", "_images")

    def __init__(self, future: Future[list[bytes | None]]) -> None:
        self._future = future
        self._images: list[bytes | None] | None = None

    def image(self, at: int) -> bytes | None:
        """Wait for the images and return one; None when it has to be read by itself."""
        if self._images is None:
            self._images = self._future.result()
        return self._images[at]


def _read_batch(store: Store, pieces: list[_Piece]) -> list[bytes | None]:
    """Return the images of all entries; None for whatever is wrong with them.

    Decompressed in one call, for which Python's lock is free: a call for each page would have to
    wait for the lock each time.
    """
    sizes = [piece.index.page_size for piece in pieces for _ in piece.entries]
    try:
        frames: list[bytes | bytearray | memoryview[int]] = []
        for piece in pieces:
            frames += _frames(store, piece)
        images = zstandard.ZstdDecompressor().multi_decompress_to_buffer(
            frames, decompressed_sizes=array("Q", sizes).tobytes(), threads=1
        )
    except (PitrError, zstandard.ZstdError):
        return [None] * len(sizes)
    digests = (piece.index.digests[entry] for piece in pieces for entry in piece.entries)
    found: list[bytes | None] = []
    for at, digest in enumerate(digests):
        image = images[at].tobytes()
        found.append(image if page_digest(image) == digest else None)
    return found


def _frames(store: Store, piece: _Piece) -> list[bytes]:
    """Fetch the zstd frames of entries, neighbours as one range."""
    entries, offsets = piece.entries, piece.index.offsets
    breaks = [at for at in range(1, len(entries)) if entries[at] - entries[at - 1] > 1]
    runs = [
        range(entries[begin], entries[end - 1] + 1)
        for begin, end in pairwise([0, *breaks, len(entries)])
    ]
    extents = [(offsets[run.start], offsets[run.stop]) for run in runs]
    frames: list[bytes] = []
    for run, data in zip(runs, store.get_ranges(piece.index.key, extents), strict=True):
        begin = offsets[run.start]
        frames += [data[offsets[at] - begin : offsets[at + 1] - begin] for at in run]
    return frames


def _pieces(places: list[Place]) -> Iterator[_Piece]:
    """Yield what is wanted of each object, in pieces of bounded size."""
    wanted: dict[SegmentIndex, list[int]] = {}
    for index, entry in places:
        wanted.setdefault(index, []).append(entry)
    for index, entries in wanted.items():
        entries.sort()
        pages = max(1, _PIECE_BYTES // index.page_size)
        for begin in range(0, len(entries), pages):
            yield _Piece(index, entries[begin : begin + pages])


def _forget_oldest(cache: dict[Place, T], count: int) -> None:
    for place in list(islice(cache, max(0, count))):
        del cache[place]
