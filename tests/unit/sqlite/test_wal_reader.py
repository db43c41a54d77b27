"""The reader of committed transactions: the same commits however the frames are cut into runs.

Method: WALs built in memory frame by frame; hypothesis chooses transactions, page repetitions and
where a run ends. Frames that SQLite forgot to seal are forged as it leaves them.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.sqlite.capture.seen import Discontinuity
from pitr.sqlite.capture.wal_reader import WalReader
from pitr.sqlite.pagelog.segment import WalMark
from pitr.sqlite.wal.checksum import wal_checksum
from pitr.sqlite.wal.header import WalHeader, decode_wal_header

PAGE_SIZE = 512
FRAME_BYTES = PAGE_SIZE + 24
SALTS = (7, 9)

# One transaction: the pages it writes, in order and perhaps repeatedly, and the size after it.
Transaction = tuple[list[int], int]
TRANSACTIONS = st.lists(
    st.tuples(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 9)), max_size=6
)


class WalBytes:
    """A WAL in memory, in the place of an open source."""

    def __init__(self, transactions: list[Transaction], unsealed: frozenset[int] = frozenset()):
        head = struct.pack(">6I", 0x377F0682, 3007000, PAGE_SIZE, 0, *SALTS)
        s0, s1 = wal_checksum(head, 0, 0, False)
        self.data = head + struct.pack(">2I", s0, s1)
        self.frames = 0
        for pages, size in transactions:
            for at, page_number in enumerate(pages, start=1):
                self.frames += 1
                start = struct.pack(">2I", page_number, size if at == len(pages) else 0)
                image = struct.pack(">I", self.frames) * (PAGE_SIZE // 4)
                s0, s1 = wal_checksum(start + image, s0, s1, False)
                sealed = struct.pack(">4I", *SALTS, s0, s1)
                is_unsealed = self.frames in unsealed
                self.data += start + (bytes(16) if is_unsealed else sealed) + image
                if is_unsealed:
                    s0, s1 = 0xABCD, self.frames  # what follows continues from anywhere

    def wal_bytes(self, begin: int, length: int) -> bytes:
        assert begin + length <= len(self.data)
        return self.data[begin : begin + length]

    def wal_header(self) -> WalHeader:
        return decode_wal_header(self.data[:32])


def expected_commits(transactions: list[Transaction]) -> list[tuple[int, int, list]]:
    """(size, last frame, pages ascending with the number of their newest frame) of each."""
    found, frame = [], 0
    for pages, size in transactions:
        newest = {}
        for page_number in pages:
            frame += 1
            newest[page_number] = frame
        found.append((size, frame, sorted(newest.items())))
    return found


def read(wal: WalBytes, bytes_max: int) -> tuple[WalReader, list[tuple[int, int, list]]]:
    reader = WalReader(wal, PAGE_SIZE)  # type: ignore[arg-type]
    reader.begin_generation()
    found = []
    for size, mark, pages in reader.commits(reader.runs(wal.frames, bytes_max)):
        numbered = [(number, struct.unpack_from(">I", image)[0]) for number, image in pages]
        found.append((size, mark.frame, numbered))
    return reader, found


@given(transactions=TRANSACTIONS, frames_in_run=st.integers(1, 20))
def test_commits_do_not_depend_on_the_size_of_a_run(
    transactions: list[Transaction], frames_in_run: int
) -> None:
    """Every commit once, its last image of each page, its position; the reader ends at the end."""
    wal = WalBytes(transactions)
    reader, found = read(wal, frames_in_run * FRAME_BYTES)
    assert found == expected_commits(transactions)
    assert reader.mark.frame == wal.frames
    assert reader.unsealed_frames == 0


@given(transactions=TRANSACTIONS, begin=st.integers(0, 5))
def test_reading_goes_on_from_any_commit(transactions: list[Transaction], begin: int) -> None:
    """`go_to` a commit's frame and what follows is the rest."""
    wal = WalBytes(transactions)
    expected = expected_commits(transactions)
    reader = WalReader(wal, PAGE_SIZE)  # type: ignore[arg-type]
    reader.go_to(0 if begin == 0 or not expected else expected[:begin][-1][1])
    found = [mark.frame for _, mark, _ in reader.commits(reader.runs(wal.frames))]
    assert found == [frame for _, frame, _ in expected[begin:]]


