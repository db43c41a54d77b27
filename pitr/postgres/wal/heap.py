"""What a heap record does to row versions: which it adds, and which it ends.

Source: src/include/access/heapam_xlog.h and the redo functions of heapam, the same in 13 to 18.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pitr.errors import CorruptWal
from pitr.postgres.wal.record import BlockReference, Record, RelationFile
from pitr.postgres.wal.versions import RM_HEAP, RM_HEAP2

_OPERATION = 0x70
_WITH_INIT = 0x80
_INSERT, _DELETE, _UPDATE, _HOT_UPDATE = 0x00, 0x10, 0x20, 0x40
_MULTI_INSERT = 0x50
_CHANGES = frozenset((_INSERT, _DELETE, _UPDATE, _HOT_UPDATE))
_IS_SUPER_DELETE, _IS_PARTITION_MOVE = 0x08, 0x10
_OFFSET_OF_INSERT = struct.Struct("<H")
_OFFSET_OF_DELETE = struct.Struct("<4xHxB")
_OFFSETS_OF_UPDATE = struct.Struct("<4xHxx4xH")
_COUNT_OF_MULTI_INSERT = struct.Struct("<xxH")


class TupleId(NamedTuple):
    """The place of one row version: file, block, and number within the block from 1 on."""

    file: RelationFile
    block: int
    offset: int


@dataclass(frozen=True, slots=True)
class VersionChange:
    """One row version that a record ends, adds, or (an update) replaces by another.

    `is_move` is of a version that ends because its row goes to another partition, `keeps_key` of a
    heap-only update: that changes no indexed column.
    """

    ended: TupleId | None
    added: TupleId | None
    is_move: bool = False
    keeps_key: bool = False


def is_version_change(rmgr: int, info: int) -> bool:
    """Return whether records of a kind may add or end row versions."""
    operation = info & _OPERATION
    return (rmgr == RM_HEAP and operation in _CHANGES) or (
        rmgr == RM_HEAP2 and operation == _MULTI_INSERT
    )


def may_delete(rmgr: int, info: int) -> bool:
    """Return whether records of a kind may delete a row."""
    return rmgr == RM_HEAP and info & _OPERATION == _DELETE


def may_change_key(rmgr: int, info: int) -> bool:
    """Return whether records of a kind may change a row's key: a heap-only update never does."""
    return rmgr == RM_HEAP and info & _OPERATION == _UPDATE


def version_changes(record: Record) -> Iterator[VersionChange]:
    """Yield what a record does to row versions. Raises CorruptWal when its data end early."""
    operation = record.header.info & _OPERATION
    if not is_version_change(record.header.rmgr, record.header.info) or not record.blocks:
        return
    try:
        if record.header.rmgr == RM_HEAP2:
            yield from _multi_insert(record)
        elif operation == _INSERT:
            (offset,) = _OFFSET_OF_INSERT.unpack_from(record.main)
            yield VersionChange(None, _place(record.blocks[0], offset))
        elif operation == _DELETE:
            offset, flags = _OFFSET_OF_DELETE.unpack_from(record.main)
            if not flags & _IS_SUPER_DELETE:
                ended = _place(record.blocks[0], offset)
                yield VersionChange(ended, None, bool(flags & _IS_PARTITION_MOVE))
        else:
            old, new = _OFFSETS_OF_UPDATE.unpack_from(record.main)
            ended, added = _place(record.blocks[-1], old), _place(record.blocks[0], new)
            yield VersionChange(ended, added, keeps_key=operation == _HOT_UPDATE)
    except struct.error:
        raise CorruptWal(
            f"the WAL record at {record.lsn >> 32:X}/{record.lsn & 0xFFFFFFFF:X} is malformed",
            detail="Its data are too short for a change of a row.",
        ) from None


def _multi_insert(record: Record) -> Iterator[VersionChange]:
    (count,) = _COUNT_OF_MULTI_INSERT.unpack_from(record.main)
    if record.header.info & _WITH_INIT:
        offsets: tuple[int, ...] = tuple(range(1, count + 1))
    else:
        offsets = struct.unpack_from(f"<{count}H", record.main, _COUNT_OF_MULTI_INSERT.size)
    for offset in offsets:
        yield VersionChange(None, _place(record.blocks[0], offset))


def _place(block: BlockReference, offset: int) -> TupleId:
    return TupleId(block.file, block.block, offset)
