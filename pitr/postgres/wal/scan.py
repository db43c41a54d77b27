"""The scan of WAL: bytes of a segment in, packed columns of its records out. The hot loop.

Every record is verified as PostgreSQL verifies it (page headers, continuation, order, CRC-32C,
structure: src/backend/access/transam/xlogreader.c) and becomes one row of `RecordColumns`, each
of its block references one row of `BlockColumns`. The plain-Python `_scan_wal` below is the
reference; `_speedups.scan_wal` is its C twin and returns the same bytes for whatever input.

A record belongs to the bytes in which it ends: what is cut off at their end travels on in
`ScanState.carry`, so that a segment can be scanned when it is whole, and a stream piece by piece.
Segments can also be scanned at the same time, since the C twin releases the interpreter lock: a
scan from `ScanState(begin of segment)` skips the end of a record that it has not seen begin, and
`scan_straddling` makes up for it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import compress
from types import ModuleType
from typing import Literal

from pitr.postgres.wal.end import LogEnd
from pitr.postgres.wal.page import ALIGNMENT, PAGE_BYTES, Bytes, header_bytes_at
from pitr.postgres.wal.record import RECORD_BYTES_MAX
from pitr.postgres.wal.scan_reference import Scanned
from pitr.postgres.wal.scan_reference import scan_wal as _scan_wal
from pitr.postgres.wal.segment_name import is_segment_bytes
from pitr.postgres.wal.versions import WalVersion

NO_STOP = (1 << 64) - 1
_Code = Literal["B", "H", "I", "Q"]
_RECORD_CODES: tuple[_Code, ...] = ("Q", "I", "I", "B", "B", "B", "H")
_BLOCK_CODES: tuple[_Code, ...] = ("I", "I", "I", "I", "I", "B", "B", "B")


class RowChange(IntEnum):
    """What a record did to the rows of its block reference 0.

    MOVE is the delete of an update that took a row to another partition: the insert there follows.
    A speculative insert (ON CONFLICT) counts when it is confirmed, and not at all when it is taken
    back. HOT and cross-page updates count once, multi-inserts by row.
    """

    NONE = 0
    INSERT = 1
    UPDATE = 2
    DELETE = 3
    MOVE = 4


@dataclass(frozen=True, slots=True)
class ScanState:
    """Where a scan stands: what the scan of the next bytes needs.

    `position` is the LSN from which bytes are wanted; it may lie beyond the bytes scanned, after a
    segment switch. `prev` is the LSN of the last whole record and `timeline` that of the last
    page, 0 when unknown. `carry` are the bytes (without page headers) of the record that began at
    `begin` and has not ended.

    A fresh state needs a position where a page or a record begins; at a page, the rest of a record
    that began before is skipped.
    """

    position: int
    prev: int = 0
    timeline: int = 0
    begin: int = 0
    carry: bytes = b""


@dataclass(frozen=True, slots=True)
class RecordColumns:
    """One row per record, in LSN order; each column a memoryview of native integers.

    lsn (Q), length (I, page headers not counted), xid (I, 0: none), rmgr and info (B, as in the
    header), change (B, a RowChange) and rows (H, how many rows it changed).
    """

    lsn: memoryview
    length: memoryview
    xid: memoryview
    rmgr: memoryview
    info: memoryview
    change: memoryview
    rows: memoryview

    def __len__(self) -> int:
        return len(self.lsn)


@dataclass(frozen=True, slots=True)
class BlockColumns:
    """One row per block reference, in record order and then as stored.

    record (I, row number in RecordColumns), tablespace, database, relation (I: the relation file),
    block (I), fork (B: 0 main, 1 free space map, 2 visibility map, 3 init), id (B: the number by
    which the record knows the block) and flags (B: HAS_IMAGE, HAS_DATA, WILL_INIT, IMAGE_APPLIED).
    """

    record: memoryview
    tablespace: memoryview
    database: memoryview
    relation: memoryview
    block: memoryview
    fork: memoryview
    id: memoryview
    flags: memoryview

    def __len__(self) -> int:
        return len(self.record)


@dataclass(frozen=True, slots=True)
class Scan:
    """What one scan found: columns of verified records, and why and where it ended.

    `kept_data` are the records that `kept` tells of, one after the other, each up to its offset
    in `kept_ends` (Q); `kept_numbers` (I) are their row numbers. With a fault as `end`,
    `state.position` is the LSN of the record or page that is at fault.
    """

    end: LogEnd
    state: ScanState
    records: RecordColumns
    blocks: BlockColumns
    kept_numbers: memoryview
    kept_ends: memoryview
    kept_data: bytes

    def kept(self) -> Iterator[tuple[int, bytes]]:
        """Yield (row number, whole record without page headers) of what payload.py decodes.

        That is every record without block references of XLOG (but NOOP), Transaction, Storage,
        Database, Tablespace, RelMap and Heap (TRUNCATE).
        """
        return self.kept_where(b"\1" * len(self.kept_numbers))

    def kept_where(self, mask: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield those of `kept` for which the byte of `mask` is not 0."""
        ends = self.kept_ends
        for at in compress(range(len(ends)), mask):
            yield self.kept_numbers[at], self.kept_data[ends[at - 1] if at else 0 : ends[at]]

    def kept_kinds(self) -> tuple[bytes, bytes]:
        """Return the resource manager, and the info, of each record that `kept` has."""
        rmgrs, infos = bytes(self.records.rmgr), bytes(self.records.info)
        numbers = self.kept_numbers.tolist()
        return bytes([rmgrs[at] for at in numbers]), bytes([infos[at] for at in numbers])


