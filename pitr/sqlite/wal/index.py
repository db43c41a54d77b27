"""The head of the wal-index (`-shm`): what is committed, and what is copied back already."""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass

from pitr.sqlite.wal.checksum import wal_checksum
from pitr.sqlite.wal.header import VERSION

INDEX_BYTES = 100
_COPY = struct.Struct("=IIIBBHIIIIIIII")
HEADER_COPY_BYTES = 48
assert _COPY.size == HEADER_COPY_BYTES
_BACKFILLED = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class WalIndex:
    """One consistent reading of the wal-index header, with nBackfill read beside it.

    `backfilled` may still carry the value of the generation before while `max_frame` is 0; it is
    cut to `max_frame` for that reason.
    """

    change: int
    big_endian: bool
    page_size: int
    max_frame: int
    page_count: int
    checksum1: int
    checksum2: int
    salt1: int
    salt2: int
    backfilled: int

    @property
    def salts(self) -> tuple[int, int]:
        """Return the name of the generation."""
        return self.salt1, self.salt2

    @property
    def is_backfilled(self) -> bool:
        """Return whether the database file alone holds everything that is committed."""
        return self.backfilled == self.max_frame


def decode_index(data: bytes) -> WalIndex | None:
    """Decode the first 100 bytes of the wal-index.

    Returns None when they are not valid at this moment: not initialised, or read in the middle
    of an update. The caller reads again.
    """
    copy = data[:HEADER_COPY_BYTES]
    if len(data) < INDEX_BYTES or copy != data[HEADER_COPY_BYTES : 2 * HEADER_COPY_BYTES]:
        return None
    (
        version, _unused, change, initialised, big_endian, page_size, max_frame, page_count,
        checksum1, checksum2, salt1, salt2, own1, own2,
    ) = _COPY.unpack(copy)  # fmt: skip
    if not initialised or version != VERSION:
        return None
    if wal_checksum(copy[:40], 0, 0, sys.byteorder == "big") != (own1, own2):
        return None
    # The salts are eight bytes of the WAL file, so big-endian whatever the machine is.
    salt1, salt2 = struct.unpack_from(">II", copy, 32)
    return WalIndex(
        change=change,
        big_endian=bool(big_endian),
        page_size=(page_size & 0xFE00) | (page_size & 1) << 16,
        max_frame=max_frame,
        page_count=page_count,
        checksum1=checksum1,
        checksum2=checksum2,
        salt1=salt1,
        salt2=salt2,
        backfilled=min(_BACKFILLED.unpack_from(data, 2 * HEADER_COPY_BYTES)[0], max_frame),
    )