@given(transactions=TRANSACTIONS)
def test_newest_frames_and_counts_agree_with_the_commits(transactions: list[Transaction]) -> None:
    """Counting does not move the position, taking the newest frames does."""
    wal = WalBytes(transactions)
    reader = WalReader(wal, PAGE_SIZE)  # type: ignore[arg-type]
    reader.begin_generation()
    assert reader.count_commits(wal.frames) == len(transactions)
    assert reader.mark.frame == 0
    newest: dict[int, int] = {}
    for _, _, pages in expected_commits(transactions):
        newest.update(pages)
    assert reader.newest_frames(wal.frames) == (newest, len(transactions))
    assert reader.mark.frame == wal.frames


@given(transactions=TRANSACTIONS, frames_in_run=st.integers(1, 20), data=st.data())
def test_unsealed_frames_are_read_and_counted(
    transactions: list[Transaction], frames_in_run: int, data: st.DataObject
) -> None:
    """Published frames with zeros for salts and checksum, wherever they lie, commits included."""
    frames = range(1, sum(len(pages) for pages, _ in transactions) + 1)
    unsealed = frozenset(data.draw(st.lists(st.sampled_from(frames)))) if frames else frozenset()
    reader, found = read(WalBytes(transactions, unsealed), frames_in_run * FRAME_BYTES)
    assert found == expected_commits(transactions)
    assert reader.unsealed_frames == len(unsealed)


@pytest.mark.parametrize("at", [0, 4, 8, 12, 16, 23, 24, 500])
def test_altered_frame_is_a_discontinuity(at: int) -> None:
    """A flipped byte anywhere in a frame is found and named."""
    wal = WalBytes([([1, 2, 3], 3), ([2], 3)])
    data = bytearray(wal.data)
    data[32 + FRAME_BYTES + at] ^= 0x10
    wal.data = bytes(data)
    with pytest.raises(Discontinuity, match="frame 2 of the WAL"):
        read(wal, 1 << 20)


@pytest.mark.parametrize("zeroed", [slice(8, 16), slice(16, 24)])
def test_half_a_seal_is_a_discontinuity(zeroed: slice) -> None:
    """Zero salts with a checksum, or salts with a zero checksum, are no unsealed frame."""
    wal = WalBytes([([1, 2, 3], 3), ([2], 3)])
    data = bytearray(wal.data)
    begin = 32 + FRAME_BYTES
    data[begin + zeroed.start : begin + zeroed.stop] = bytes(8)
    wal.data = bytes(data)
    with pytest.raises(Discontinuity, match="frame 2 of the WAL"):
        read(wal, 1 << 20)


def test_frame_of_another_generation_after_an_unsealed_one_is_a_discontinuity() -> None:
    """Taken at its word is only what carries this generation's salts."""
    wal = WalBytes([([1, 2, 3], 3)], frozenset([2]))
    data = bytearray(wal.data)
    data[32 + 2 * FRAME_BYTES + 11] ^= 0x01
    wal.data = bytes(data)
    with pytest.raises(Discontinuity, match="frame 3 of the WAL"):
        read(wal, 1 << 20)


def test_mark_of_an_unsealed_commit_is_found_again() -> None:
    """The archive's position in such a WAL is recognised after a restart of capture."""
    wal = WalBytes([([1], 3), ([2], 3), ([3], 3)], frozenset([2]))
    reader, _ = read(wal, 1 << 20)
    again = WalReader(wal, PAGE_SIZE)  # type: ignore[arg-type]
    again.go_to(2)
    assert again.mark == WalMark(*SALTS, 2, 0, 0)
    assert [mark.frame for _, mark, _ in again.commits(again.runs(3))] == [3]
    assert reader.mark == again.mark
