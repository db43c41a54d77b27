"""WAL as it lies in segments: page headers, records across pages, both implementations of the scan.

The input: one byte for the major version, then WAL from the beginning of a segment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pitr.errors import PitrError
from pitr.postgres.wal.dump import describe_counts, describe_segment
from pitr.postgres.wal.scan import NO_STOP, scan_wal
from pitr.postgres.wal.scan_reference import scan_wal as reference
from pitr.postgres.wal.versions import version_of_major
from tests.fuzz import samples
from tests.unit.postgres.wal_builder import MIB


def seeds() -> Iterator[bytes]:
    """Yield WAL of two versions."""
    for major in (13, 15, 18):
        yield bytes([major - 13]) + samples.wal(major)


def fuzz(data: bytes) -> None:
    """Scan with both implementations, which must agree, and describe what is there."""
    if not data:
        return
    version = version_of_major(13 + data[0] % 6)
    wal = data[1:]
    switches = (version.has_custom_rmgrs, version.has_toplevel_xid)
    images = (version.magic, version.image_apply, version.image_compressed)
    arguments = (MIB, MIB, 0, 0, 0, b"", MIB, *images, *switches, 0, NO_STOP)
    found = scan_wal(wal, *arguments)
    assert found == reference(wal, *arguments), "the scan in C and its reference disagree"
    for describe in (describe_segment, describe_counts):
        with contextlib.suppress(PitrError):
            describe(wal)
