"""WAL made for tests: records laid on pages, as a server would, of any version and segment size."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from pitr.postgres.wal.checksum import crc32c
from pitr.postgres.wal.page import (
    FIRST_IS_CONTRECORD,
    HAS_LONG_HEADER,
    PAGE_BYTES,
    align,
    header_bytes_at,
    skip_header,
)
from pitr.postgres.wal.versions import RM_XLOG, WalVersion, version_of_major

SYSTEM = 7713217562177226186
MIB = 1 << 20


@dataclass(frozen=True)
class Block:
    """A block reference to be encoded; `image` is an 8 kB page or compressed bytes."""

    id: int = 0
    file: tuple[int, int, int] = (1663, 5, 16384)
    fork: int = 0
    block: int = 0
    data: bytes = b""
    image: bytes | None = None
    hole: tuple[int, int] = (0, 0)
    image_info: int = 0
    is_compressed: bool = False
    same_relation: bool = False
    will_init: bool = False


def encode_record(
    rmgr: int,
    info: int = 0,
    *,
    xid: int = 0,
    prev: int = 0,
    blocks: tuple[Block, ...] = (),
    main: bytes = b"",
    before_main: bytes = b"",
) -> bytes:
    """Encode a record with its checksum; `before_main` is put between blocks and main data."""
    heads, content = b"", b""
    for block in blocks:
        head, own = encode_block(block)
        heads += head
        content += own
    heads += before_main
    if main:
        short = len(main) < 256
        heads += struct.pack("<BB", 255, len(main)) if short else struct.pack("<BI", 254, len(main))
    body = heads + content + main
    head = struct.pack("<IIQBBxx", 24 + len(body), xid, prev, info, rmgr)
    return head + struct.pack("<I", record_checksum(head + bytes(4) + body)) + body


def record_checksum(record: bytes) -> int:
    """Return the checksum that belongs into a record: over its body, then its first 20 bytes."""
    return crc32c(record[:20], crc32c(record[24:]))


def encode_block(block: Block) -> tuple[bytes, bytes]:
    """Encode (header, image and data) of a block reference."""
    flags = block.fork | (0x20 if block.data else 0) | (0x10 if block.image is not None else 0)
    flags |= (0x40 if block.will_init else 0) | (0x80 if block.same_relation else 0)
    head = struct.pack("<BBH", block.id, flags, len(block.data))
    if block.image is not None:
        offset, size = block.hole
        info = block.image_info | (1 if size else 0)
        head += struct.pack("<HHB", len(block.image), offset, info)
        if size and block.is_compressed:
            head += struct.pack("<H", size)
    if not block.same_relation:
        head += struct.pack("<III", *block.file)
    return head + struct.pack("<I", block.block), (block.image or b"") + block.data


@dataclass
class WalBuilder:
    """WAL from `begin` on: `add` puts a record behind the last one, `data` are the bytes so far."""

    begin: int = MIB
    segment_bytes: int = MIB
    major: int = 15
    timeline: int = 1
    system: int = SYSTEM
    prev: int = 0
    data: bytearray = field(default_factory=bytearray)
    starts: list[int] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)

    @property
    def version(self) -> WalVersion:
        """The version of the WAL."""
        return version_of_major(self.major)

    @property
    def end(self) -> int:
        """The LSN after the last byte."""
        return self.begin + len(self.data)

    def add(self, rmgr: int, info: int = 0, **parts: object) -> int:
        """Add a record of the parts that `encode_record` takes; return its LSN."""
        record = encode_record(rmgr, info, prev=self.prev, **parts)  # type: ignore[arg-type]
        return self.add_encoded(record)

    def add_encoded(self, record: bytes) -> int:
        """Add a record as it is."""
        if self.end % PAGE_BYTES == 0:
            self.add_page_header(0)
        lsn = self.end
        self.starts.append(lsn)
        self.records.append(record)
        self.prev = lsn
        self.write(record)
        return lsn

    def write(self, content: bytes) -> None:
        """Lay content on pages, with a header where one begins, and align the end."""
        left = len(content)
        while left:
            if self.end % PAGE_BYTES == 0:
                self.add_page_header(left)
            take = min(left, PAGE_BYTES - self.end % PAGE_BYTES)
            self.data += content[len(content) - left :][:take]
            left -= take
        self.data += bytes(align(self.end) - self.end)

    def add_page_header(self, remaining: int, flags: int = 0) -> None:
        """Add the header of the page that begins here."""
        flags |= FIRST_IS_CONTRECORD if remaining else 0
        is_first = self.end % self.segment_bytes == 0
        flags |= HAS_LONG_HEADER if is_first else 0
        self.data += struct.pack(
            "<HHIQI4x", self.version.magic, flags, self.timeline, self.end, remaining
        )
        if is_first:
            self.data += struct.pack("<QII", self.system, self.segment_bytes, PAGE_BYTES)

    def switch(self) -> None:
        """Add a segment switch: the rest of the segment is empty pages."""
        self.add(RM_XLOG, 0x40)
        while self.end % self.segment_bytes:
            if self.end % PAGE_BYTES == 0:
                self.add_page_header(0)
            self.data += bytes(PAGE_BYTES - self.end % PAGE_BYTES)

    def pad_to_boundary(self, left: int) -> None:
        """Add a record of no meaning so that `left` bytes of the page remain."""
        at = skip_header(self.end, self.segment_bytes)
        room = PAGE_BYTES - at % PAGE_BYTES - left
        if room >= 24 + 2:
            body = room - 24 - (2 if room - 26 < 256 else 5)
            self.add(RM_XLOG, 0x20, main=bytes(body))
        assert header_bytes_at(0, self.segment_bytes)
