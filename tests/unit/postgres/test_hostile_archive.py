"""What a hostile store, backup folder or WAL folder declares is refused before memory is spent.

Goal: a declared size, path or nesting that no archive of ours has ends with an error of exit code
5, in little memory, and writes nothing outside.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import tarfile
import tracemalloc
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import zstandard

from pitr.archive.document import decode_document, encode_document
from pitr.archive.object import ObjectReader, Section, encode_object
from pitr.errors import Corrupt, CorruptObject, CorruptWal
from pitr.postgres.base.archive import ArchivedBase
from pitr.postgres.base.contents import CHUNK_BYTES, BaseFile
from pitr.postgres.base.folder import BaseFolder
from pitr.postgres.base.object import (
    ChunkPlace,
    ChunkTable,
    chunk_seed,
    encode_base,
    encode_pack,
    pack_reader,
    read_pack_directory,
)
from pitr.postgres.index.parquet import Column, Damaged, Kind, decode_chunk, encode_file
from pitr.postgres.index.thrift import decode_struct, encode_struct
from pitr.postgres.wal_store import folder as wal_folder
from pitr.postgres.wal_store.folder import WalFolder
from pitr.postgres.wal_store.object import KIND as WAL_KIND
from pitr.postgres.wal_store.object import WalObject
from pitr.sqlite.pagelog.segment import KIND as SEGMENT_KIND
from pitr.sqlite.pagelog.segment import SegmentIndex
from tests.memory_store import MemoryStore
from tests.unit.postgres.test_base_object import info, manifest
from tests.unit.postgres.wal_bytes import head, segment

HUGE = 1 << 40
DEEP = b"[" * 200_000 + b"]" * 200_000
MEMORY_MAX = 64 << 20


@contextmanager
def little_memory() -> Iterator[None]:
    """Assert that a block takes little memory at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY_MAX
    finally:
        tracemalloc.stop()


def test_document_that_is_nested_without_end_is_damage() -> None:
    """It would use up the stack, and is refused like other damage."""
    nested = encode_document(b"MARK", msgspec.Raw(b'{"archive_id":' + DEEP + b"}"))
    with pytest.raises(CorruptObject):
        decode_document("mark/x", nested, b"MARK", dict[str, str])


@pytest.mark.parametrize(
    "changes",
    [
        {"chunk_bytes": HUGE},
        {"chunk_bytes": 0},
        {"block_size": 0},
        {"block_size": HUGE},
        {"wal_segment_bytes": 0},
    ],
)
def test_base_that_declares_sizes_of_no_server_is_refused(changes: dict[str, int]) -> None:
    """Whatever is divided by, or allocated from, a manifest's head is checked first."""
    made = dataclasses.replace(info(), **changes)  # type: ignore[arg-type]

    with pytest.raises(CorruptObject):
        manifest(encode_base(made, [], [], ChunkTable()), f"base/{made.id}")


def test_file_of_a_declared_size_without_end_is_refused() -> None:
    """A backup_label of a tebibyte is not made room for; nor has it the chunks."""
    made = info()
    files = [BaseFile("backup_label", HUGE, 0o600, 0)]
    found = manifest(encode_base(made, files, [], ChunkTable()), f"base/{made.id}")
    store = MemoryStore()
    base = ArchivedBase(store, found, chunk_seed("x"))

    with little_memory(), pytest.raises(CorruptObject):
        base.read_file("backup_label")
    with little_memory(), pytest.raises(CorruptObject):
        base.read_blocks("backup_label", 0, 1)


def test_chunk_of_a_declared_size_without_end_is_refused() -> None:
    """Neither a manifest nor a pack has a chunk that is longer than a chunk."""
    made = info()
    table = ChunkTable()
    table.append(ChunkPlace(0, 16, 1 << 31, bytes(16)))
    files = [BaseFile("a", CHUNK_BYTES, 0o600, 0)]
    found = manifest(encode_base(made, files, ["pack/" + "0" * 32], table), f"base/{made.id}")
    with pytest.raises(CorruptObject):
        found.places(0, 1)

    key, data = encode_pack([b"frame"], bytes(16), array("I", [5, 1 << 31]))
    with pytest.raises(CorruptObject):
        list(read_pack_directory(pack_reader(key, data)))


