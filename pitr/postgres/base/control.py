"""pg_control, backup_label and pg_filenode.map as values. No I/O: bytes in, values out.

    pg_control        what a cluster knows of itself: identity, last checkpoint, settings
    backup_label      where the recovery of a base backup begins
    pg_filenode.map   the file numbers of the catalogs that cannot look themselves up in pg_class

Formats: PostgreSQL's pg_control.h, xlogbackup.c and relmapper.c, majors 13 to 18.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from pitr.errors import CorruptDatabase
from pitr.vocabulary.position import Lsn

CONTROL_PATH = "global/pg_control"
_MAJORS = {
    202007201: 13,
    202107181: 14,
    202209061: 15,
    202307071: 16,
    202406281: 17,
    202506291: 18,
}
_HEAD = struct.Struct("<QIIi")
_CHECKPOINT = struct.Struct("<QQII8xQ")  # at 32: its place; its redo, timelines, next xid
_SETTINGS = struct.Struct("<i?3xiiiii?")  # at 172
_SIZES = struct.Struct("<IIII")  # at 216
_CHECKSUMS_AT = 252
CONTROL_BYTES_MIN = 296
_MAP_MAGIC = 0x592717
_LSN = r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}"
_REDO = re.compile(rf"^START WAL LOCATION: ({_LSN}) \(file ([0-9A-F]{{24}})\)", re.MULTILINE)
_CHECKPOINT_AT = re.compile(rf"^CHECKPOINT LOCATION: ({_LSN})$", re.MULTILINE)
_ON = re.compile(r"^START TIMELINE: ([0-9]{1,10})$", re.MULTILINE)
_MAP_HEAD = struct.Struct("<ii")
_MAP_ENTRY = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class ControlFile:
    """What pg_control says of a cluster. `next_xid` and `timeline` are the last checkpoint's.

    The five settings are those that recovery compares with its own server's.
    """

    system_identifier: int
    major: int
    catalog_version: int
    checkpoint: Lsn
    redo: Lsn
    timeline: int
    next_xid: int
    wal_log_hints: bool
    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int
    track_commit_timestamp: bool
    block_bytes: int
    blocks_per_file: int
    wal_block_bytes: int
    wal_segment_bytes: int
    data_checksums: bool


def parse_control(data: bytes) -> ControlFile:
    """Read pg_control. Raises CorruptDatabase; the file's own checksum is left to the server."""
    if len(data) < CONTROL_BYTES_MIN:
        raise _unusable(f"It has {len(data)} bytes.")
    system_identifier, _, catalog_version, _ = _HEAD.unpack_from(data)
    major = _MAJORS.get(catalog_version)
    if major is None:
        raise _unusable(f"Its catalog version {catalog_version} is of no release from 13 to 18.")
    checkpoint, redo, timeline, _, next_xid = _CHECKPOINT.unpack_from(data, 32)
    _, hints, connections, workers, senders, prepared, locks, track = _SETTINGS.unpack_from(
        data, 172
    )
    block, per_file, wal_block, segment = _SIZES.unpack_from(data, 216)
    return ControlFile(
        system_identifier=system_identifier,
        major=major,
        catalog_version=catalog_version,
        checkpoint=Lsn(checkpoint),
        redo=Lsn(redo),
        timeline=timeline,
        next_xid=next_xid & 0xFFFFFFFF,
        wal_log_hints=hints,
        max_connections=connections,
        max_worker_processes=workers,
        max_wal_senders=senders,
        max_prepared_transactions=prepared,
        max_locks_per_transaction=locks,
        track_commit_timestamp=track,
        block_bytes=block,
        blocks_per_file=per_file,
        wal_block_bytes=wal_block,
        wal_segment_bytes=segment,
        data_checksums=struct.unpack_from("<I", data, _CHECKSUMS_AT)[0] != 0,
    )


def _unusable(detail: str) -> CorruptDatabase:
    return CorruptDatabase(
        "pg_control of the base backup cannot be read",
        detail=detail,
        hint="Use another base backup, made by PostgreSQL 13 to 18.",
    )


@dataclass(frozen=True, slots=True)
class BackupLabel:
    """Where recovery of a base backup begins: the redo point, its checkpoint, its timeline."""

    redo: Lsn
    checkpoint: Lsn
    timeline: int
    from_standby: bool


def parse_backup_label(text: str) -> BackupLabel:
    """Read a backup_label. Raises CorruptDatabase when a line that recovery needs is missing."""
    redo, checkpoint, timeline = _REDO.search(text), _CHECKPOINT_AT.search(text), _ON.search(text)
    if redo is None or checkpoint is None:
        raise CorruptDatabase(
            "backup_label of the base backup cannot be read",
            detail="It has no START WAL LOCATION or no CHECKPOINT LOCATION.",
            hint="Use another base backup.",
        )
    return BackupLabel(
        redo=Lsn.parse(redo[1]),
        checkpoint=Lsn.parse(checkpoint[1]),
        timeline=int(timeline[1]) if timeline else int(redo[2][:8], 16),
        from_standby="\nBACKUP FROM: standby" in text,
    )


def parse_filenode_map(data: bytes) -> dict[int, int]:
    """Return the file number of each mapped catalog, by its OID. Raises CorruptDatabase.

    The same bytes stand in pg_filenode.map and in the WAL records that replace it.
    """
    magic, count = _MAP_HEAD.unpack_from(data) if len(data) >= _MAP_HEAD.size else (0, 0)
    end = _MAP_HEAD.size + count * _MAP_ENTRY.size
    if magic != _MAP_MAGIC or not 0 <= count <= 64 or end > len(data):
        raise CorruptDatabase(
            "pg_filenode.map cannot be read",
            detail=f"It has {len(data)} bytes, magic {magic:#x} and {count} entries.",
            hint="Use another base backup.",
        )
    return dict(_MAP_ENTRY.iter_unpack(data[_MAP_HEAD.size : end]))
