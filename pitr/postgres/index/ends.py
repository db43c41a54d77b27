"""Where transactions end: the commits and aborts of a stretch of WAL, from the index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress

from pitr.postgres.index.packing import both
from pitr.postgres.index.rows import RowKind, Rows
from pitr.postgres.index.wal_index import Part, WalIndex
from pitr.postgres.wal.versions import RM_XACT, RM_XLOG

_OPERATION = 0x70
_COMMITS = (0x00, 0x30)  # commit, commit prepared
_ABORTS = (0x20, 0x40)
_CHECKPOINTS = (0x00, 0x10)  # shutdown, online
_IS_XACT = bytes(rmgr == RM_XACT for rmgr in range(256))
_IS_COMMIT = bytes(info & _OPERATION in _COMMITS for info in range(256))
_IS_RECORD = bytes(kind == RowKind.RECORD for kind in range(256))
_NAMES = ("lsn", "kind", "rmgr", "info", "xid", "distance", "time")
_XID_HALF = 1 << 31


@dataclass(frozen=True, slots=True)
class TransactionEnd:
    """One record that ends a transaction, prepared ones included.

    It begins at `lsn` and ends before `end`; `xid` is the top-level transaction's and `subxids` are
    those of its committed (aborted) sub-transactions. The abort of a sub-transaction alone looks
    like that of a transaction.
    """

    lsn: int
    end: int
    xid: int
    time_us: int
    is_commit: bool
    subxids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint: every record of a transaction from `next_xid` on begins after `redo`."""

    lsn: int
    redo: int
    next_xid: int


def is_older(xid: int, than: int) -> bool:
    """Return whether a transaction began before another; numbers go round at 2^32."""
    return (xid - than) % (1 << 32) >= _XID_HALF


def ends_of(index: WalIndex, part: Part) -> list[TransactionEnd]:
    """Return the ends of transactions in one part, in the order of LSNs."""
    return list(ends_in(index.system_rows_of(part, _NAMES)))


def last_commit(index: WalIndex, timeline: int, begin: int, end: int) -> TransactionEnd | None:
    """Return the last commit whose record ends in (begin, end]; its part alone is read."""
    for part in reversed(list(index.parts(timeline, begin, end))):
        if part.times != (0, 0):
            commits = [found for found in ends_of(index, part) if found.is_commit]
            if commits:
                return commits[-1]
    return None


def ends_in(rows: Rows) -> Iterator[TransactionEnd]:
    """Yield the ends of transactions among rows that are in the order of LSNs."""
    current: TransactionEnd | None = None
    subxids: list[int] = []
    for lsn, kind, rmgr, info, xid, distance, time_us in rows.select(*_NAMES):
        if rmgr != RM_XACT:
            continue
        if kind == RowKind.SUBTRANSACTION:
            subxids.append(xid)
            continue
        operation = info & _OPERATION
        if operation not in _COMMITS and operation not in _ABORTS:
            continue
        if current is not None:
            yield _with(current, subxids)
        current = TransactionEnd(lsn, lsn + distance, xid, time_us, operation in _COMMITS)
        subxids = []
    if current is not None:
        yield _with(current, subxids)


def _with(end: TransactionEnd, subxids: list[int]) -> TransactionEnd:
    if not subxids:
        return end
    return TransactionEnd(end.lsn, end.end, end.xid, end.time_us, end.is_commit, tuple(subxids))


def checkpoints_in(rows: Rows) -> Iterator[Checkpoint]:
    """Yield the checkpoints among rows."""
    names = ("lsn", "rmgr", "info", "distance", "related_xid")
    for lsn, rmgr, info, distance, next_xid in rows.select(*names):
        if rmgr == RM_XLOG and info & 0xF0 in _CHECKPOINTS:
            yield Checkpoint(lsn, lsn - distance, next_xid)


def commit_times(rows: Rows) -> tuple[int, int]:
    """Return the first and the last time of a commit among rows; 0 and 0 when there is none."""
    kinds = (("rmgr", _IS_XACT), ("info", _IS_COMMIT), ("kind", _IS_RECORD))
    is_xact, is_commit, is_record = (bytes(rows[name]).translate(table) for name, table in kinds)
    mask = both(both(is_xact, is_commit), is_record)
    times = list(compress(rows["time"].tolist(), mask))
    return (min(times), max(times)) if times else (0, 0)
