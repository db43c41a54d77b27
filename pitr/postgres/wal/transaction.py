"""Payloads of the resource manager Transaction: commit, abort, prepare, assignment.

Source: src/include/access/xact.h and src/backend/access/rmgrdesc/xactdesc.c; the dropped statistics
came with 15 and their object number grew to 64 bits with 18.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pitr.postgres.wal.fields import EPOCH_SHIFT_US, Fields, decode_text
from pitr.postgres.wal.record import Record, RelationFile
from pitr.postgres.wal.versions import WalVersion

OPERATION_MASK = 0x70
HAS_INFO = 0x80
COMMIT = 0x00
PREPARE = 0x10
ABORT = 0x20
COMMIT_PREPARED = 0x30
ABORT_PREPARED = 0x40
ASSIGNMENT = 0x50
INVALIDATIONS = 0x60

_HAS_DATABASE = 1 << 0
_HAS_SUBXIDS = 1 << 1
_HAS_DROPPED = 1 << 2
_HAS_INVALIDATIONS = 1 << 3
_HAS_TWOPHASE = 1 << 4
_HAS_ORIGIN = 1 << 5
_HAS_AE_LOCKS = 1 << 6
_HAS_GID = 1 << 7
_HAS_DROPPED_STATS = 1 << 8
# XACT_COMPLETION_APPLY_FEEDBACK: the session had synchronous_commit = remote_apply.
_WANTS_APPLY = 1 << 29

_INVALIDATION_BYTES = 16
_RELCACHE_ID = -2


@dataclass(frozen=True, slots=True)
class DroppedStatistics:
    """A statistics entry that goes with the transaction: kind, database and object."""

    kind: int
    database: int
    object: int


@dataclass(frozen=True, slots=True)
class Invalidations:
    """What other processes must forget: how many messages, and of which relations.

    `relations` are (database, OID) of relations whose definition changed; OID 0 stands for all.
    """

    count: int
    relations: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class TransactionEnd:
    """A commit or an abort, also of a prepared transaction (then `gid` may name it).

    `xid` is the transaction that ends, which for a prepared one is not the xid in the record's
    header; `subxids` its sub-transactions that end with it. `dropped` are the relation files that
    are deleted. `database` is 0 when the record does not tell it. `time_us` counts from 1970.
    `wants_apply` says that the session asked standbys to apply it: synchronous_commit was
    remote_apply.
    """

    is_commit: bool
    is_prepared: bool
    xid: int
    time_us: int
    subxids: tuple[int, ...]
    dropped: tuple[RelationFile, ...]
    dropped_statistics: tuple[DroppedStatistics, ...]
    invalidations: Invalidations
    database: int
    gid: str | None
    has_exclusive_locks: bool
    origin_lsn: int | None
    origin_time_us: int | None
    wants_apply: bool


@dataclass(frozen=True, slots=True)
class TransactionPrepared:
    """PREPARE TRANSACTION; the files are dropped only when it commits or aborts."""

    xid: int
    time_us: int
    database: int
    owner: int
    gid: str
    subxids: tuple[int, ...]
    dropped_by_commit: tuple[RelationFile, ...]
    dropped_by_abort: tuple[RelationFile, ...]
    invalidations: Invalidations


@dataclass(frozen=True, slots=True)
class SubtransactionsAssigned:
    """Says, every 64 sub-transactions, to which top-level transaction they belong."""

    xid: int
    subxids: tuple[int, ...]


TransactionPayload = TransactionEnd | TransactionPrepared | SubtransactionsAssigned | Invalidations


def decode_transaction(record: Record, version: WalVersion) -> TransactionPayload | None:
    """Decode a record of Transaction; None for an operation that does not exist.

    Raises CorruptWal.
    """
    fields = Fields(record)
    operation = record.header.info & OPERATION_MASK
    if operation in (COMMIT, COMMIT_PREPARED, ABORT, ABORT_PREPARED):
        return _decode_end(record, fields, version)
    if operation == PREPARE:
        return _decode_prepare(fields, version)
    if operation == ASSIGNMENT:
        xid = fields.one("I")
        return SubtransactionsAssigned(xid, fields.numbers(fields.count()))
    if operation == INVALIDATIONS and version.major >= 14:
        return _invalidations(fields, fields.count())
    return None


def _decode_end(record: Record, fields: Fields, version: WalVersion) -> TransactionEnd:
    operation = record.header.info & OPERATION_MASK
    time_us = fields.time_us()
    parts = fields.one("I") if record.header.info & HAS_INFO else 0
    database = fields.take("II")[0] if parts & _HAS_DATABASE else 0
    subxids = fields.numbers(fields.count()) if parts & _HAS_SUBXIDS else ()
    dropped = fields.files(fields.count()) if parts & _HAS_DROPPED else ()
    statistics: tuple[DroppedStatistics, ...] = ()
    if parts & _HAS_DROPPED_STATS and version.major >= 15:
        statistics = _statistics(fields, fields.count(), version)
    invalidations = Invalidations(0, ())
    if parts & _HAS_INVALIDATIONS:
        invalidations = _invalidations(fields, fields.count())
    xid, gid = record.header.xid, None
    if parts & _HAS_TWOPHASE:
        xid = fields.one("I")
        gid = fields.text() if parts & _HAS_GID else None
    origin = fields.take("Qq") if parts & _HAS_ORIGIN else None
    return TransactionEnd(
        is_commit=operation in (COMMIT, COMMIT_PREPARED),
        is_prepared=operation in (COMMIT_PREPARED, ABORT_PREPARED),
        xid=xid,
        time_us=time_us,
        subxids=subxids,
        dropped=dropped,
        dropped_statistics=statistics,
        invalidations=invalidations,
        database=database,
        gid=gid,
        has_exclusive_locks=bool(parts & _HAS_AE_LOCKS),
        origin_lsn=origin[0] if origin else None,
        origin_time_us=origin[1] + EPOCH_SHIFT_US if origin else None,
        wants_apply=bool(parts & _WANTS_APPLY),
    )


def _decode_prepare(fields: Fields, version: WalVersion) -> TransactionPrepared:
    _, _, xid, database = fields.take("IIII")
    time_us = fields.time_us()
    owner, subxids, by_commit, by_abort = fields.take("Iiii")
    statistics = fields.take("ii") if version.major >= 15 else (0, 0)
    messages, gid_bytes, _, _ = fields.take("i2xHQq")
    gid = _aligned(fields, 1, gid_bytes).rstrip(b"\0")
    subxid_data = _aligned(fields, 4, subxids)
    commit_data = _aligned(fields, 12, by_commit)
    abort_data = _aligned(fields, 12, by_abort)
    for count in statistics:
        _aligned(fields, struct.calcsize(_statistics_layout(version)), count)
    return TransactionPrepared(
        xid=xid,
        time_us=time_us,
        database=database,
        owner=owner,
        gid=decode_text(gid),
        subxids=struct.unpack(f"<{subxids}I", subxid_data),
        dropped_by_commit=_files(commit_data),
        dropped_by_abort=_files(abort_data),
        invalidations=_invalidations(fields, messages),
    )


def _aligned(fields: Fields, size: int, count: int) -> bytes:
    found = fields.data(size * count)
    fields.align()
    return found


def _files(data: bytes) -> tuple[RelationFile, ...]:
    return tuple(RelationFile(*parts) for parts in struct.iter_unpack("<III", data))


def _statistics(fields: Fields, count: int, version: WalVersion) -> tuple[DroppedStatistics, ...]:
    layout = _statistics_layout(version)
    return tuple(DroppedStatistics(*fields.take(layout)) for _ in range(count))


def _statistics_layout(version: WalVersion) -> str:
    return "<iIQ" if version.major >= 18 else "<iII"


def _invalidations(fields: Fields, count: int) -> Invalidations:
    data = fields.data(count * _INVALIDATION_BYTES)
    relations = tuple(
        (database, relation)
        for kind, database, relation in struct.iter_unpack("<b3xII4x", data)
        if kind == _RELCACHE_ID
    )
    return Invalidations(count, relations)