@pytest.mark.parametrize(
    "changes",
    [{"segment_bytes": 0}, {"segment_bytes": 3}, {"begin": -1}, {"end": HUGE}, {"begin": 1 << 20}],
)
def test_wal_object_with_sizes_of_no_segment_is_refused(changes: dict[str, int]) -> None:
    """Its head is checked before anything is divided or counted by it."""
    forged = msgspec.structs.replace(head(3), **changes)
    sections = [
        Section(1, msgspec.json.encode(forged), compress=False),
        Section(2, b""),
        Section(3, b"", compress=False),
    ]

    with pytest.raises(CorruptObject):
        WalObject.of_bytes(head(3).key, encode_object(WAL_KIND, 1, sections))


def test_page_of_the_index_that_unpacks_without_end_is_refused() -> None:
    """A frame may declare more than its page: the smaller number counts."""
    column = Column("block", Kind.UINT32)
    plain = encode_file([column], [[array("I", range(100)).tobytes()]], {}, "test")
    header, begin = decode_struct(plain, 4)
    assert isinstance(header[3], int)
    bomb = zstandard.ZstdCompressor().compress(bytes(80 << 20))
    forged = encode_struct({**header, 3: len(bomb), 4: _signed(zlib.crc32(bomb))}) + bomb

    assert len(decode_chunk(plain[4 : begin + header[3]], column, 100)) == 100
    with little_memory(), pytest.raises(Damaged):
        decode_chunk(forged, column, 100)


def test_member_of_a_tar_that_leads_outside_is_refused(tmp_path: Path) -> None:
    """Files of pg_xact are copied by their path: one that climbs out is no base backup."""
    whole = {"backup_label": b"x", "global/pg_control": b"x"}
    for name in ("pg_xact/../../../escaped", "/etc/escaped", ".."):
        with pytest.raises(Corrupt) as raised:
            BaseFolder(_tar(tmp_path, {**whole, name: b"x"}))
        assert "cut short" not in raised.value.message
    assert set(BaseFolder(_tar(tmp_path, whole)).files()) == set(whole)


def test_member_of_a_tar_that_is_longer_than_the_tar_is_refused(tmp_path: Path) -> None:
    """Nothing is allocated from the size that a header declares."""
    path = _tar(tmp_path, {"backup_label": b"x"})
    entry = tarfile.TarInfo("backup_label")
    entry.size = HUGE
    path.write_bytes(entry.tobuf(tarfile.GNU_FORMAT).replace(b"ustar  \0", b"ustar\x0000") * 1)
    data = bytearray(path.read_bytes())
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(data)

    with little_memory(), pytest.raises(Corrupt) as caught:
        BaseFolder(path)
    assert "cut short" in caught.value.message


def test_packed_wal_file_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read up to the largest segment, 1 GiB (here less, to be quick), and no further."""
    monkeypatch.setattr(wal_folder, "SEGMENT_BYTES_MAX", 8 << 20)
    name = "000000010000000000000003"
    with gzip.open(tmp_path / f"{name}.gz", "wb", compresslevel=1) as file:
        file.write(segment(3))
        file.write(bytes(128 << 20))
    folder = WalFolder(tmp_path)

    with little_memory(), pytest.raises(CorruptWal):
        folder._whole(f"{name}.gz")


@pytest.mark.parametrize("size", [0, -1, 100, HUGE])
def test_pages_of_a_size_that_sqlite_does_not_have_are_refused(size: int) -> None:
    """A commit segment's head is checked before a page is unpacked by it."""
    fields = {
        "page_size": size, "first": 1, "last": 1, "part": 0, "continued": False, "lease": 1,
        "chain_before": "00" * 16, "chain_after": "00" * 16, "note": "",
    }  # fmt: skip
    empty = [Section(number, b"", compress=number in (2, 3, 4)) for number in (0, 2, 3, 4, 5)]
    head_section = Section(1, msgspec.json.encode(fields))
    data = encode_object(SEGMENT_KIND, 1, [*empty, head_section])

    with pytest.raises(CorruptObject) as caught:
        SegmentIndex(ObjectReader.of_bytes("log/x", data, SEGMENT_KIND))
    assert "page" in str(caught.value.detail)


def _signed(crc: int) -> int:
    return crc - (1 << 32) if crc >> 31 else crc


def _tar(folder: Path, members: dict[str, bytes]) -> Path:
    path = folder / "base.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path
