"""The live database as one consistent image, and which of its pages the archive does not have.

Read under a read transaction, without stopping writers. A page's image is its last frame in the
part of the WAL that is committed and not yet copied back, else the page in the database file; why
that is right is in docs/formats/sqlite-wal.md, "Which image of a page is the newest".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from pitr.sqlite.capture.seen import Interval, SeenCommit
from pitr.sqlite.capture.source import Source
from pitr.sqlite.capture.wal_reader import WalReader
from pitr.sqlite.file.page import lock_byte_page
from pitr.sqlite.pagelog.pagemap import CurrentPages
from pitr.sqlite.pagelog.segment import page_digest

_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class LiveImage:
    """The pages of the source as of the read transaction that the caller holds.

    `frames` says which pages are to be taken from the WAL, and there from which frame.
    """

    source: Source
    interval: Interval
    page_size: int
    page_count: int
    frames: Mapping[int, int]
    reader: WalReader | None = None
    change_counter: int = 0

    def state(self, pages: Iterable[tuple[int, bytes]]) -> SeenCommit:
        """Return the image as a state to be recorded, of which `pages` are new."""
        mark = self.reader.mark if self.reader and self.reader.mark.frame else None
        return SeenCommit(self.interval, self.page_count, pages, mark, self.change_counter)

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """Yield (page number, image) of every page, ascending.

        Pages that were never written are left out: the lock-byte page, and growth that has
        reached neither the WAL nor the file.
        """
        chunk_pages = _CHUNK_BYTES // self.page_size
        for first in range(1, self.page_count + 1, chunk_pages):
            count = min(chunk_pages, self.page_count + 1 - first)
            yield from self._chunk(first, count)

    def _chunk(self, first: int, count: int) -> Iterator[tuple[int, bytes]]:
        size = self.page_size
        data = self.source.database_bytes((first - 1) * size, count * size)
        skipped = lock_byte_page(size)
        for number in range(first, first + count):
            frame = self.frames.get(number)
            if frame is not None and self.reader is not None:
                yield number, self.reader.image(frame)
            elif number != skipped:
                begin = (number - first) * size
                image = data[begin : begin + size]
                if len(image) == size:
                    yield number, image


def differing_pages(
    image: LiveImage,
    known: CurrentPages | None,
    progress: Callable[[int], None] = lambda _page_number: None,
) -> Iterator[tuple[int, bytes]]:
    """Yield (page number, image) of the pages that `known` does not have as they are.

    Without `known`, all pages. `progress` is called now and then with the page reached.
    """
    every = _CHUNK_BYTES // image.page_size
    for number, data in image.pages():
        if known is None or page_digest(data) != known.digest(number):
            yield number, data
        if number % every == 0:
            progress(number)
