"""Files of a PostgreSQL cluster: the input is one byte for which of them, then its bytes."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Callable, Iterator

from pitr.errors import PitrError
from pitr.postgres.base.control import parse_backup_label, parse_control, parse_filenode_map
from pitr.postgres.base.page_checksum import _damaged_pages, damaged_pages
from pitr.postgres.base.server_manifest import read_server_manifest
from pitr.postgres.wal.dump import describe_history

_LABEL = b"""START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-28 14:00:00 UTC
LABEL: pitr base backup
START TIMELINE: 1
"""
_HISTORY = b"1\t0/3000000\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-11-28\n"
_MANIFEST = (
    b'{"PostgreSQL-Backup-Manifest-Version":1,"Files":[{"Path":"base/5/1","Size":8192,'
    b'"Last-Modified":"2026-11-28 14:00:00 GMT","Checksum-Algorithm":"CRC32C","Checksum":"00"},'
    b'{"Encoded-Path":"ff2f","Size":1}],"WAL-Ranges":[{"Timeline":1,"Start-LSN":"0/2000028",'
    b'"End-LSN":"0/2000100"}],\n'
)


def seeds() -> Iterator[bytes]:
    """Yield one file of each kind."""
    control = bytearray(8192)
    struct.pack_into("<QIIi", control, 0, 7713217562177226186, 1300, 202209061, 6)
    struct.pack_into("<QQII8xQ", control, 32, 0x2000060, 0x2000028, 1, 1, 735)
    struct.pack_into("<IIII", control, 216, 8192, 131072, 8192, 16 << 20)
    yield b"\0" + bytes(control[:320])
    yield b"\1" + _LABEL
    yield b"\2" + struct.pack("<ii6I", 0x592717, 3, 1259, 1259, 1249, 1249, 1247, 16400)
    yield b"\3" + _HISTORY
    yield b"\4" + _MANIFEST
    yield b"\5" + bytes(range(256)) * 32


def fuzz(data: bytes) -> None:
    """Decode the file."""
    if data:
        with contextlib.suppress(PitrError):
            _DECODERS[data[0] % len(_DECODERS)](data[1:])


def _manifest(body: bytes) -> None:
    digest = hashlib.sha256(body).hexdigest().encode()
    found = read_server_manifest(body + b'"Manifest-Checksum":"' + digest + b'"}\n')
    list(found.contradictions({"base/5/1": (8192, "00"), "other": (1, "")}))


def _pages(data: bytes) -> None:
    pages = data[: len(data) // 1024 * 1024]
    arguments = (1024, 7, 1 << 62)
    assert damaged_pages(pages, *arguments) == _damaged_pages(pages, *arguments)


_DECODERS: tuple[Callable[[bytes], object], ...] = (
    parse_control,
    lambda data: parse_backup_label(data.decode("utf-8", "surrogateescape")),
    parse_filenode_map,
    lambda data: describe_history(3, data),
    _manifest,
    _pages,
)
