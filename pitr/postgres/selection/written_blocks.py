"""Which blocks of a relation file may hold other rows at one position of the WAL than later on.

A block that no record between two positions touches has the same row versions at both. Which of
them are seen is the same too, but for those of transactions that run at the earlier position: they
may commit later, without a record of the block. So records count from where the first of those
transactions can have begun. docs/decisions/2026-11-28-narrowed-diff.md has the proof.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import compress

from pitr.postgres.index.ends import checkpoints_in, is_older
from pitr.postgres.index.file import BlockRanges
from pitr.postgres.index.rows import RowKind, Rows
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.selection.by_wal import WalWindow
from pitr.postgres.wal.payload import RUNNING_XACTS, RunningTransactions, decode_payload
from pitr.postgres.wal.record import INFO_MASK, RelationFile, decode_record
from pitr.postgres.wal.versions import RM_STANDBY, version_of_major
from pitr.postgres.wal_store.spans import ArchivedWal
from pitr.vocabulary.position import Lsn

_BLOCK_MAX = 1 << 32
_SYSTEM = ("lsn", "length", "rmgr", "info", "distance", "related_xid")
_OF_FILE = ("kind", "fork", "block")
_IS_MADE = bytes(kind in (RowKind.CREATED, RowKind.DROPPED) for kind in range(256))
_IS_CUT = bytes(kind == RowKind.TRUNCATED for kind in range(256))
_IS_MAIN = b"\1".ljust(256, b"\0")


@dataclass(frozen=True, slots=True)
class Settled:
    """Transactions older than `xid` were over; every record of the others is behind `since`."""

    xid: int
    since: Lsn


def find_settled(
    index: WalIndex, wal: ArchivedWal, timeline: int, begin: Lsn, at: Lsn
) -> Settled | None:
    """Return which transactions were surely over at a position.

    Looked for down to `begin`; None when the WAL does not say. The server lists what runs every 15
    seconds in which it writes, and every checkpoint says from which xid on all records are new.
    Raises ArchiveGap, CorruptWal, CorruptObject.
    """
    window = WalWindow(wal, timeline, begin.value, at.value, 0)
    running: tuple[int, RunningTransactions] | None = None
    for part in reversed(list(index.parts(timeline, begin.value, at.value))):
        rows = index.system_rows_of(part, _SYSTEM)
        if running is None:
            running = _last_running(window, rows)
            if running is not None and running[1].oldest_running_xid == running[1].next_xid:
                return Settled(running[1].next_xid, Lsn(running[0]))
        if running is not None:
            oldest = running[1].oldest_running_xid
            for checkpoint in reversed(list(checkpoints_in(rows))):
                if not is_older(oldest, checkpoint.next_xid):
                    is_there = checkpoint.redo >= begin.value
                    return Settled(oldest, Lsn(checkpoint.redo)) if is_there else None
    return None


def _last_running(window: WalWindow, rows: Rows) -> tuple[int, RunningTransactions] | None:
    """Return the last record among rows that lists the transactions that run, and its LSN."""
    version = version_of_major(window.wal.major)
    found = None
    for lsn, length, rmgr, info in rows.select("lsn", "length", "rmgr", "info"):
        if rmgr == RM_STANDBY and info & INFO_MASK == RUNNING_XACTS:
            found = (lsn, length)
    if found is None:
        return None
    record = decode_record(found[0], window.record(*found), version)
    payload = decode_payload(record, version)
    assert isinstance(payload, RunningTransactions)
    return found[0], payload


def written_blocks(
    index: WalIndex, timeline: int, begin: Lsn, end: Lsn, file: RelationFile, *, limit: int
) -> BlockRanges | None:
    """Return the blocks of a file's main fork that records in (begin, end] touch, ascending.

    What VACUUM cut off counts as touched. None when the file was made or removed in between, or
    when more than `limit` blocks are touched. Raises ArchiveGap, CorruptWal, CorruptObject.
    """
    blocks: set[int] = set()
    shortest = _BLOCK_MAX
    for rows in index.relation_rows(timeline, begin, end, {file: None}, _OF_FILE):
        kinds, main = bytes(rows["kind"]), bytes(rows["fork"]).translate(_IS_MAIN)
        if any(compress(kinds.translate(_IS_MADE), main)):
            return None
        cut = compress(rows["block"], kinds.translate(_IS_CUT))
        shortest = min(shortest, min(cut, default=_BLOCK_MAX))
        blocks.update(compress(rows["block"], main))
        if len(blocks) > limit:
            return None
    ranges = _ranges(block for block in sorted(blocks) if block < shortest)
    return ranges if shortest == _BLOCK_MAX else [*ranges, (shortest, _BLOCK_MAX)]


def _ranges(blocks: Iterable[int]) -> list[tuple[int, int]]:
    """Return ascending numbers as half-open ranges."""
    found: list[tuple[int, int]] = []
    for block in blocks:
        if found and found[-1][1] == block:
            found[-1] = (found[-1][0], block + 1)
        else:
            found.append((block, block + 1))
    return found
