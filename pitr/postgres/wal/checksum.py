"""CRC-32C, the checksum of a WAL record.

The one place that imports google-crc32c (0.3 us a record of 200 bytes; plain Python reads 5 MB/s).
"""

from __future__ import annotations

from google_crc32c import extend, value

HEADER_BYTES = 24
# The checksum itself is the end of the header.
CHECKED_HEADER_BYTES = 20


def crc32c(data: bytes, seed: int = 0) -> int:
    """Return the CRC-32C of `data`, continued from the CRC-32C of the bytes before it."""
    return int(extend(seed, data))


def record_checksum(record: bytes) -> int:
    """Return the checksum that belongs into a record: over its body, then its first 20 bytes."""
    return int(extend(value(record[HEADER_BYTES:]), record[:CHECKED_HEADER_BYTES]))
