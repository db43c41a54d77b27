"""WAL pages: 8 kB with a header of 24 bytes, or of 40 on the first page of a segment.

A record runs across pages as if their headers were not there. The functions below that count in
`content` bytes mean the bytes without headers. Source: src/include/access/xlog_internal.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pitr.errors import CorruptWal
from pitr.postgres.wal.segment_name import is_segment_bytes
from pitr.postgres.wal.versions import WalVersion, version_of_magic

Bytes = bytes | bytearray | memoryview

PAGE_BYTES = 8192
SHORT_HEADER_BYTES = 24
LONG_HEADER_BYTES = 40
ALIGNMENT = 8
# Positions beyond are damage: at a GB/s it would take more than a century to come here.
LSN_MAX = 1 << 62

FIRST_IS_CONTRECORD = 0x01
HAS_LONG_HEADER = 0x02
BACKUP_REMOVABLE = 0x04
FIRST_IS_OVERWRITE_CONTRECORD = 0x08
ALL_FLAGS = 0x0F

SHORT_HEADER = struct.Struct("<HHIQI4x")
LONG_TAIL = struct.Struct("<QII")


@dataclass(frozen=True, slots=True)
class PageHeader:
    """The header of one page; the last three fields are None unless it is a long one.

    `remaining` are the bytes of the record from the page before that are still to come, this page
    included.
    """

    magic: int
    flags: int
    timeline: int
    address: int
    remaining: int
    system_identifier: int | None = None
    segment_bytes: int | None = None
    page_bytes: int | None = None

    @property
    def header_bytes(self) -> int:
        """Return the length of the header itself."""
        return LONG_HEADER_BYTES if self.flags & HAS_LONG_HEADER else SHORT_HEADER_BYTES


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What the first page of a segment says of all of it."""

    version: WalVersion
    timeline: int
    begin: int
    system_identifier: int
    segment_bytes: int


def decode_page_header(data: Bytes, offset: int = 0) -> PageHeader:
    """Decode the header at `offset`. Raises struct.error when it is cut short; judges nothing."""
    header = PageHeader(*SHORT_HEADER.unpack_from(data, offset))
    if not header.flags & HAS_LONG_HEADER:
        return header
    tail = LONG_TAIL.unpack_from(data, offset + SHORT_HEADER_BYTES)
    return PageHeader(
        header.magic, header.flags, header.timeline, header.address, header.remaining, *tail
    )


def decode_segment_header(data: Bytes) -> SegmentHeader:
    """Decode the first 40 bytes of a segment.

    Raises SourceUnusable for a version that pitr does not know, and CorruptWal for what cannot be
    the beginning of a segment. Whether it is the *right* segment is for the caller to compare.
    """
    if len(data) < LONG_HEADER_BYTES:
        raise CorruptWal("the WAL segment is cut short", detail=f"It has {len(data)} bytes.")
    header = decode_page_header(data)
    if header.magic >> 8 != 0xD1:
        raise CorruptWal(
            "this is not a WAL segment of PostgreSQL",
            detail=f"It begins with {header.magic:04X}, not with the magic number of a WAL page.",
        )
    version = version_of_magic(header.magic)
    size = header.segment_bytes
    if header.system_identifier is None or size is None or not is_segment_bytes(size):
        raise CorruptWal(
            "the WAL segment does not begin with its first page",
            detail=f"Its page header has the flags {header.flags:#x} and the segment size {size}.",
        )
    if header.page_bytes != PAGE_BYTES:
        raise CorruptWal(
            f"WAL pages of {header.page_bytes} bytes are not supported",
            detail=f"pitr reads pages of {PAGE_BYTES} bytes, PostgreSQL's default.",
        )
    if header.address % size or header.address >= LSN_MAX:
        raise CorruptWal(
            "the WAL segment does not begin with its first page",
            detail=f"Its page has the address {header.address:X}, its segments {size} bytes.",
        )
    return SegmentHeader(version, header.timeline, header.address, header.system_identifier, size)


def header_bytes_at(page: int, segment_bytes: int) -> int:
    """Return the length of the header of the page that begins at the LSN `page`."""
    return SHORT_HEADER_BYTES if page % segment_bytes else LONG_HEADER_BYTES


def align(lsn: int) -> int:
    """Return the first LSN from here at which a record can begin."""
    return (lsn + ALIGNMENT - 1) & -ALIGNMENT


def skip_header(lsn: int, segment_bytes: int) -> int:
    """Return `lsn`, or the end of the page header when a page begins there."""
    return lsn if lsn % PAGE_BYTES else lsn + header_bytes_at(lsn, segment_bytes)


def advance(lsn: int, content: int, segment_bytes: int) -> int:
    """Return the LSN after `content` bytes from `lsn` on, page headers not counted.

    The result may be the end of a page: the header behind it is not passed yet.
    """
    lsn = skip_header(lsn, segment_bytes)
    left = PAGE_BYTES - lsn % PAGE_BYTES
    while content > left:
        content -= left
        lsn = skip_header(lsn + left, segment_bytes)
        left = PAGE_BYTES - lsn % PAGE_BYTES
    return lsn + content


def content_of(data: Bytes, lsn: int, begin: int, content: int, segment_bytes: int) -> bytes:
    """Return `content` bytes from `begin` on without page headers; `data` begins at `lsn`.

    Returns fewer bytes when `data` ends before.
    """
    parts = []
    at = skip_header(begin, segment_bytes)
    while content > 0:
        take = min(content, PAGE_BYTES - at % PAGE_BYTES)
        part = bytes(data[at - lsn : at - lsn + take])
        parts.append(part)
        if len(part) < take:
            break
        content -= take
        at = skip_header(at + take, segment_bytes)
    return b"".join(parts)
