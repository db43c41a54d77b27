"""The backup manifest that PostgreSQL makes itself: which files it sent, with their checksums.

JSON, since version 13 (PostgreSQL: doc/src/sgml/backup-manifest.sgml). No I/O.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import msgspec

from pitr.errors import Corrupt
from pitr.vocabulary.position import Lsn

_CHECKSUM_LINE = b'"Manifest-Checksum"'


class ManifestFile(msgspec.Struct, rename="pascal"):
    """One file of the manifest; `path` is None where `encoded_path` has it in hex."""

    size: int
    path: str | None = None
    encoded_path: str | None = msgspec.field(default=None, name="Encoded-Path")
    checksum_algorithm: str | None = msgspec.field(default=None, name="Checksum-Algorithm")
    checksum: str | None = None

    @property
    def name(self) -> str:
        """Return the path, as the file system has it."""
        if self.encoded_path is not None:
            return os.fsdecode(bytes.fromhex(self.encoded_path))
        return self.path or ""


class WalRange(msgspec.Struct, rename="pascal"):
    """A stretch of WAL that a server on the backup needs."""

    timeline: int
    start_lsn: str = msgspec.field(name="Start-LSN")
    end_lsn: str = msgspec.field(name="End-LSN")


class ServerManifest(msgspec.Struct):
    """The whole manifest."""

    files: list[ManifestFile] = msgspec.field(name="Files")
    wal_ranges: list[WalRange] = msgspec.field(name="WAL-Ranges", default_factory=list)

    def contradictions(self, arrived: dict[str, tuple[int, str]]) -> Iterator[str]:
        """Yield where the manifest and what arrived differ: sizes and checksums by path."""
        listed = set()
        for file in self.files:
            path = file.name
            listed.add(path)
            if path not in arrived:
                yield f"{path} did not arrive"
                continue
            size, checksum = arrived[path]
            if size != file.size:
                yield f"{path} has {size} bytes, not {file.size}"
            elif file.checksum is not None and checksum != file.checksum.lower():
                yield f"{path} has the checksum {checksum}, not {file.checksum}"
        yield from (f"{path} is not listed" for path in arrived if path not in listed)


def read_server_manifest(data: bytes) -> ServerManifest:
    """Decode a manifest and verify the checksum over it. Raises Corrupt."""
    body, mark, rest = data.rpartition(_CHECKSUM_LINE)
    if not mark or hashlib.sha256(body).hexdigest().encode() not in rest:
        raise _damaged("Its own checksum does not match its bytes.")
    try:
        found = msgspec.json.decode(data, type=ServerManifest)
        # Names and positions are decoded when they are asked for: no fault may wait until then.
        _ = [file.name for file in found.files]
        _ = [Lsn.parse(part.end_lsn) for part in found.wal_ranges]
        return found
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _damaged(f"It does not decode: {error}.") from None


def _damaged(detail: str) -> Corrupt:
    return Corrupt("the server's backup manifest is damaged", detail=detail)
