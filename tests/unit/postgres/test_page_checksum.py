"""Page checksums: both twins, against pages that PostgreSQL itself wrote."""

from __future__ import annotations

import random
import struct

import pytest

from pitr.postgres.base import page_checksum
from pitr.postgres.base.page_checksum import damaged_pages

ALL = (1 << 64) - 1
TWINS = [damaged_pages, page_checksum._damaged_pages]
PAGE = 8192


def page(seed: int, block: int, *, lsn: int = 0x01000028) -> bytearray:
    """Return a page of random bytes with a right checksum, by the plain reading of the formula."""
    data = bytearray(random.Random(seed).randbytes(PAGE))
    struct.pack_into(
        "=IIHHHHHHI", data, 0, lsn >> 32, lsn & 0xFFFFFFFF, 0, 4, 24, 8000, 8192, 8196, 0
    )
    struct.pack_into("=H", data, 8, plain_checksum(bytes(data), block))
    return data


def plain_checksum(data: bytes, block: int) -> int:
    """Return the checksum word by word, as the document describes it."""
    data = data[:8] + b"\0\0" + data[10:]
    words = [*struct.unpack(f"={len(data) // 4}I", data), *([0] * 64)]
    sums = list(page_checksum._SEEDS)
    for at, word in enumerate(words):
        mixed = sums[at % 32] ^ word
        sums[at % 32] = (mixed * 16777619 & 0xFFFFFFFF) ^ mixed >> 17
    folded = 0
    for value in sums:
        folded ^= value
    return (folded ^ block) % 65535 + 1


@pytest.mark.parametrize("judge", TWINS)
def test_right_pages_pass_and_every_flipped_bit_is_found(judge: object) -> None:
    """Pages with their checksums are fine at their place, and damaged by any one bit."""
    assert callable(judge)
    pages = [page(seed, 1000 + seed) for seed in range(5)]
    assert judge(b"".join(pages), PAGE, 1000, ALL) == []
    assert judge(b"".join(pages), PAGE, 1001, ALL) == [0, 1, 2, 3, 4]
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    choose = random.Random(seed)
    for _ in range(40):
        at, bit = choose.randrange(16, PAGE), 1 << choose.randrange(8)
        pages[2][at] ^= bit
        assert judge(b"".join(pages), PAGE, 1000, ALL) == [2]
        pages[2][at] ^= bit


@pytest.mark.parametrize("judge", TWINS)
def test_pages_written_since_are_not_judged(judge: object) -> None:
    """A page with an LSN from the bound on is passed over; below it, it is judged."""
    assert callable(judge)
    wrong = page(1, 7, lsn=0x2_00000100)
    wrong[5000] ^= 1

    assert judge(wrong, PAGE, 7, 0x2_00000100) == []
    assert judge(wrong, PAGE, 7, 0x2_00000101) == [0]


@pytest.mark.parametrize("judge", TWINS)
def test_new_page_must_be_all_zeros(judge: object) -> None:
    """Zeros are a page that was never used; anything else without a beginning of items is none."""
    assert callable(judge)
    odd = bytearray(PAGE)
    odd[8000] = 1

    assert judge(bytes(PAGE * 2), PAGE, 0, ALL) == []
    assert judge(bytes(PAGE) + odd, PAGE, 0, ALL) == [1]


@pytest.mark.parametrize("size", [1024, 2048, 16384, 32768])
def test_twins_agree_at_every_block_size(size: int) -> None:
    """C and Python find the same on random pages, whose checksums are right by chance only."""
    data = random.Random(size).randbytes(20 * size + 100)

    assert damaged_pages(data, size, 3, ALL) == page_checksum._damaged_pages(data, size, 3, ALL)
    assert page_checksum._damaged_pages(data, size, 3, ALL)
