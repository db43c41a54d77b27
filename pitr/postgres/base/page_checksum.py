"""The checksum that PostgreSQL keeps on every data page, and which pages contradict theirs.

32 FNV-1a sums run side by side over the words of a page (docs/formats/postgres-archive.md, "Page
checksums"; PostgreSQL: src/include/storage/checksum_impl.h). The C of `_speedups` does it at
memory speed. Its twin here holds the sums of many pages in two Python integers, a lane of 64 bits
for each, so that a product never reaches its neighbour.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import struct
import sys
from collections.abc import Callable
from types import ModuleType

Bytes = bytes | bytearray | memoryview

# Relation files are cut into segments of this many bytes; the block number goes on across them.
SEGMENT_BYTES = 1 << 30

_SUMS = 32
_PRIME = 16777619
_ROW_BYTES = 4 * _SUMS
_CHECKSUM_AT = 8
# Where a page's items begin (pd_upper): 0 on a page that was never initialised.
_UPPER = struct.Struct("=14xH")
_HEADER = struct.Struct("=IIH")  # LSN high, LSN low, checksum
_WORD = 0xFFFFFFFF
_PAGES_TOGETHER = 16
_SEEDS = (
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
)  # fmt: skip


def _damaged_pages(data: Bytes, page_size: int, first_block: int, judged_below: int) -> list[int]:
    whole = memoryview(data)
    damaged: list[int] = []
    judged: list[tuple[int, memoryview, int]] = []
    for index in range(len(whole) // page_size):
        page = whole[index * page_size : (index + 1) * page_size]
        if _UPPER.unpack_from(page)[0] == 0:
            if any(page):
                damaged.append(index)
            continue
        high, low, stored = _HEADER.unpack_from(page)
        if high << 32 | low < judged_below:
            judged.append((index, page, stored))
    for begin in range(0, len(judged), _PAGES_TOGETHER):
        together = judged[begin : begin + _PAGES_TOGETHER]
        sums = _sum_pages([page for _, page, _ in together])
        for (index, _, stored), folded in zip(together, sums, strict=True):
            if (folded ^ (first_block + index)) % 65535 + 1 != stored:
                damaged.append(index)
    return sorted(damaged)


def _sum_pages(pages: list[memoryview]) -> list[int]:
    """Return the 32 sums of each page, folded into one word."""
    mask, even, odd = _lanes(len(pages))
    for at in range(0, len(pages[0]), _ROW_BYTES):
        row = int.from_bytes(b"".join(_row(page, at) for page in pages), sys.byteorder)
        even, odd = _step(even ^ row & mask, mask), _step(odd ^ row >> 32 & mask, mask)
    for _ in range(2):
        even, odd = _step(even, mask), _step(odd, mask)
    folded = (even ^ odd).to_bytes(len(pages) * _ROW_BYTES, sys.byteorder)
    words = memoryview(folded).cast("Q")
    half = _SUMS // 2
    sums = [
        functools.reduce(lambda left, right: left ^ right, words[at : at + half])
        for at in range(0, len(words), half)
    ]
    # A big-endian integer has its first page in the highest lane, and so has its byte string.
    return [word & _WORD for word in sums]


def _step(mixed: int, mask: int) -> int:
    # 17 bits to the right: what falls out of a lane would land in the one below, so mask again.
    return (mixed * _PRIME & mask) ^ (mixed >> 17 & mask)


def _row(page: memoryview, at: int) -> memoryview | bytes:
    row = page[at : at + _ROW_BYTES]
    if at:
        return row
    return bytes(row[:_CHECKSUM_AT]) + b"\0\0" + bytes(row[_CHECKSUM_AT + 2 :])


@functools.lru_cache(maxsize=_PAGES_TOGETHER)
def _lanes(count: int) -> tuple[int, int, int]:
    """Return the mask of the lanes of `count` pages, and the seeds of even and odd words."""
    seeds = int.from_bytes(struct.pack(f"={_SUMS}I", *_SEEDS) * count, sys.byteorder)
    mask = int.from_bytes(struct.pack("=Q", _WORD) * (count * _SUMS // 2), sys.byteorder)
    return mask, seeds & mask, seeds >> 32 & mask


# Built without a compiler there is no such module: the twins are right, only slower.
_compiled: ModuleType | None = None
if os.environ.get("PITR_PURE") != "1":
    with contextlib.suppress(ImportError):
        _compiled = importlib.import_module("pitr._speedups")

damaged_pages: Callable[[Bytes, int, int, int], list[int]] = getattr(
    _compiled, "damaged_pages", _damaged_pages
)
"""`damaged_pages(data, page_size, first_block, judged_below)`: the indexes of damaged pages.

`first_block` is the number of the first page in its relation fork, counted across segment files.
Pages whose LSN is `judged_below` or later are passed over: they were changed after that point, may
have been caught half-written, and the WAL since then holds them whole. A page that was never
initialised must be all zeros. A rest shorter than a page is passed over.
"""
