"""The frame around every object. Goal: no damage is served, and no bytes whatever crash a reader.

Method: a small object is damaged at every byte and cut at every length; random bytes and random
frames with right checksums are read.
"""

from __future__ import annotations

import struct

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from pitr.archive.object import (
    END_MAGIC,
    MAGIC,
    SECTION_BYTES_MAX,
    TAIL_BYTES,
    ObjectReader,
    Section,
    encode_object,
    verify_object,
)
from pitr.errors import CorruptObject
from tests.memory_store import MemoryStore

KEY = "log/object"
KIND = b"TEST"
SECTIONS = {1: b"compressible " * 20, 2: bytes(range(64)), 7: b""}
SMALL = encode_object(
    KIND, 3, [Section(number, data, compress=number != 2) for number, data in SECTIONS.items()]
)
# Behind the header's magic and kind, version and flags are covered by the whole checksum only.
VERSION_AND_FLAGS = range(12, 16)


def store_of(data: bytes) -> MemoryStore:
    store = MemoryStore()
    store.put(KEY, data)
    return store


def read_all(reader: ObjectReader) -> dict[int, bytes]:
    return {number: reader.section(number) for number in SECTIONS}


@given(
    st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=300), st.booleans()),
        max_size=6,
        unique_by=lambda item: item[0],
    ),
    st.integers(0, 2**16 - 1),
)
def test_object_written_reads_back(items: list[tuple[int, bytes, bool]], version: int) -> None:
    """Every section comes back as it was given, by both ways of reading."""
    data = encode_object(KIND, version, [Section(*item) for item in items])

    verify_object(KEY, data, KIND)
    for reader in (
        ObjectReader.of_bytes(KEY, data, KIND),
        ObjectReader(store_of(data), KEY, len(data), KIND),
    ):
        assert reader.version == version
        assert [reader.section(number) for number, _, _ in items] == [raw for _, raw, _ in items]


def test_large_object_is_read_section_by_section() -> None:
    """Beyond the tail a reader fetches the header, the tail and the sections it wants, no more."""
    large = bytes(range(256)) * 4096
    data = encode_object(KIND, 1, [Section(1, large, compress=False), Section(2, b"small")])
    reader = ObjectReader(store_of(data), KEY, len(data), KIND)
    assert reader.bytes_read <= TAIL_BYTES + 16

    assert reader.section(2) == b"small"
    assert reader.bytes_read <= TAIL_BYTES + 16
    assert reader.section(1) == large
    assert reader.bytes_read <= TAIL_BYTES + 16 + len(large)
    begin, end = reader.extent(1)
    assert data[begin:end] == large


def test_every_flipped_byte_is_detected_by_verify() -> None:
    """Each byte of an object is covered by the checksum over all, or is one of its marks."""
    for position in range(len(SMALL)):
        for bit in range(8):
            damaged = bytearray(SMALL)
            damaged[position] ^= 1 << bit
            with pytest.raises(CorruptObject):
                verify_object(KEY, bytes(damaged), KIND)


def test_every_flipped_byte_is_harmless_or_detected_by_the_reader() -> None:
    """A reader that fetches sections alone serves what was written, or nothing."""
    directory_begin = struct.unpack_from("<Q", SMALL, len(SMALL) - 48)[0]
    for position in range(len(SMALL)):
        damaged = bytearray(SMALL)
        damaged[position] ^= 0xFF
        try:
            reader = ObjectReader(store_of(bytes(damaged)), KEY, len(SMALL), KIND)
            assert read_all(reader) == SECTIONS
            served = True
        except CorruptObject:
            served = False
        covered = position < directory_begin + 40 * len(SECTIONS)
        if covered and position not in VERSION_AND_FLAGS:
            assert not served, f"byte {position} was flipped and nobody noticed"


