"""A WAL object gives back exactly the bytes that went in, block by block, or names its damage."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.archive.object import Section, encode_object
from pitr.errors import CorruptObject, PreconditionFailed
from pitr.postgres.wal_store.object import (
    BLOCK_BYTES,
    KIND,
    WalObject,
    compress_blocks,
    encode_blocks,
    encode_wal,
)
from tests.memory_store import MemoryStore
from tests.unit.postgres.wal_bytes import MIB, head, segment

WHOLE = segment(3)
DATA = encode_wal(head(3), WHOLE)


@given(st.integers(0, MIB - 1), *[st.integers(0, MIB)] * 3)
def test_range_of_piece_is_what_went_in(a: int, b: int, c: int, d: int) -> None:
    """Any range of any piece reads as it was written, and nothing outside it."""
    begin, low, high, end = sorted([a, b, c, d])
    of = head(3, begin=begin, end=max(end, begin + 1))
    piece = WalObject.of_bytes(of.key, encode_wal(of, WHOLE[begin : of.end]))

    assert piece.read(low, high) == WHOLE[low:high]
    with pytest.raises(CorruptObject):
        piece.read(begin, of.end + 1)


def test_bytes_follow_from_the_wal_alone() -> None:
    """Blocks that were compressed some at a time, as capture does, make the same object."""
    view = memoryview(WHOLE)
    cuts = [0, BLOCK_BYTES, 4 * BLOCK_BYTES, MIB]
    blocks = [block for low, high in pairwise(cuts) for block in compress_blocks(view[low:high])]

    assert encode_blocks(head(3), blocks) == DATA == encode_wal(head(3), bytearray(WHOLE))
    assert head(3).key == "wal/00000001/000000010000000000000003"
    assert head(3, begin=16, end=512).key == (
        "wal/00000001/000000010000000000000003.00000010-00000200"
    )


def test_range_is_read_without_the_rest_of_the_object() -> None:
    """A few bytes of a large segment cost its index and one block."""
    whole = random.Random(1).randbytes(MIB)  # does not compress
    store = MemoryStore()
    store.put_new(head(3).key, encode_wal(head(3), whole))
    [info] = store.list()
    found = WalObject(store, info.key, info.size)
    before = found.bytes_read

    assert found.read(300_000, 300_100) == whole[300_000:300_100]
    assert found.bytes_read - before < BLOCK_BYTES + 100
    assert found.read(0, MIB) == whole


def test_segment_with_more_blocks_than_a_section_takes_reads_whole() -> None:
    """Segments of 128 MB are cut into several sections, and ranges cross them."""
    size = 128 * MIB
    of = head(0, segment_bytes=size)
    whole = (random.Random(2).randbytes(BLOCK_BYTES // 2) + bytes(BLOCK_BYTES // 2)) * 1024
    found = WalObject.of_bytes(of.key, encode_wal(of, whole))

    assert found.read(64 * MIB - 10, 64 * MIB + 10) == whole[64 * MIB - 10 : 64 * MIB + 10]
    assert found.read(0, size) == whole


@pytest.mark.parametrize("at", range(16, len(DATA), 997))
def test_changed_byte_is_named_or_harmless(at: int) -> None:
    """No byte of an object can change what is read without a CorruptObject."""
    changed = bytearray(DATA)
    changed[at] ^= 0x10
    try:
        found = WalObject.of_bytes(head(3).key, bytes(changed)).read(0, MIB)
    except CorruptObject:
        return
    assert found == WHOLE


@pytest.mark.parametrize("length", [0, 10, 100, 5000, len(DATA) - 1])
def test_cut_short_object_is_named(length: int) -> None:
    """A torn object is no object."""
    with pytest.raises(CorruptObject):
        WalObject.of_bytes(head(3).key, DATA[:length])


def test_object_under_another_name_is_refused() -> None:
    """What lies under a segment's name is that segment."""
    with pytest.raises(CorruptObject, match="damaged"):
        WalObject.of_bytes(head(4).key, DATA)


def test_object_of_a_later_format_is_refused() -> None:
    """A newer pitr's object is not guessed at: exit 3."""
    later = encode_object(KIND, 2, [Section(1, b"{}")])
    with pytest.raises(PreconditionFailed, match="newer version"):
        WalObject.of_bytes(head(3).key, later)
