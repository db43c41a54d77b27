"""What the rare records say: transactions, storage, relation maps, databases, checkpoints.

Source: src/include/catalog/pg_control.h, catalog/storage_xlog.h, utils/relmapper.h,
commands/dbcommands_xlog.h, commands/tablespace.h, storage/standbydefs.h and access/heapam_xlog.h,
13 to 18. Row changes and block references come out of the scan.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from pitr.postgres.wal.fields import Fields, decode_text
from pitr.postgres.wal.record import Record, RelationFile
from pitr.postgres.wal.transaction import (
    Invalidations,
    SubtransactionsAssigned,
    TransactionEnd,
    TransactionPrepared,
    decode_transaction,
)
from pitr.postgres.wal.versions import (
    RM_DBASE,
    RM_HEAP,
    RM_RELMAP,
    RM_SMGR,
    RM_STANDBY,
    RM_TBLSPC,
    RM_XACT,
    RM_XLOG,
    WalVersion,
)

CHECKPOINT_SHUTDOWN = 0x00
CHECKPOINT_ONLINE = 0x10
NEXTOID = 0x30
BACKUP_END = 0x50
PARAMETER_CHANGE = 0x60
RESTORE_POINT = 0x70
FPW_CHANGE = 0x80
END_OF_RECOVERY = 0x90
OVERWRITE_CONTRECORD = 0xD0
CHECKPOINT_REDO = 0xE0
SMGR_CREATE = 0x10
SMGR_TRUNCATE = 0x20
STANDBY_LOCK = 0x00
RUNNING_XACTS = 0x10
HEAP_TRUNCATE = 0x30
_HEAP_OPERATION = 0x70
_RELMAP_MAGIC = 0x592717


@dataclass(frozen=True, slots=True)
class StorageCreated:
    """A file of a relation was made."""

    file: RelationFile
    fork: int


@dataclass(frozen=True, slots=True)
class StorageTruncated:
    """A relation was cut to `blocks` blocks; `forks` are the files that were: 1 heap, 2 VM, 4 FSM.

    VACUUM does this to empty ends. SQL's TRUNCATE makes a new file instead.
    """

    file: RelationFile
    blocks: int
    forks: int


@dataclass(frozen=True, slots=True)
class RelationMapUpdated:
    """The map of the catalogs without an entry in pg_class was written anew, as a whole.

    `files` are (OID, file number); `database` 0 and `tablespace` 1664 are the shared map.
    """

    database: int
    tablespace: int
    files: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class DatabaseCreated:
    """CREATE DATABASE; `template` is (database, tablespace) when the files were copied unlogged."""

    database: int
    tablespace: int
    template: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class DatabaseDropped:
    """DROP DATABASE, or its move out of these tablespaces."""

    database: int
    tablespaces: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TablespaceCreated:
    """CREATE TABLESPACE at a path of the server."""

    tablespace: int
    path: str


@dataclass(frozen=True, slots=True)
class TablespaceDropped:
    """DROP TABLESPACE."""

    tablespace: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint; `redo` is where recovery from it begins. `wal_level` is None before 17.

    `next_xid` has 64 bits: epoch and xid. `oldest_active_xid` is 0 for a shutdown.
    """

    is_shutdown: bool
    redo: int
    timeline: int
    previous_timeline: int
    full_page_writes: bool
    wal_level: int | None
    next_xid: int
    next_oid: int
    next_multi: int
    next_multi_offset: int
    oldest_xid: int
    oldest_xid_database: int
    oldest_multi: int
    oldest_multi_database: int
    time_us: int
    oldest_commit_time_xid: int
    newest_commit_time_xid: int
    oldest_active_xid: int


@dataclass(frozen=True, slots=True)
class CheckpointRedo:
    """Stands where an online checkpoint begins, from 17 on."""

    wal_level: int


@dataclass(frozen=True, slots=True)
class NextOid:
    """OIDs up to here are taken."""

    oid: int


@dataclass(frozen=True, slots=True)
class BackupEnded:
    """A base backup that began at `begin` has ended."""

    begin: int


@dataclass(frozen=True, slots=True)
class ParameterChanged:
    """Settings that a standby must match."""

    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int
    wal_level: int
    wal_log_hints: bool
    track_commit_timestamp: bool


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """pg_create_restore_point."""

    time_us: int
    name: str