def test_every_truncation_is_detected() -> None:
    """An object cut at any length is refused by verify, and by the reader at the listed size."""
    for length in range(len(SMALL)):
        cut = SMALL[:length]
        for read in (
            lambda cut=cut: verify_object(KEY, cut, KIND),
            lambda cut=cut: ObjectReader.of_bytes(KEY, cut, KIND),
            lambda cut=cut: ObjectReader(store_of(cut), KEY, len(cut), KIND),
            lambda cut=cut: ObjectReader(store_of(cut), KEY, len(SMALL), KIND),
        ):
            with pytest.raises(CorruptObject):
                read()


def test_object_of_another_kind_is_refused() -> None:
    """A lease in the place of a segment is named as what it is."""
    with pytest.raises(CorruptObject, match=KEY) as raised:
        verify_object(KEY, SMALL, b"SEGM")

    assert raised.value.exit_code == 5
    assert "TEST" in raised.value.reason


def test_missing_section_is_damage() -> None:
    """A reader that needs a section the object lacks says which."""
    reader = ObjectReader.of_bytes(KEY, SMALL, KIND)

    assert 7 in reader
    assert 8 not in reader
    with pytest.raises(CorruptObject) as raised:
        reader.section(8)
    assert "8" in raised.value.reason


@given(st.binary(max_size=400))
def test_random_bytes_raise_nothing_but_corrupt(noise: bytes) -> None:
    """Whatever lies in the place of an object is damage, never a crash of the reader."""
    head = MAGIC + KIND + bytes(4)
    for data in (noise, head + noise, head + noise + END_MAGIC, SMALL[: len(SMALL) // 2] + noise):
        with pytest.raises(CorruptObject):
            verify_object(KEY, data, KIND)
        with pytest.raises(CorruptObject):
            ObjectReader(store_of(data), KEY, len(data), KIND)


def forge(body: bytes, entries: list[tuple[int, int, int, int, int, int]]) -> bytes:
    """Return an object with these directory entries, all checksums over the frame right."""
    directory = b"".join(struct.pack("<IIQQQQ", *entry) for entry in entries)
    data = MAGIC + KIND + struct.pack("<HH", 1, 0) + body + directory
    data += struct.pack(
        "<QIIQ", 16 + len(body), len(entries), 0, xxhash.xxh3_64_intdigest(directory)
    )
    return data + xxhash.xxh3_128_digest(data) + END_MAGIC


small_or_huge = st.integers(0, 60) | st.integers(0, 2**64 - 1)


@given(
    st.binary(max_size=60),
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(0, 3), small_or_huge, small_or_huge, small_or_huge,
            st.none() | st.integers(0, 2**64 - 1),
        ),
        max_size=4,
    ),
)  # fmt: skip
def test_forged_directory_raises_nothing_but_corrupt(
    body: bytes, entries: list[tuple[int, int, int, int, int, int | None]]
) -> None:
    """A directory that lies under right checksums is refused, without a huge allocation."""
    whole = [
        (number, flags, offset, stored, raw,
         xxhash.xxh3_64_intdigest(body[max(0, offset - 16) : max(0, offset - 16) + stored])
         if checksum is None else checksum)
        for number, flags, offset, stored, raw, checksum in entries
    ]  # fmt: skip
    data = forge(body, whole)
    try:
        reader = ObjectReader(store_of(data), KEY, len(data), KIND)
    except CorruptObject:
        return
    for number, *_ in whole:
        try:
            section = reader.section(number)
        except CorruptObject:
            continue
        assert len(section) <= len(body)


@pytest.mark.parametrize("raw", [0, 4, 6, SECTION_BYTES_MAX, SECTION_BYTES_MAX + 1])
def test_section_of_another_length_than_declared_is_refused(raw: int) -> None:
    """A frame that holds more or fewer bytes than the directory says is damage."""
    import zstandard

    stored = zstandard.ZstdCompressor().compress(b"hello")
    data = forge(stored, [(1, 1, 16, len(stored), raw, xxhash.xxh3_64_intdigest(stored))])

    with pytest.raises(CorruptObject):
        ObjectReader.of_bytes(KEY, data, KIND).section(1)
