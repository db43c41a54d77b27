"""The WAL decoders: what SQLite wrote is understood, and nothing else is.

Method: golden files written by SQLite 3.40.1, a slow reference for the checksum (the algorithm as
the specification prints it), and hypothesis against both the C and its plain-Python twin.
"""

from __future__ import annotations

import importlib
import importlib.util
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.errors import CorruptDatabase
from pitr.sqlite.wal import checksum
from pitr.sqlite.wal.frame import (
    FRAME_HEADER_BYTES,
    decode_frame_header,
    iterate_frame_numbers,
    iterate_frames,
)
from pitr.sqlite.wal.header import WAL_HEADER_BYTES, decode_wal_header, is_page_size
from pitr.sqlite.wal.index import INDEX_BYTES, decode_index

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
WAL = (GOLDEN / "sqlite-3.40.1.wal").read_bytes()
SHM = (GOLDEN / "sqlite-3.40.1.shm").read_bytes()
FRAMES = WAL[WAL_HEADER_BYTES:]
PAGE_SIZE = 512
SALTS = (11, 22)

# (verify_frames, wal_checksum) of each implementation at hand.
IMPLEMENTATIONS = {"twin": (checksum._verify_frames, checksum._wal_checksum)}
if importlib.util.find_spec("pitr._speedups"):
    compiled = importlib.import_module("pitr._speedups")
    IMPLEMENTATIONS["compiled"] = (compiled.verify_frames, compiled.wal_checksum)