@dataclass(frozen=True, slots=True)
class FullPageWritesChanged:
    """full_page_writes was switched."""

    is_on: bool


@dataclass(frozen=True, slots=True)
class RecoveryEnded:
    """A promotion: the timeline begins here. `wal_level` is None before 17."""

    time_us: int
    timeline: int
    previous_timeline: int
    wal_level: int | None


@dataclass(frozen=True, slots=True)
class ContrecordOverwritten:
    """The record that began at `lsn` was never finished; recovery wrote on behind it."""

    lsn: int
    time_us: int


@dataclass(frozen=True, slots=True)
class StandbyLocks:
    """AccessExclusive locks that are held: (xid, database, relation)."""

    locks: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class RunningTransactions:
    """Which transactions run. With `is_overflowed` sub-transactions are missing."""

    next_xid: int
    oldest_running_xid: int
    latest_completed_xid: int
    is_overflowed: bool
    xids: tuple[int, ...]
    subxids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TableTruncated:
    """TRUNCATE, as logical replication sees it: OIDs, not files. Written with wal_level logical."""

    database: int
    relations: tuple[int, ...]
    is_cascading: bool
    restarts_sequences: bool


Payload = (
    TransactionEnd
    | TransactionPrepared
    | SubtransactionsAssigned
    | Invalidations
    | StorageCreated
    | StorageTruncated
    | RelationMapUpdated
    | DatabaseCreated
    | DatabaseDropped
    | TablespaceCreated
    | TablespaceDropped
    | Checkpoint
    | CheckpointRedo
    | NextOid
    | BackupEnded
    | ParameterChanged
    | RestorePoint
    | FullPageWritesChanged
    | RecoveryEnded
    | ContrecordOverwritten
    | StandbyLocks
    | RunningTransactions
    | TableTruncated
)


def decode_payload(record: Record, version: WalVersion) -> Payload | None:
    """Decode what a record says beside its block references; None when that is nothing.

    Raises CorruptWal when the main data do not fit the operation.
    """
    header = record.header
    if header.rmgr == RM_XACT:
        return decode_transaction(record, version)
    operation = header.operation
    if header.rmgr == RM_HEAP:
        operation &= _HEAP_OPERATION
    if header.rmgr == RM_DBASE:
        return _database(operation, Fields(record), version)
    if header.rmgr == RM_XLOG and operation in _BY_VERSION:
        return _BY_VERSION[operation](Fields(record), version)
    decode = _DECODERS.get((header.rmgr, operation))
    return decode(Fields(record)) if decode else None


def _database(
    operation: int, fields: Fields, version: WalVersion
) -> DatabaseCreated | DatabaseDropped | None:
    """13 and 14: create, drop. From 15 on: create by file copy, create by WAL, drop."""
    drop = 0x20 if version.major >= 15 else 0x10
    if operation == 0x00:
        database, tablespace, *template = fields.take("IIII")
        return DatabaseCreated(database, tablespace, (template[0], template[1]))
    if operation == drop:
        database = fields.one("I")
        return DatabaseDropped(database, fields.numbers(fields.count()))
    if operation == 0x10:
        database, tablespace = fields.take("II")
        return DatabaseCreated(database, tablespace, None)
    return None


def _checkpoint(fields: Fields, version: WalVersion, *, is_shutdown: bool) -> Checkpoint:
    redo, timeline, previous, full, level = fields.take("QII?3xi")
    next_xid, next_oid, next_multi, next_offset = fields.take("QIII")
    oldest_xid, xid_database, oldest_multi, multi_database = fields.take("IIII4x")
    time, oldest_commit, newest_commit, active = fields.take("qIII")
    return Checkpoint(
        is_shutdown=is_shutdown,
        redo=redo,
        timeline=timeline,
        previous_timeline=previous,
        full_page_writes=bool(full),
        wal_level=level if version.major >= 17 else None,
        next_xid=next_xid,
        next_oid=next_oid,
        next_multi=next_multi,
        next_multi_offset=next_offset,
        oldest_xid=oldest_xid,
        oldest_xid_database=xid_database,
        oldest_multi=oldest_multi,
        oldest_multi_database=multi_database,
        time_us=time * 1_000_000,
        oldest_commit_time_xid=oldest_commit,
        newest_commit_time_xid=newest_commit,
        oldest_active_xid=active,
    )


