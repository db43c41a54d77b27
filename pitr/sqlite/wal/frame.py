"""Frames of a WAL: one page image each, grouped into transactions by commit frames."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

FRAME_HEADER_BYTES = 24
# The checksum in the header of a frame that SQLite has not sealed yet.
UNSEALED = (0, 0)


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """The 24 bytes before a page image. `commit_pages` is 0 unless the frame ends a transaction."""

    page_number: int
    commit_pages: int
    salt1: int
    salt2: int
    checksum1: int
    checksum2: int

    @property
    def salts(self) -> tuple[int, int]:
        """Return the name of the generation that the frame was sealed in."""
        return self.salt1, self.salt2

    @property
    def is_unsealed(self) -> bool:
        """Return whether salts and checksum are still to be filled in."""
        return self.salts == (0, 0) and (self.checksum1, self.checksum2) == UNSEALED


def decode_frame_header(data: bytes | memoryview) -> FrameHeader:
    """Decode the first 24 bytes of a frame. Says nothing about their validity."""
    return FrameHeader(*struct.unpack_from(">6I", data))


@lru_cache(maxsize=8)
def _frame(page_size: int) -> struct.Struct:
    return struct.Struct(f">2I16x{page_size}s")


def iterate_frames(buffer: bytes | memoryview, page_size: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield (page number, commit size in pages, page image) of whole frames, unverified."""
    return _frame(page_size).iter_unpack(buffer)


@lru_cache(maxsize=8)
def _frame_numbers(page_size: int) -> struct.Struct:
    return struct.Struct(f">2I{16 + page_size}x")


def iterate_frame_numbers(buffer: bytes | memoryview, page_size: int) -> Iterator[tuple[int, int]]:
    """Yield (page number, commit size in pages) of whole frames, without copying the pages."""
    return _frame_numbers(page_size).iter_unpack(buffer)
