"""Read the committed transactions of one WAL, verifying every frame on the way."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from pitr.errors import CorruptDatabase
from pitr.sqlite.capture.seen import Discontinuity
from pitr.sqlite.capture.source import Source
from pitr.sqlite.pagelog.segment import WalMark
from pitr.sqlite.wal.checksum import verify_frames
from pitr.sqlite.wal.frame import (
    FRAME_HEADER_BYTES,
    UNSEALED,
    decode_frame_header,
    iterate_frame_numbers,
    iterate_frames,
)
from pitr.sqlite.wal.header import WAL_HEADER_BYTES
from pitr.sqlite.wal.index import WalIndex

CHUNK_BYTES = 4 << 20
_CHECKSUM = struct.Struct(">II")

Committed = tuple[int, WalMark, Iterable[tuple[int, bytes]]]


@dataclass(frozen=True, slots=True)
class Run:
    """Verified frames of one generation, one after the other."""

    salt1: int
    salt2: int
    first_frame: int
    buffer: bytes


class WalReader:
    """A position in the WAL, and what comes after it. Frames count from 1.

    The caller holds a read transaction that keeps the frames in place, and asks for no frame that
    the wal-index has not published.
    """

    def __init__(self, source: Source, page_size: int) -> None:
        self._source = source
        self._page_size = page_size
        self._frame_bytes = FRAME_HEADER_BYTES + page_size
        self._big_endian = False
        self.mark = WalMark(0, 0, 0, 0, 0)
        self.unsealed_frames = 0  # met so far; docs/formats/sqlite-wal.md, "Unsealed frames"

    @property
    def salts(self) -> tuple[int, int]:
        """Return the name of the generation that the position lies in."""
        return self.mark.salt1, self.mark.salt2

    def begin_generation(self) -> None:
        """Go to the front of the WAL as its header describes it. Raises CorruptDatabase."""
        header = self._source.wal_header()
        if header.page_size != self._page_size:
            raise CorruptDatabase(
                "the WAL belongs to another page size",
                detail=f"It declares {header.page_size}, the database {self._page_size} bytes.",
            )
        self._big_endian = header.big_endian
        self.mark = WalMark(header.salt1, header.salt2, 0, header.checksum1, header.checksum2)

    def go_to(self, frame: int) -> None:
        """Go to after a frame of the present generation, taking its word for the checksum.

        Raises CorruptDatabase.
        """
        self.begin_generation()
        if frame:
            head = decode_frame_header(
                self._source.wal_bytes(self._offset(frame), FRAME_HEADER_BYTES)
            )
            self.mark = WalMark(*self.salts, frame, head.checksum1, head.checksum2)

    def go_to_end(self, index: WalIndex) -> None:
        """Go to the newest commit as the wal-index names it, without reading the WAL."""
        self._big_endian = index.big_endian
        if index.max_frame:
            self.mark = WalMark(*index.salts, index.max_frame, index.checksum1, index.checksum2)

    def runs(self, until: int, bytes_max: int = CHUNK_BYTES) -> Iterator[Run]:
        """Yield the frames from the position up to `until`, verified; the position moves along.

        Raises Discontinuity when a frame is not valid, CorruptDatabase when the WAL is too short.
        """
        count_max = max(1, bytes_max // self._frame_bytes)
        while (frame := self.mark.frame) < until:
            count = min(count_max, until - frame)
            buffer = self._source.wal_bytes(self._offset(frame + 1), count * self._frame_bytes)
            self._verify(buffer, count)
            yield Run(self.mark.salt1, self.mark.salt2, frame + 1, buffer)

    def _verify(self, buffer: bytes, count: int) -> None:
        """Move the position over `count` frames that lie in the buffer."""
        salts, frame = self.salts, self.mark.frame
        s0, s1 = self.mark.checksum1, self.mark.checksum2
        frames = memoryview(buffer)
        at = 0
        while True:
            valid, s0, s1 = verify_frames(
                frames[at * self._frame_bytes :], self._page_size, *salts, s0, s1, self._big_endian
            )
            at += valid
            if at == count:
                break
            head = decode_frame_header(frames[at * self._frame_bytes :])
            is_unsealed = head.is_unsealed
            # What follows an unsealed frame continues a checksum that nobody knows.
            if not is_unsealed and not ((s0, s1) == UNSEALED and head.salts == salts):
                raise Discontinuity(f"frame {frame + at + 1} of the WAL is not valid")
            self.unsealed_frames += is_unsealed
            s0, s1 = head.checksum1, head.checksum2
            at += 1
        self.mark = WalMark(*salts, frame + count, s0, s1)

    def run(self, until: int) -> Run | None:
        """Return the frames from the position up to `until` in one piece, None when there is none.

        Its commits need nothing more of the WAL. Raises as `runs` does.
        """
        size = max(1, until - self.mark.frame) * self._frame_bytes
        return next(self.runs(until, bytes_max=size), None)

    def commits(self, runs: Iterable[Run]) -> Iterator[Committed]:
        """Yield (size in pages, position after it, its pages ascending) of each commit.

        The runs follow each other and begin after a commit. Of several images of a page in one
        commit only the last is yielded.
        """
        early: dict[int, int] = {}  # pages of the open transaction, in runs already passed
        for run in runs:
            pages: dict[int, bytes] = {}
            done = 0
            for at, (page_number, commit_pages, image) in enumerate(
                iterate_frames(run.buffer, self._page_size), start=1
            ):
                pages[page_number] = image
                if commit_pages:
                    mark = self._mark_after(run, at)
                    yield commit_pages, mark, self._pages(early, pages)
                    early, pages, done = {}, {}, at
            if pages:
                numbers = iterate_frame_numbers(run.buffer, self._page_size)
                for at, (page_number, _) in enumerate(islice(numbers, done, None), start=done):
                    early[page_number] = run.first_frame + at

    def _mark_after(self, run: Run, count: int) -> WalMark:
        """Return the position after the first `count` frames of a run."""
        head = (count - 1) * self._frame_bytes
        checksum = _CHECKSUM.unpack_from(run.buffer, head + FRAME_HEADER_BYTES - _CHECKSUM.size)
        return WalMark(run.salt1, run.salt2, run.first_frame + count - 1, *checksum)

    def _pages(self, early: dict[int, int], pages: dict[int, bytes]) -> Iterable[tuple[int, bytes]]:
        if not early:
            return sorted(pages.items())
        return (
            (number, pages[number] if number in pages else self.image(early[number]))
            for number in sorted(early.keys() | pages.keys())
        )

    def count_commits(self, until: int) -> int:
        """Return how many commits lie after the position up to frame `until`; stay there."""
        before = self.mark
        found = sum(
            1
            for run in self.runs(until)
            for _, commit_pages in iterate_frame_numbers(run.buffer, self._page_size)
            if commit_pages
        )
        self.mark = before
        return found

    def newest_frames(self, until: int) -> tuple[dict[int, int], int]:
        """Return the last frame of each page up to frame `until`, and how many commits that is.

        The position moves there.
        """
        newest: dict[int, int] = {}
        commits = 0
        for run in self.runs(until):
            numbers = iterate_frame_numbers(run.buffer, self._page_size)
            for frame, (page_number, commit_pages) in enumerate(numbers, start=run.first_frame):
                newest[page_number] = frame
                commits += commit_pages > 0
        return newest, commits

    def image(self, frame: int) -> bytes:
        """Return the page image of a frame that was verified before."""
        return self._source.wal_bytes(self._offset(frame) + FRAME_HEADER_BYTES, self._page_size)

    def _offset(self, frame: int) -> int:
        return WAL_HEADER_BYTES + (frame - 1) * self._frame_bytes
