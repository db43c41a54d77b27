"""Give a copied data directory a system identifier of its own, as initdb would have.

Copies of one template would all be "the same cluster" to pitr. The identifier stands in pg_control
(its first eight bytes) and in the first page header of each WAL segment; pg_control ends its data
with a CRC-32C whose place differs by version and is found by trying.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

LONG_HEADER = 0x0002  # XLP_LONG_HEADER
LONG_HEADER_IDENTIFIER_OFFSET = 24
CONTROL_BYTES_MAX = 512


def give_identity(data: Path) -> int:
    """Write a new system identifier into a data directory that was shut down; return it.

    Raises RuntimeError when pg_control holds no checksum where one could be.
    """
    # The layout of initdb's own: seconds, microseconds, and here random bits for the process id.
    now_us = time.time_ns() // 1000
    random_bits = int.from_bytes(os.urandom(2), "big") & 0xFFF
    identifier = (now_us // 1_000_000) << 32 | (now_us % 1_000_000) << 12 | random_bits
    control = data / "global" / "pg_control"
    content = bytearray(control.read_bytes())
    end = _checksum_offset(content)
    struct.pack_into("=Q", content, 0, identifier)
    struct.pack_into("=I", content, end, crc32c(content[:end]))
    control.write_bytes(content)
    for segment in (data / "pg_wal").iterdir():
        if len(segment.name) == 24:
            _stamp(segment, identifier)
    return identifier


def _stamp(segment: Path, identifier: int) -> None:
    with segment.open("r+b") as file:
        flags = struct.unpack_from("=H", file.read(4), 2)[0]
        if flags & LONG_HEADER:
            file.seek(LONG_HEADER_IDENTIFIER_OFFSET)
            file.write(struct.pack("=Q", identifier))


def _checksum_offset(control: bytearray) -> int:
    for offset in range(64, CONTROL_BYTES_MAX, 4):
        if struct.unpack_from("=I", control, offset)[0] == crc32c(control[:offset]):
            return offset
    raise RuntimeError("pg_control has no checksum in its first 512 bytes")


def crc32c(content: bytes | bytearray) -> int:
    """Return the CRC-32C of some bytes (Castagnoli, reflected)."""
    value = 0xFFFFFFFF
    for byte in content:
        value = value >> 8 ^ TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def _table_entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


TABLE = [_table_entry(byte) for byte in range(256)]
