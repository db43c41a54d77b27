"""CRC-32C, the checksum of WAL records and of much else in PostgreSQL.

By google-crc32c: 0.3 us for 200 bytes, where plain Python reads 5 MB/s. Only the scan's reference
imports it too, to save a call for each record.
"""

from __future__ import annotations

from google_crc32c import extend


def crc32c(data: bytes, seed: int = 0) -> int:
    """Return the CRC-32C of `data`, continued from the CRC-32C of the bytes before it."""
    return int(extend(seed, data))
