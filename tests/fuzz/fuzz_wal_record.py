"""One WAL record with a checksum that is right: its parts, its payload, the line of the dump.

The input: one byte for the major version, resource manager, info, then the body of a record, that
is all behind its header.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pitr.errors import PitrError
from pitr.postgres.wal.dump import record_line
from pitr.postgres.wal.payload import decode_payload
from pitr.postgres.wal.record import decode_record
from pitr.postgres.wal.versions import version_of_major
from tests.fuzz import fuzz_wal_pages
from tests.unit.postgres.test_wal_golden import MAJORS, golden
from tests.unit.postgres.wal_builder import MIB, WalBuilder, record_checksum

_HEADER_BYTES = 24
_BODY_BYTES_MAX = 3000


def seeds() -> Iterator[bytes]:
    """Yield the shortest record of each operation that PostgreSQL wrote into the golden files."""
    shortest: dict[tuple[int, int], bytes] = {}
    for major in MAJORS:
        for record in golden(major).records:
            key = record.header.rmgr, record.header.operation
            body = record.data[_HEADER_BYTES:]
            head = bytes([major - 13, record.header.rmgr, record.header.info])
            if key not in shortest or len(body) + 3 < len(shortest[key]):
                shortest[key] = head + body
    yield from (one for _, one in sorted(shortest.items()) if len(one) < _BODY_BYTES_MAX)


def fuzz(data: bytes) -> None:
    """Decode the record alone, then let both scans read it from a page."""
    if len(data) < 3:
        return
    version = version_of_major(13 + data[0] % 6)
    body = data[3:]
    total = _HEADER_BYTES + len(body)
    head = struct.pack("<IIQBBxxI", total, 731, 0, data[2], data[1], 0)
    crc = struct.pack("<I", record_checksum(head + body))
    record = head[:20] + crc + body
    try:
        found = decode_record(MIB + 40, record, version)
        decode_payload(found, version)
        record_line(found, version)
    except PitrError:
        pass
    wal = WalBuilder(major=version.major)
    wal.add_encoded(record)
    fuzz_wal_pages.fuzz(bytes([data[0]]) + bytes(wal.data))
