"""One WAL record: its header, block references, page images and main data.

Source: src/include/access/xlogrecord.h and DecodeXLogRecord in
src/backend/access/transam/xlogreader.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from pitr.errors import CorruptWal
from pitr.postgres.wal.page import PAGE_BYTES
from pitr.postgres.wal.versions import RM_XLOG, WalVersion

HEADER = struct.Struct("<IIQBBxxI")
HEADER_BYTES = 24
# MaxAllocSize: what PostgreSQL can read back. A longer record cannot have been written.
RECORD_BYTES_MAX = (1 << 30) - 1

# The upper half of a block reference's second byte; the lower half is the fork.
HAS_IMAGE = 0x10
HAS_DATA = 0x20
WILL_INIT = 0x40
SAME_RELATION = 0x80
IMAGE_HAS_HOLE = 0x01

BLOCK_ID_MAX = 32
ID_TOPLEVEL_XID = 252
ID_ORIGIN = 253
ID_DATA_LONG = 254
ID_DATA_SHORT = 255

INFO_MASK = 0xF0
XLOG_NOOP = 0x20
XLOG_SWITCH = 0x40


class Fork(IntEnum):
    """The files that a relation is made of."""

    MAIN = 0
    FSM = 1
    VM = 2
    INIT = 3


@dataclass(frozen=True, slots=True, order=True)
class RelationFile:
    """The file of a relation by tablespace, database (0: shared) and file number.

    The file number is not the relation's OID: TRUNCATE, VACUUM FULL and others give a new one.
    """

    tablespace: int
    database: int
    number: int

    def __str__(self) -> str:
        return f"{self.tablespace}/{self.database}/{self.number}"


@dataclass(frozen=True, slots=True)
class PageImage:
    """A full-page image as the record holds it: without its hole, and perhaps compressed.

    `method` is pglz, lz4, zstd or None; `is_applied` is False for one that is only there for
    wal_consistency_checking.
    """

    data: bytes
    hole_offset: int
    hole_bytes: int
    method: str | None
    is_applied: bool


@dataclass(frozen=True, slots=True)
class BlockReference:
    """A block that a record changes; `flags` are HAS_IMAGE, HAS_DATA, WILL_INIT."""

    id: int
    file: RelationFile
    fork: int
    block: int
    flags: int
    image: PageImage | None
    data: bytes


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """The first 24 bytes of a record; `total_bytes` counts them too, and no page headers."""

    total_bytes: int
    xid: int
    prev: int
    info: int
    rmgr: int
    crc: int

    @property
    def operation(self) -> int:
        """Return the half of `info` that belongs to the resource manager."""
        return self.info & INFO_MASK

    @property
    def is_switch(self) -> bool:
        """Return whether the rest of the segment is left empty after this record."""
        return self.rmgr == RM_XLOG and self.operation == XLOG_SWITCH


@dataclass(frozen=True, slots=True)
class Record:
    """One whole record that began at `lsn`; `data` are its exact bytes, page headers taken out."""

    lsn: int
    data: bytes
    header: RecordHeader
    blocks: tuple[BlockReference, ...]
    main: bytes
    origin: int | None = None
    toplevel_xid: int | None = None


def decode_header(data: bytes) -> RecordHeader:
    """Decode the header of a record. Raises struct.error when it is cut short; judges nothing."""
    return RecordHeader(*HEADER.unpack_from(data))


def decode_record(lsn: int, data: bytes, version: WalVersion) -> Record:
    """Decode a whole record. Raises CorruptWal.

    The checksum is not compared: the scan has done that.
    """
    try:
        return _decode(lsn, data, version)
    except (struct.error, IndexError):
        raise _malformed(lsn, "It ends inside one of its headers.") from None


@dataclass(slots=True)
class _Head:
    """A block header, before the bytes behind all headers are dealt out."""

    id: int
    file: RelationFile
    fork: int
    block: int
    flags: int
    image_bytes: int
    image: tuple[int, int, str | None, bool]
    data_bytes: int


def _decode(lsn: int, data: bytes, version: WalVersion) -> Record:
    header = decode_header(data)
    if header.total_bytes != len(data):
        raise _malformed(lsn, f"It has {len(data)} bytes, its header says {header.total_bytes}.")
    heads: list[_Head] = []
    others: dict[int, int] = {}
    at, main_bytes, content = HEADER_BYTES, 0, 0
    while len(data) - at > content:
        id_ = data[at]
        if id_ in (ID_DATA_SHORT, ID_DATA_LONG):
            layout = struct.Struct("<xB" if id_ == ID_DATA_SHORT else "<xI")
            (main_bytes,) = layout.unpack_from(data, at)
            content += main_bytes
            at += layout.size
            break
        if id_ == ID_ORIGIN or (id_ == ID_TOPLEVEL_XID and version.has_toplevel_xid):
            layout = struct.Struct("<xH" if id_ == ID_ORIGIN else "<xI")
            (others[id_],) = layout.unpack_from(data, at)
            at += layout.size
            continue
        if id_ > BLOCK_ID_MAX or (heads and id_ <= heads[-1].id):
            raise _malformed(lsn, f"A part of it has the id {id_}.")
        head, at = _decode_head(lsn, data, at, heads[-1].file if heads else None, version)
        heads.append(head)
        content += head.image_bytes + head.data_bytes
    if len(data) - at != content:
        raise _malformed(lsn, f"Its parts add up to {content} bytes, {len(data) - at} follow.")
    blocks = tuple(_deal(heads, data, at))
    main = data[len(data) - main_bytes :]
    return Record(
        lsn, data, header, blocks, main, others.get(ID_ORIGIN), others.get(ID_TOPLEVEL_XID)
    )


def _decode_head(
    lsn: int, data: bytes, at: int, before: RelationFile | None, version: WalVersion
) -> tuple[_Head, int]:
    id_, flags, data_bytes = struct.unpack_from("<BBH", data, at)
    at += 4
    if (data_bytes > 0) != (flags & HAS_DATA > 0):
        raise _malformed(lsn, f"Block {id_} has {data_bytes} bytes and the flags {flags:#x}.")
    image_bytes = 0
    image: tuple[int, int, str | None, bool] = (0, 0, None, False)
    if flags & HAS_IMAGE:
        image_bytes, image, at = _decode_image_head(lsn, data, at, version)
    if not flags & SAME_RELATION:
        before = RelationFile(*struct.unpack_from("<III", data, at))
        at += 12
    if before is None:
        raise _malformed(lsn, "Its first block is said to be of the relation of the one before.")
    (block,) = struct.unpack_from("<I", data, at)
    kept = flags & (HAS_IMAGE | HAS_DATA | WILL_INIT)
    head = _Head(id_, before, flags & 0x0F, block, kept, image_bytes, image, data_bytes)
    return head, at + 4


def _decode_image_head(
    lsn: int, data: bytes, at: int, version: WalVersion
) -> tuple[int, tuple[int, int, str | None, bool], int]:
    image_bytes, hole, info = struct.unpack_from("<HHB", data, at)
    at += 5
    method = None
    for bit, name in version.image_methods.items():
        method = name if info & bit else method
    hole_bytes = 0 if method else PAGE_BYTES - image_bytes
    has_hole = bool(info & IMAGE_HAS_HOLE)
    if has_hole and method:
        (hole_bytes,) = struct.unpack_from("<H", data, at)
        at += 2
    is_whole = image_bytes == PAGE_BYTES
    is_possible = image_bytes <= PAGE_BYTES and not (is_whole and method)
    if has_hole:
        is_possible &= hole > 0 and hole_bytes > 0 and not is_whole
    else:
        is_possible &= hole == 0 and hole_bytes == 0
    if not is_possible:
        raise _malformed(
            lsn,
            f"A page image of {image_bytes} bytes, {method or 'not compressed'}, has a hole of"
            f" {hole_bytes} bytes at {hole}.",
        )
    return image_bytes, (hole, hole_bytes, method, bool(info & version.image_apply)), at


def _deal(heads: list[_Head], data: bytes, at: int) -> Iterator[BlockReference]:
    """Yield the references with the bytes that stand behind all headers, image before data."""
    for head in heads:
        image = None
        if head.flags & HAS_IMAGE:
            image = PageImage(data[at : at + head.image_bytes], *head.image)
            at += head.image_bytes
        own = data[at : at + head.data_bytes]
        at += head.data_bytes
        yield BlockReference(head.id, head.file, head.fork, head.block, head.flags, image, own)


def _malformed(lsn: int, detail: str) -> CorruptWal:
    return CorruptWal(
        f"the WAL record at {lsn >> 32:X}/{lsn & 0xFFFFFFFF:X} is malformed", detail=detail
    )
