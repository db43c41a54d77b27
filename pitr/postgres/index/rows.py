"""The rows of the index: what a scan of WAL found, one row per record and thing it touches.

A record with block references has one row for each, any other record one row; what the payload
names besides (files created and dropped, sub-transactions) has rows of its own. The columns are
described in docs/formats/postgres-index.md. Rows that concern a relation file are sorted by
database, file and LSN, behind all others, which are sorted by LSN.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from pitr.postgres.index.packing import integers, sort_rows, take_rows
from pitr.postgres.index.parquet import Column, Kind


class RowKind(IntEnum):
    """What a row says of its record.

    RECORD: it is there, and has no block reference. BLOCK: it refers to this block. CREATED,
    TRUNCATED: it makes or shortens this relation file. DROPPED: it ends a transaction, with which
    this file is removed. SUBTRANSACTION: it ends a transaction, and with it this sub-transaction.
    """

    RECORD = 0
    BLOCK = 1
    CREATED = 2
    DROPPED = 3
    TRUNCATED = 4
    SUBTRANSACTION = 5


COLUMNS = (
    Column("lsn", Kind.UINT64),
    Column("length", Kind.UINT32),
    Column("kind", Kind.UINT8),
    Column("rmgr", Kind.UINT8),
    Column("info", Kind.UINT8),
    Column("xid", Kind.UINT32, is_optional=True),
    Column("change", Kind.UINT8),
    Column("rows", Kind.UINT32),
    Column("tablespace", Kind.UINT32),
    Column("database", Kind.UINT32),
    Column("relation", Kind.UINT32),
    Column("fork", Kind.UINT8),
    Column("block", Kind.UINT32),
    Column("reference", Kind.UINT8),
    Column("related_xid", Kind.UINT32, is_optional=True),
    Column("distance", Kind.UINT64, is_optional=True),
    Column("time", Kind.TIME, is_optional=True),
)
BY_NAME = {column.name: column for column in COLUMNS}
NAMES = tuple(BY_NAME)


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of the index, column by column; only the columns that were asked for are there."""

    columns: Mapping[str, memoryview]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __getitem__(self, name: str) -> memoryview:
        return self.columns[name]

    def cut(self, begin: int, end: int) -> Rows:
        """Return the rows [begin, end)."""
        return Rows({name: column[begin:end] for name, column in self.columns.items()})

    def take(self, order: Sequence[int] | bytes) -> Rows:
        """Return the rows of these numbers, in this order."""
        picked = order if isinstance(order, bytes) else array("I", order).tobytes()
        return Rows(
            {
                name: integers(take_rows(column, column.itemsize, picked), column.itemsize)
                for name, column in self.columns.items()
            }
        )

    def select(self, *names: str) -> Iterator[tuple[int, ...]]:
        """Yield the values of some columns, row by row."""
        return zip(*(self.columns[name] for name in names), strict=True)


def empty_rows(names: Iterable[str] = NAMES) -> Rows:
    """Return no rows."""
    return Rows({name: integers(b"", BY_NAME[name].kind.width) for name in names})


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Return rows of the same columns one after the other."""
    if not parts:
        return empty_rows()
    filled = [part for part in parts if len(part)] or [parts[0]]
    if len(filled) == 1:
        return filled[0]
    return Rows(
        {
            name: integers(b"".join(part[name] for part in filled), column.itemsize)
            for name, column in filled[0].columns.items()
        }
    )


def sort_by_relation(rows: Rows) -> Rows:
    """Return rows by database, relation file and LSN, those of one record as they came."""
    by_lsn = _order_by_lsn(rows)
    keys = [take_rows(rows[name], 4, by_lsn) for name in ("database", "relation")]
    return rows.take(take_rows(by_lsn, 4, sort_rows(*keys)))


def sort_by_lsn(rows: Rows) -> Rows:
    """Return rows in the order of their LSNs, those of one record as they came."""
    return rows.take(_order_by_lsn(rows))


def _order_by_lsn(rows: Rows) -> bytes:
    halves = array("I")
    halves.frombytes(memoryview(rows["lsn"]).cast("B"))
    return sort_rows(memoryview(halves[1::2]), memoryview(halves[0::2]))