def _recovery_end(fields: Fields, version: WalVersion) -> RecoveryEnded:
    time_us = fields.time_us()
    timeline, previous = fields.take("II")
    level = fields.one("i") if version.major >= 17 else None
    return RecoveryEnded(time_us, timeline, previous, level)


def _parameters(fields: Fields) -> ParameterChanged:
    connections, workers, senders, prepared, locks, level = fields.take("iiiiii")
    hints, commit_time = fields.take("??")
    return ParameterChanged(
        max_connections=connections,
        max_worker_processes=workers,
        max_wal_senders=senders,
        max_prepared_transactions=prepared,
        max_locks_per_transaction=locks,
        wal_level=level,
        wal_log_hints=bool(hints),
        track_commit_timestamp=bool(commit_time),
    )


def _restore_point(fields: Fields) -> RestorePoint:
    time_us = fields.time_us()
    return RestorePoint(time_us, decode_text(fields.data(fields.left).partition(b"\0")[0]))


def _storage_truncated(fields: Fields) -> StorageTruncated:
    blocks = fields.one("I")
    return StorageTruncated(fields.files(1)[0], blocks, fields.one("i"))


def _relation_map(fields: Fields) -> RelationMapUpdated:
    database, tablespace, size = fields.take("IIi")
    if size > fields.left:
        raise fields.malformed(f"Its map has {size} bytes, {fields.left} follow.")
    magic, count = fields.take("Ii")
    if magic != _RELMAP_MAGIC:
        raise fields.malformed(f"Its map begins with {magic:#x}.")
    numbers = fields.numbers(count * 2)
    pairs = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    return RelationMapUpdated(database, tablespace, pairs)


def _standby_locks(fields: Fields) -> StandbyLocks:
    data = fields.data(fields.count() * 12)
    return StandbyLocks(tuple(struct.iter_unpack("<III", data)))


def _running(fields: Fields) -> RunningTransactions:
    count, subcount, is_overflowed, next_xid, oldest, latest = fields.take("ii?3xIII")
    xids, subxids = fields.numbers(count), fields.numbers(subcount)
    return RunningTransactions(next_xid, oldest, latest, bool(is_overflowed), xids, subxids)


def _truncate(fields: Fields) -> TableTruncated:
    database, count, flags = fields.take("IIB3x")
    return TableTruncated(database, fields.numbers(count), bool(flags & 1), bool(flags & 2))


def _tablespace_created(fields: Fields) -> TablespaceCreated:
    tablespace = fields.one("I")
    return TablespaceCreated(tablespace, fields.text())


_BY_VERSION: dict[int, Callable[[Fields, WalVersion], Payload]] = {
    CHECKPOINT_SHUTDOWN: lambda fields, version: _checkpoint(fields, version, is_shutdown=True),
    CHECKPOINT_ONLINE: lambda fields, version: _checkpoint(fields, version, is_shutdown=False),
    END_OF_RECOVERY: _recovery_end,
}
_DECODERS: dict[tuple[int, int], Callable[[Fields], Payload]] = {
    (RM_XLOG, NEXTOID): lambda fields: NextOid(fields.one("I")),
    (RM_XLOG, BACKUP_END): lambda fields: BackupEnded(fields.one("Q")),
    (RM_XLOG, PARAMETER_CHANGE): _parameters,
    (RM_XLOG, RESTORE_POINT): _restore_point,
    (RM_XLOG, FPW_CHANGE): lambda fields: FullPageWritesChanged(bool(fields.one("?"))),
    (RM_XLOG, OVERWRITE_CONTRECORD): lambda fields: ContrecordOverwritten(
        fields.one("Q"), fields.time_us()
    ),
    (RM_XLOG, CHECKPOINT_REDO): lambda fields: CheckpointRedo(fields.one("i")),
    (RM_SMGR, SMGR_CREATE): lambda fields: StorageCreated(fields.files(1)[0], fields.one("i")),
    (RM_SMGR, SMGR_TRUNCATE): _storage_truncated,
    (RM_RELMAP, 0x00): _relation_map,
    (RM_TBLSPC, 0x00): _tablespace_created,
    (RM_TBLSPC, 0x10): lambda fields: TablespaceDropped(fields.one("I")),
    (RM_STANDBY, STANDBY_LOCK): _standby_locks,
    (RM_STANDBY, RUNNING_XACTS): _running,
    (RM_HEAP, HEAP_TRUNCATE): _truncate,
}
