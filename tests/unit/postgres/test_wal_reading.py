"""Names, pages, records and the reader: what is built is read back, nothing else is believed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.errors import CorruptWal, SourceUnusable
from pitr.postgres.wal.end import LogEnd
from pitr.postgres.wal.page import PAGE_BYTES, advance, decode_segment_header
from pitr.postgres.wal.reader import RecordReader
from pitr.postgres.wal.record import RelationFile, decode_record
from pitr.postgres.wal.segment_name import (
    SegmentName,
    history_name,
    is_backup_name,
    is_partial_name,
    is_segment_bytes,
    is_segment_name,
    timeline_of_history,
)
from pitr.postgres.wal.versions import RM_XLOG, rmgr_name, version_of_magic, version_of_major
from tests.unit.postgres.wal_builder import MIB, SYSTEM, Block, WalBuilder, encode_record
from tests.unit.postgres.wal_world import SIZES, mixed_wal

# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "segment_bytes", "begin"),
    [
        ("000000010000000000000001", 16 * MIB, 0x1000000),
        ("0000000200000003000000FF", 16 * MIB, 0x3FF000000),
        ("000000010000000100000FFF", MIB, 0x1FFF00000),
        ("000000010000000100000003", 1024 * MIB, 0x1C0000000),
    ],
)
def test_segment_name_says_where_the_segment_begins(
    text: str, segment_bytes: int, begin: int
) -> None:
    """The last eight digits count segments in 4 GiB."""
    name = SegmentName.parse(text, segment_bytes)
    assert (name.begin, name.end) == (begin, begin + segment_bytes)
    assert str(name) == text
    assert SegmentName.at(name.timeline, begin + 5, segment_bytes) == name


@given(st.integers(1, 2**32 - 1), st.integers(0, 2**33), st.sampled_from([MIB, 16 * MIB, 2**30]))
def test_segment_names_are_read_back(timeline: int, number: int, segment_bytes: int) -> None:
    """Also around the end of 4 GiB, and their order is that of their numbers."""
    name = SegmentName(timeline, number, segment_bytes)
    assert SegmentName.parse(str(name), segment_bytes) == name
    assert str(name) < str(name.next)
    assert is_partial_name(name.partial)


@pytest.mark.parametrize(
    "text",
    ["", "00000001000000000000000", "00000001000000000000000g", "000000010000000000000100",
     "000000000000000000000001", "000000010000000000000001.partial"],
)  # fmt: skip
def test_text_that_names_no_segment_is_refused(text: str) -> None:
    """Among them a number that no segment of 16 MB can have."""
    with pytest.raises(ValueError, match="segment"):
        SegmentName.parse(text)


def test_other_files_of_a_wal_folder_are_told_apart() -> None:
    """Histories, partial segments and backup histories."""
    assert history_name(0x1F) == "0000001F.history"
    assert timeline_of_history("0000001F.history") == 31
    assert timeline_of_history("0000001F.histor") is None
    assert is_backup_name("000000010000000000000002.00000028.backup")
    assert not is_segment_name("000000010000000000000002.00000028.backup")
    assert [size for size in (0, 2**19, MIB, 3 * MIB, 2**30, 2**31) if is_segment_bytes(size)] == [
        MIB,
        2**30,
    ]


def test_versions_are_found_by_magic_and_by_number() -> None:
    """Another one is a precondition, exit 3: it is not damage."""
    for number in range(13, 19):
        version = version_of_major(number)
        assert version_of_magic(version.magic) == version
    with pytest.raises(SourceUnusable, match="D120"):
        version_of_magic(0xD120)
    with pytest.raises(SourceUnusable, match="12"):
        version_of_major(12)
    assert rmgr_name(21) == "LogicalMessage"
    assert rmgr_name(130) == "custom130"


# ---- pages ---------------------------------------------------------------------------------------


def test_first_page_says_what_the_segment_is() -> None:
    """Version, cluster, timeline, place and size."""
    wal = mixed_wal([1], major=18, timeline=7)
    head = decode_segment_header(wal.data)
    assert (head.version.major, head.system_identifier, head.timeline) == (18, SYSTEM, 7)
    assert (head.begin, head.segment_bytes) == (MIB, MIB)


@pytest.mark.parametrize(
    ("at", "new", "error"),
    [
        (0, b"\x20\xd1", SourceUnusable),
        (0, b"\x7fEL", CorruptWal),
        (2, b"\0", CorruptWal),
        (8, b"\0\x20", CorruptWal),
        (32, b"\x01", CorruptWal),
        (37, b"\x40", CorruptWal),
    ],
)
def test_what_is_no_segment_is_refused(at: int, new: bytes, error: type[Exception]) -> None:
    """A future version, another file, another page, another size."""
    wal = mixed_wal([1])
    wal.data[at : at + len(new)] = new
    with pytest.raises(error):
        decode_segment_header(wal.data)
    with pytest.raises(CorruptWal, match="cut short"):
        decode_segment_header(wal.data[:39])


@given(st.integers(0, 300), st.integers(5, 1023), st.integers(0, 3 * MIB))
def test_advance_counts_what_content_takes(pages: int, words: int, count: int) -> None:
    """Arithmetic over headers agrees with the number of pages and segments passed."""
    begin = pages * PAGE_BYTES + words * 8
    end = advance(begin, count, MIB)

    def content_before(lsn: int) -> int:
        pages, segments = -(-lsn // PAGE_BYTES), -(-lsn // MIB)
        return lsn - 24 * pages - 16 * segments

    assert content_before(end) - content_before(begin) == count


# ---- records -------------------------------------------------------------------------------------


def test_record_with_all_its_parts_is_decoded() -> None:
    """Header, blocks of two relations, images with and without a hole, origin, top-level xid."""
    page_image = bytes(range(256)) * 32
    blocks = (
        Block(0, block=5, data=b"abc", will_init=True),
        Block(1, file=(1664, 0, 1262), fork=2, block=1, image=page_image, image_info=0x02),
        Block(9, same_relation=True, block=3, image=page_image[:8000], hole=(100, 192)),
        Block(
            32,
            file=(1, 2, 3),
            block=2**32 - 1,
            image=b"zz",
            hole=(9, 9),
            image_info=0x06,
            is_compressed=True,
        ),
    )
    between = struct.pack("<BHBI", 253, 17, 252, 991)
    data = encode_record(
        11, 0x31, xid=992, prev=8, blocks=blocks, main=b"m" * 300, before_main=between
    )
    record = decode_record(4096, data, version_of_major(16))
    assert (record.header.xid, record.header.prev, record.header.operation) == (992, 8, 0x30)
    assert (record.origin, record.toplevel_xid, record.main) == (17, 991, b"m" * 300)
    assert [block.file for block in record.blocks] == [
        RelationFile(1663, 5, 16384),
        RelationFile(1664, 0, 1262),
        RelationFile(1664, 0, 1262),
        RelationFile(1, 2, 3),
    ]
    assert record.blocks[0].data == b"abc"
    images = [block.image for block in record.blocks[1:] if block.image]
    assert [image.data for image in images] == [page_image, page_image[:8000], b"zz"]
    assert [(i.hole_offset, i.hole_bytes, i.method, i.is_applied) for i in images] == [
        (0, 0, None, True),
        (100, 192, None, False),
        (9, 9, "pglz", True),
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode_record(1, main=b"x")[:-1], "header says"),
        (encode_record(1, before_main=b"\xff"), "inside one of its headers"),
        (encode_record(1, before_main=b"\xff\x05"), "add up"),
        (encode_record(1, before_main=bytes([33] * 9)), "id 33"),
        (encode_record(1, blocks=(Block(2), Block(2))), "id 2"),
        (encode_record(1, blocks=(Block(same_relation=True),)), "relation of the one before"),
        (encode_record(1, blocks=(Block(image=bytes(9000)),)), "page image"),
        (encode_record(1, blocks=(Block(image=bytes(99)),)), "page image"),
        (encode_record(1, blocks=(Block(image=bytes(8192), image_info=4),)), "page image"),
        (encode_record(1, blocks=(Block(image=bytes(99), hole=(0, 5)),)), "page image"),
        (encode_record(1, before_main=b"\0\x00\x05\x00" + bytes(16)), "5 bytes and the flags"),
    ],
)
def test_record_whose_parts_contradict_each_other_is_corrupt(data: bytes, reason: str) -> None:
    """A right checksum does not make them fit."""
    with pytest.raises(CorruptWal, match="malformed") as caught:
        decode_record(4096, data, version_of_major(15))
    assert reason in str(caught.value.detail)


def test_top_level_xid_is_no_part_of_a_record_of_13() -> None:
    """The id came with 14."""
    data = encode_record(1, before_main=struct.pack("<BI", 252, 991))
    assert decode_record(0, data, version_of_major(14)).toplevel_xid == 991
    with pytest.raises(CorruptWal):
        decode_record(0, data, version_of_major(13))


# ---- the reader ----------------------------------------------------------------------------------


def reader_of(wal: WalBuilder, begin: int, **changed: object) -> RecordReader:
    def read(first: int, last: int) -> bytes:
        return bytes(wal.data[first - wal.begin : last - wal.begin])

    arguments = {"version": wal.version, "segment_bytes": wal.segment_bytes, **changed}
    return RecordReader(read, begin, **arguments)  # type: ignore[arg-type]


@settings(deadline=None)
@given(chunk_pages=st.sampled_from([1, 2, 8]), begin=st.integers(0, 200000))
def test_reader_gives_the_exact_bytes_from_any_place(chunk_pages: int, begin: int) -> None:
    """However the bytes are fetched; records begin with the first one at or after the place."""
    wal = mixed_wal(SIZES)
    begin = wal.begin + begin % len(wal.data)
    reader = reader_of(wal, begin, is_exact=False, chunk_bytes=chunk_pages * PAGE_BYTES)
    found = [(record.lsn, record.data) for record in reader]
    expected = list(zip(wal.starts, wal.records, strict=True))
    assert found == [(lsn, data) for lsn, data in expected if lsn >= begin]
    assert reader.end == LogEnd.CLEAN


def test_reader_begins_at_a_record_and_ends_before_the_stop() -> None:
    """Half-open bounds."""
    wal = mixed_wal(SIZES)
    reader = reader_of(wal, wal.starts[4], stop=wal.starts[9])
    assert [record.lsn for record in reader] == wal.starts[4:9]
    assert reader.end == LogEnd.STOPPED


def test_reader_goes_on_when_more_has_been_written() -> None:
    """The end of a stream is not its last word."""
    wal = mixed_wal(SIZES)
    whole = wal.data
    wal.data = whole[:50000]
    reader = reader_of(wal, wal.begin)
    first = [record.lsn for record in reader]
    assert reader.end == LogEnd.TORN
    wal.data = whole
    assert first + [record.lsn for record in reader] == wal.starts


def test_reader_stops_at_damage() -> None:
    """And says where."""
    wal = mixed_wal(SIZES)
    wal.data[wal.starts[7] - wal.begin + 30] ^= 1
    reader = reader_of(wal, wal.begin)
    assert [record.lsn for record in reader] == wal.starts[:7]
    assert (reader.end, reader.state.position) == (LogEnd.CRC_MISMATCH, wal.starts[7])


def test_reader_in_the_middle_of_a_long_record_finds_the_next() -> None:
    """Page after page of it is passed over."""
    wal = mixed_wal([10, 300000, 20])
    wal.add(RM_XLOG, 0x20, main=b"x")
    reader = reader_of(wal, wal.begin + 100000, is_exact=False)
    assert [record.lsn for record in reader] == wal.starts[2:]