_compiled: ModuleType | None = None
if os.environ.get("PITR_PURE") != "1":
    with contextlib.suppress(ImportError):
        _compiled = importlib.import_module("pitr._speedups")

scan_wal: Callable[..., Scanned] = getattr(_compiled, "scan_wal", _scan_wal)


def scan(
    data: Bytes,
    lsn: int,
    state: ScanState,
    *,
    version: WalVersion,
    segment_bytes: int,
    system_identifier: int = 0,
    stop: int = NO_STOP,
) -> Scan:
    """Scan `data`, the WAL from `lsn` on, from `state.position` to its end.

    `lsn` may be any position up to `state.position`. A system identifier of 0 is not compared.
    Records that begin at or after `stop` are left. Damage is no exception but an `end`. Raises
    ValueError when data and state do not fit together. Says nothing about whether the timeline is
    the wanted one: compare `state.timeline`.
    """
    _judge(lsn, state, segment_bytes)
    found = scan_wal(
        data,
        lsn,
        state.position,
        state.prev,
        state.timeline,
        state.begin,
        state.carry,
        segment_bytes,
        version.magic,
        version.image_apply,
        version.image_compressed,
        version.has_custom_rmgrs,
        version.has_toplevel_xid,
        system_identifier,
        stop,
    )
    end, position, prev, timeline, begin, carry, records, blocks, kept = found
    return Scan(
        LogEnd(end),
        ScanState(position, prev, timeline, begin, carry),
        RecordColumns(*_cast(records, _RECORD_CODES)),
        BlockColumns(*_cast(blocks, _BLOCK_CODES)),
        memoryview(kept[0]).cast("I"),
        memoryview(kept[1]).cast("Q"),
        kept[2],
    )


def scan_straddling(
    data: Bytes,
    lsn: int,
    before: ScanState,
    *,
    version: WalVersion,
    segment_bytes: int,
    system_identifier: int = 0,
) -> Scan:
    """Scan only the record that `before` carries into `data`: one row, or none.

    For segments that were scanned at the same time, each from a fresh state: `before` is the state
    at the end of the segment before this one. Where it carries nothing there is nothing to add.
    """
    return scan(
        data,
        lsn,
        before,
        version=version,
        segment_bytes=segment_bytes,
        system_identifier=system_identifier,
        stop=before.begin + 1 if before.carry else 0,
    )


def _judge(lsn: int, state: ScanState, segment_bytes: int) -> None:
    """Raise ValueError for arguments that no WAL can have."""
    at = state.position
    if not is_segment_bytes(segment_bytes):
        raise ValueError(f"no segment has {segment_bytes} bytes")
    if lsn > at:
        raise ValueError(f"the bytes begin at {lsn:X}, after the position {at:X}")
    if 0 < at % PAGE_BYTES < header_bytes_at(at - at % PAGE_BYTES, segment_bytes):
        raise ValueError(f"the position {at:X} lies in a page header")
    if state.carry:
        total = int.from_bytes(state.carry[:4], "little")
        is_part = ALIGNMENT <= len(state.carry) < total <= RECORD_BYTES_MAX
        if not is_part or not 0 < state.begin < at:
            raise ValueError("the state carries no part of a record")
    elif at % ALIGNMENT:
        raise ValueError(f"no record can begin at {at:X}")


def _cast(columns: tuple[bytes, ...], codes: tuple[_Code, ...]) -> list[memoryview]:
    return [memoryview(column).cast(code) for column, code in zip(columns, codes, strict=True)]
