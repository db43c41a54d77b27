"""The 32 bytes at the head of a WAL file."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pitr.errors import CorruptDatabase
from pitr.sqlite.wal.checksum import wal_checksum

WAL_HEADER_BYTES = 32
VERSION = 3007000
_MAGIC_LITTLE = 0x377F0682
_HEADER = struct.Struct(">8I")


@dataclass(frozen=True, slots=True)
class WalHeader:
    """One generation of a WAL: its salts, and the checksum that its first frame continues."""

    big_endian: bool
    page_size: int
    salt1: int
    salt2: int
    checksum1: int
    checksum2: int


def decode_wal_header(data: bytes) -> WalHeader:
    """Decode and verify the first 32 bytes of a WAL file. Raises CorruptDatabase."""
    if len(data) < WAL_HEADER_BYTES:
        raise _corrupt(f"It is cut short: {len(data)} bytes.")
    magic, version, page_size, _sequence, salt1, salt2, checksum1, checksum2 = _HEADER.unpack_from(
        data
    )
    if magic & ~1 != _MAGIC_LITTLE:
        raise _corrupt(f"It begins with {magic:#010x}.")
    if version != VERSION:
        raise _corrupt(f"Its version is {version}, not {VERSION}.")
    if not is_page_size(page_size):
        raise _corrupt(f"Its page size is {page_size}.")
    big_endian = bool(magic & 1)
    if wal_checksum(data[:24], 0, 0, big_endian) != (checksum1, checksum2):
        raise _corrupt("Its checksum does not match.")
    return WalHeader(big_endian, page_size, salt1, salt2, checksum1, checksum2)


def is_page_size(value: int) -> bool:
    """Return whether SQLite allows this page size."""
    return 512 <= value <= 65536 and value & (value - 1) == 0


def _corrupt(detail: str) -> CorruptDatabase:
    return CorruptDatabase("the WAL header is not valid", detail=detail)