@pytest.fixture(params=IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> tuple[Callable, Callable]:
    return request.param


def reference_checksum(data: bytes, s0: int, s1: int, big_endian: bool) -> tuple[int, int]:
    """The checksum, word by word as fileformat2.html section 4.2 prints it."""
    words = struct.unpack(f"{'>' if big_endian else '<'}{len(data) // 4}I", data)
    for first, second in zip(words[0::2], words[1::2], strict=True):
        s0 = (s0 + first + s1) % 2**32
        s1 = (s1 + second + s0) % 2**32
    return s0, s1


def build_frames(images: list[bytes], start: tuple[int, int], *, big_endian: bool) -> bytes:
    frames, (s0, s1) = b"", start
    for number, image in enumerate(images, start=1):
        head = struct.pack(">II", number, number % 2)
        s0, s1 = reference_checksum(head + image, s0, s1, big_endian)
        frames += head + struct.pack(">4I", *SALTS, s0, s1) + image
    return frames


# ---- checksum ------------------------------------------------------------------------------------


def test_frames_of_sqlite_are_all_valid(implementation: tuple[Callable, Callable]) -> None:
    """What SQLite wrote is accepted to its last frame, whose checksum the wal-index repeats."""
    verify_frames, _ = implementation
    header, index = decode_wal_header(WAL), decode_index(SHM)
    assert index is not None
    found = verify_frames(
        FRAMES, PAGE_SIZE, header.salt1, header.salt2, header.checksum1, header.checksum2, False
    )
    assert found == (6, index.checksum1, index.checksum2)


@given(
    images=st.lists(st.binary(min_size=512, max_size=512), max_size=5),
    start=st.tuples(*[st.integers(0, 2**32 - 1)] * 2),
    big_endian=st.booleans(),
    data=st.data(),
)
def test_any_frames_are_valid_up_to_the_first_altered_byte(
    images: list[bytes], start: tuple[int, int], big_endian: bool, data: st.DataObject
) -> None:
    """Every implementation agrees with the specification, and stops at a flipped byte's frame."""
    frames = build_frames(images, start, big_endian=big_endian)
    frame_bytes = FRAME_HEADER_BYTES + 512
    altered = bytearray(frames)
    valid = len(images)
    if images:
        at = data.draw(st.integers(0, len(frames) - 1))
        altered[at] ^= data.draw(st.integers(1, 255))
        valid = at // frame_bytes
    for verify_frames, _ in IMPLEMENTATIONS.values():
        whole = verify_frames(frames, 512, *SALTS, *start, big_endian)
        assert whole[0] == len(images)
        if images:
            assert whole[1:] == struct.unpack_from(">II", frames, len(frames) - 512 - 8)
        assert verify_frames(bytes(altered), 512, *SALTS, *start, big_endian)[0] == valid


@pytest.mark.parametrize("page_size", [512, 1024, 4096, 65536])
@pytest.mark.parametrize("big_endian", [False, True])
def test_long_runs_are_valid_at_every_page_size(
    implementation: tuple[Callable, Callable], page_size: int, big_endian: bool
) -> None:
    """The extreme values that would overflow a lane of the twin do not, in batch after batch."""
    verify_frames, _ = implementation
    count = 600 if page_size == 512 else 3
    images = [b"\xff" * page_size if at % 3 else bytes(page_size) for at in range(count)]
    frames = build_frames(images, (2**32 - 1, 2**32 - 1), big_endian=big_endian)
    found = verify_frames(frames, page_size, *SALTS, 2**32 - 1, 2**32 - 1, big_endian)
    assert found[0] == count


def test_frames_of_another_generation_are_not_valid(
    implementation: tuple[Callable, Callable],
) -> None:
    """Leftovers behind the newest frame, right in themselves, end the run."""
    verify_frames, _ = implementation
    frames = build_frames([bytes(512)] * 2, (1, 2), big_endian=False)
    assert verify_frames(frames, 512, SALTS[0] + 1, SALTS[1], 1, 2, False) == (0, 1, 2)
    assert verify_frames(frames, 512, SALTS[0], SALTS[1] + 1, 1, 2, False) == (0, 1, 2)


def test_a_frame_cut_short_is_not_counted(implementation: tuple[Callable, Callable]) -> None:
    """A torn tail is left for the next reading."""
    verify_frames, _ = implementation
    frames = build_frames([bytes(512)] * 2, (1, 2), big_endian=False)
    assert verify_frames(frames[:-1], 512, *SALTS, 1, 2, False)[0] == 1
    assert verify_frames(b"", 512, *SALTS, 1, 2, False) == (0, 1, 2)


@given(
    data=st.binary(max_size=256).map(lambda raw: raw[: len(raw) // 8 * 8]),
    start=st.tuples(*[st.integers(0, 2**32 - 1)] * 2),
    big_endian=st.booleans(),
)
def test_checksum_of_bytes_is_that_of_the_specification(
    data: bytes, start: tuple[int, int], big_endian: bool
) -> None:
    """Also over the few bytes of a header."""
    expected = reference_checksum(data, *start, big_endian)
    for _, wal_checksum in IMPLEMENTATIONS.values():
        assert wal_checksum(data, *start, big_endian) == expected


def test_pure_python_is_chosen_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """PITR_PURE=1 makes the twins the ones in use."""
    monkeypatch.setenv("PITR_PURE", "1")
    spec = importlib.util.find_spec("pitr.sqlite.wal.checksum")
    assert spec is not None
    assert spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert fresh.verify_frames is fresh._verify_frames
    assert fresh.wal_checksum is fresh._wal_checksum


# ---- header and frames ---------------------------------------------------------------------------


def test_header_of_sqlite_is_decoded() -> None:
    """Page size, salts and checksum come out as SQLite put them in."""
    header = decode_wal_header(WAL)
    assert (header.page_size, header.big_endian) == (512, False)
    assert (header.salt1, header.salt2) == struct.unpack_from(">II", WAL, 16)


@pytest.mark.parametrize("length", [0, 31])
def test_header_cut_short_is_corrupt(length: int) -> None:
    """A WAL that a writer has only begun is not taken for one."""
    with pytest.raises(CorruptDatabase, match="WAL header"):
        decode_wal_header(WAL[:length])


@pytest.mark.parametrize("at", range(WAL_HEADER_BYTES))
def test_header_with_a_flipped_byte_is_corrupt(at: int) -> None:
    """Not one byte of the header can change unnoticed."""
    altered = bytearray(WAL[:WAL_HEADER_BYTES])
    altered[at] ^= 0x40
    with pytest.raises(CorruptDatabase, match="WAL header"):
        decode_wal_header(bytes(altered))


def test_frames_of_sqlite_are_told_apart() -> None:
    """Three transactions of 2, 1 and 3 frames; the last one grew the database to 3 pages."""
    numbers = list(iterate_frame_numbers(FRAMES, PAGE_SIZE))
    assert numbers == [(1, 0), (2, 2), (2, 2), (1, 0), (2, 0), (3, 3)]
    frames = list(iterate_frames(FRAMES, PAGE_SIZE))
    assert [frame[:2] for frame in frames] == numbers
    assert frames[0][2].startswith(b"SQLite format 3\0")
    assert b"changed" in frames[4][2]
    head = decode_frame_header(FRAMES[:FRAME_HEADER_BYTES])
    assert (head.page_number, head.commit_pages) == (1, 0)
    assert (head.salt1, head.salt2) == struct.unpack_from(">II", WAL, 16)


def test_page_sizes_are_the_powers_of_two_that_sqlite_allows() -> None:
    """512 to 65536."""
    sizes = [size for size in range(1, 70000) if is_page_size(size)]
    assert sizes == [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]


# ---- wal-index -----------------------------------------------------------------------------------


def test_index_of_sqlite_is_decoded() -> None:
    """The salts compare equal to those of the WAL header; three commits were counted."""
    index, header = decode_index(SHM), decode_wal_header(WAL)
    assert index is not None
    assert index.salts == (header.salt1, header.salt2)
    assert (index.change, index.max_frame, index.page_count) == (3, 6, 3)
    assert (index.page_size, index.backfilled, index.is_backfilled) == (512, 0, False)


@pytest.mark.parametrize("at", range(96))
def test_index_in_the_middle_of_an_update_is_not_believed(at: int) -> None:
    """Any difference between the two copies means: read again."""
    altered = bytearray(SHM)
    altered[at] ^= 0x01
    assert decode_index(bytes(altered)) is None


@pytest.mark.parametrize("at", [*range(4), *range(8, 48)])
def test_index_whose_copies_agree_on_damage_is_not_believed(at: int) -> None:
    """The checksum holds the two copies to what SQLite wrote."""
    altered = bytearray(SHM)
    altered[at] ^= 0x02
    altered[48 + at] ^= 0x02
    assert decode_index(bytes(altered)) is None


def test_index_not_initialised_is_not_believed() -> None:
    """A fresh `-shm` is zeros, or shorter than its header."""
    assert decode_index(bytes(INDEX_BYTES)) is None
    assert decode_index(b"") is None
    assert decode_index(SHM[: INDEX_BYTES - 1]) is None


def test_backfilled_of_the_generation_before_is_cut() -> None:
    """After a restart nBackfill is reset a moment later than mxFrame."""
    altered = bytearray(SHM)
    altered[96:100] = struct.pack("=I", 500)
    index = decode_index(bytes(altered))
    assert index is not None
    assert index.backfilled == index.max_frame == 6
