"""What WAL there is follows from names alone; what is missing is named; timelines are followed."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest
import zstandard

from pitr.errors import ArchiveGap, ArchiveLacks, CorruptObject, CorruptWal, PreconditionFailed
from pitr.postgres.wal_store.archive import WalArchive
from pitr.postgres.wal_store.folder import WalFolder
from pitr.postgres.wal_store.object import encode_wal
from pitr.postgres.wal_store.spans import ArchivedWal
from pitr.postgres.wal_store.text import backup_history_key, decode_text, encode_text, history_key
from pitr.vocabulary.position import Lsn
from tests.memory_store import MemoryStore
from tests.unit.postgres.wal_bytes import MIB, PAGE, head, segment, store_wal


def bounds(wal: ArchivedWal, timeline: int = 1) -> list[tuple[int, int]]:
    return [(begin.value, end.value) for begin, end in wal.ranges(timeline)]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def test_whole_segments_and_pieces_make_one_range(store: MemoryStore) -> None:
    """Pieces go on where the last whole segment ends; reading crosses all borders."""
    store_wal(store, 5)
    store_wal(store, 6)
    store_wal(store, 7, end=1000)
    store_wal(store, 7, begin=1000, end=300_000)
    wal = WalArchive(store)

    assert bounds(wal) == [(5 * MIB, 7 * MIB + 300_000)]
    assert (wal.segment_bytes, wal.major, wal.timelines()) == (MIB, 15, [1])
    whole = segment(5) + segment(6) + segment(7)
    chance = random.Random(4)
    for _ in range(50):
        low, high = sorted(chance.choices(range(2 * MIB + 300_000), k=2))
        assert wal.read(1, Lsn(5 * MIB + low), Lsn(5 * MIB + high)) == whole[low:high]


def test_missing_segment_is_a_gap_with_its_range(store: MemoryStore) -> None:
    """Exit 4, naming the first byte that is missing and the first that is there again."""
    store_wal(store, 5)
    store_wal(store, 7)
    wal = WalArchive(store)

    assert bounds(wal) == [(5 * MIB, 6 * MIB), (7 * MIB, 8 * MIB)]
    with pytest.raises(ArchiveGap, match="0/600000 to 0/700000 of timeline 1") as found:
        wal.read(1, Lsn(5 * MIB + 5), Lsn(7 * MIB + 5))
    assert found.value.exit_code == 4
    with pytest.raises(ArchiveGap, match="0/800000 to 0/800010"):
        wal.read(1, Lsn(8 * MIB - 5), Lsn(8 * MIB + 16))


def test_piece_before_a_hole_does_not_reach_over_it(store: MemoryStore) -> None:
    """Pieces that do not touch are two ranges; overlapping ones are one."""
    store_wal(store, 1, begin=0, end=500)
    store_wal(store, 1, begin=400, end=900)
    store_wal(store, 1, begin=901, end=2000)
    wal = WalArchive(store)

    assert bounds(wal) == [(MIB, MIB + 900), (MIB + 901, MIB + 2000)]
    assert wal.read(1, Lsn(MIB + 399), Lsn(MIB + 899)) == segment(1)[399:899]


def test_piece_that_was_replaced_meanwhile_is_found_again(store: MemoryStore) -> None:
    """Whoever listed before the whole segment came reads it all the same."""
    key = store_wal(store, 1, end=5000)
    wal = WalArchive(store)
    assert bounds(wal) == [(MIB, MIB + 5000)]
    store_wal(store, 1)
    store.delete(key)

    assert wal.read(1, Lsn(MIB), Lsn(MIB + 5000)) == segment(1)[:5000]


def put_history(store: MemoryStore, timeline: int, text: str) -> None:
    store.put_new(history_key(timeline), encode_text(text.encode()))


def test_timeline_includes_its_ancestors_up_to_the_switch(store: MemoryStore) -> None:
    """WAL of the parent beyond the switch is another history and is never served for the child."""
    switch = 3 * MIB + 100_000
    put_history(store, 2, f"1\t{Lsn(switch)}\tno recovery target specified\n")
    for number in (2, 3, 4):
        store_wal(store, number)  # the old primary wrote on
    child = segment(3)[:100_000] + segment(3, timeline=2)[100_000:]
    of = head(3, timeline=2)
    store.put_new(of.key, encode_wal(of, child))
    store_wal(store, 4, timeline=2, end=5000)
    wal = WalArchive(store)

    assert wal.timelines() == [1, 2]
    assert bounds(wal, 1) == [(2 * MIB, 5 * MIB)]
    assert bounds(wal, 2) == [(2 * MIB, 4 * MIB + 5000)]
    expected = segment(2) + child + segment(4, timeline=2)[:5000]
    assert wal.read(2, Lsn(2 * MIB), Lsn(4 * MIB + 5000)) == expected
    assert [(entry.timeline, entry.switch) for entry in wal.history(2)] == [(1, Lsn(switch))]


def test_child_without_the_parents_last_bytes_has_a_gap(store: MemoryStore) -> None:
    """WAL between the last archived byte and the switch was lost with the old primary: said so."""
    put_history(store, 2, f"1\t{Lsn(4 * MIB + 77)}\tx\n")
    store_wal(store, 2)
    store_wal(store, 4, timeline=2)

    assert bounds(WalArchive(store), 2) == [(2 * MIB, 3 * MIB), (4 * MIB, 5 * MIB)]


def test_damaged_block_is_exit_5_naming_the_object(store: MemoryStore) -> None:
    """Damage is never served."""
    key = store_wal(store, 1)
    data = bytearray(store.get(key))
    data[40] ^= 1
    store.put(key, bytes(data))

    with pytest.raises(CorruptObject, match=key) as found:
        WalArchive(store).read(1, Lsn(MIB), Lsn(MIB + 10))
    assert found.value.exit_code == 5


def test_object_of_another_cluster_is_refused(store: MemoryStore) -> None:
    """A segment that another cluster wrote, put there by hand, is not read as ours."""
    store_wal(store, 1)
    of = head(2, system=9)
    store.put_new(of.key, encode_wal(of, segment(2, system=9)))

    with pytest.raises(CorruptObject, match=of.key):
        WalArchive(store).read(1, Lsn(MIB), Lsn(3 * MIB))


def test_empty_archive_says_so(store: MemoryStore) -> None:
    """No WAL is no traceback."""
    wal = WalArchive(store)

    assert wal.ranges(1) == []
    with pytest.raises(ArchiveLacks):
        _ = wal.segment_bytes


def test_text_files_come_back_as_they_were() -> None:
    """History and backup history files are kept byte for byte."""
    name = "000000010000000000000004.00000028.backup"
    key = backup_history_key(name)

    assert decode_text(key, encode_text(b"START WAL\n")) == b"START WAL\n"
    assert key == f"wal/00000001/{name}"


# ---- a plain folder ------------------------------------------------------------------------------


def name_of(number: int, timeline: int = 1) -> str:
    return f"{timeline:08X}{number // 4096:08X}{number % 4096:08X}"


def test_folder_with_plain_and_compressed_segments_reads_as_one(tmp_path: Path) -> None:
    """Plain, .gz, .zst and .partial files beside each other are one stretch of WAL."""
    (tmp_path / name_of(1)).write_bytes(segment(1))
    (tmp_path / f"{name_of(2)}.gz").write_bytes(gzip.compress(segment(2)))
    (tmp_path / f"{name_of(3)}.zst").write_bytes(zstandard.compress(segment(3)))
    partial = segment(4)[: 10 * PAGE] + bytes(MIB - 10 * PAGE)
    (tmp_path / f"{name_of(4)}.partial").write_bytes(partial)
    (tmp_path / "archive_status").mkdir()
    (tmp_path / "notes.txt").write_text("not WAL")
    wal = WalFolder(tmp_path)

    assert bounds(wal) == [(MIB, 4 * MIB + 10 * PAGE)]
    assert (wal.segment_bytes, wal.major) == (MIB, 15)
    whole = segment(1) + segment(2) + segment(3) + segment(4)
    assert wal.read(1, Lsn(2 * MIB - 9), Lsn(4 * MIB + 9)) == whole[MIB - 9 : 3 * MIB + 9]


def test_recycled_and_unwritten_files_are_no_wal(tmp_path: Path) -> None:
    """pg_wal holds files for segments to come, with old content or none, and one half filled."""
    (tmp_path / name_of(1)).write_bytes(segment(1)[: 3 * PAGE] + segment(0)[3 * PAGE :])
    (tmp_path / name_of(2)).write_bytes(segment(0))
    (tmp_path / name_of(3)).write_bytes(bytes(MIB))

    assert bounds(WalFolder(tmp_path)) == [(MIB, MIB + 3 * PAGE)]


def test_folder_follows_history_files(tmp_path: Path) -> None:
    """The .history files of the folder lead to the parents, compressed or not."""
    (tmp_path / name_of(1)).write_bytes(segment(1))
    (tmp_path / name_of(2, 2)).write_bytes(segment(2, timeline=2))
    (tmp_path / "00000002.history").write_text(f"1\t{Lsn(2 * MIB + 40)}\treason\n")
    wal = WalFolder(tmp_path)

    assert bounds(wal, 2) == [(MIB, 3 * MIB)]


@pytest.mark.parametrize("broken", ["cut", "garbage", "gz", "other cluster"])
def test_folder_with_a_damaged_file_names_it(tmp_path: Path, broken: str) -> None:
    """Exit 5 with the file's name, not a traceback."""
    (tmp_path / name_of(1)).write_bytes(segment(1))
    name = name_of(2) + (".gz" if broken == "gz" else "")
    (tmp_path / name).write_bytes(
        {
            "cut": segment(2)[:50_000],
            "garbage": b"\x07" * MIB,
            "gz": gzip.compress(segment(2))[:-500],
            "other cluster": segment(2, system=4),
        }[broken]
    )
    (tmp_path / name_of(3)).write_bytes(segment(3))

    with pytest.raises(CorruptWal) as found:
        WalFolder(tmp_path).read(1, Lsn(MIB), Lsn(3 * MIB))
    assert found.value.exit_code == 5
    assert name in f"{found.value.message} {found.value.detail}"


def test_folder_that_is_not_there_is_exit_3(tmp_path: Path) -> None:
    """A wrong path is the user's to mend."""
    with pytest.raises(PreconditionFailed):
        WalFolder(tmp_path / "gone").ranges(1)
