"""What a merge would write and lock, told from the rows of the plan as they are to become.

    heap    the size of each row that is put in or written anew, as the server would store it,
            aligned, with its line pointer
    index   an entry a row in each index, of the sizes of its columns; an update makes them only
            when it changes a column that an index has. Partial indexes count as whole ones,
            expressions with 24 bytes, pages as nine tenths full
    WAL     the same bytes with the heads of their records; a record for each row that is deleted,
            updated or locked, with the old row where the replica identity is FULL. At most: besides
            a whole page for each page that is touched first after a checkpoint, an entry a page

What triggers and cascades write is not known. Locks are those that PostgreSQL's manual names for
these statements (13.3, Explicit Locking), and those of its foreign key triggers
(src/backend/utils/adt/ri_triggers.c).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pitr.postgres.merge.parents import Family
from pitr.postgres.merge.planned import PlannedTable
from pitr.postgres.tables.name import quoted
from pitr.postgres.tables.session import Connection, rows_of, statement_text
from pitr.vocabulary.estimate import Estimate, TableLock
from pitr.vocabulary.row_class import Action

_PAGE = 8192
_LINE_POINTER, _INDEX_HEAD, _EXPRESSION = 4, 8, 24
_FILLED = 0.9
# XLogRecord (24), a block's reference (20) and what the record says of itself; rounded up.
_RECORD, _LOCK_RECORD = 56, 56
_MODES = ("ROW SHARE", "ROW EXCLUSIVE", "ACCESS EXCLUSIVE")
_CHANGES_CHILDREN = ("c", "n", "d")


def estimate(connection: Connection, family: Family) -> Estimate:
    """Estimate what writing the plan costs. Raises psycopg.Error."""
    costs = [_cost(connection, table) for table in family.tables if table.classes()]
    locks: dict[str, TableLock] = {}
    for cost in costs:
        for lock in _locks(family, cost):
            assert lock.table is not None
            known = locks.get(lock.table)
            locks[lock.table] = lock if known is None else _both(known, lock)
    return Estimate(
        rows=sum(cost.rows for cost in costs),
        bytes=sum(cost.heap + cost.index for cost in costs),
        log_bytes=sum(cost.wal for cost in costs),
        log_bytes_max=sum(cost.wal + cost.pages * _PAGE for cost in costs),
        locks=tuple(locks.values()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    """What one table costs; `pages` are those that may go into the WAL whole."""

    table: PlannedTable
    inserted: int
    updated: int
    deleted: int
    heap: int
    index: int
    wal: int
    pages: int

    @property
    def rows(self) -> int:
        return self.inserted + self.updated + self.deleted


def _cost(connection: Connection, table: PlannedTable) -> _Cost:
    actions = (Action.INSERT, Action.UPDATE, Action.DELETE)
    inserted, updated, deleted = (table.count(connection, table.acting(a)) for a in actions)
    indexes = rows_of(connection, statement_text("table_index_keys"), {"oid": table.live.oid})
    columns = {name for names, _, _ in indexes for name in names}
    heap, entries = 0, 0
    for action, condition in (
        (Action.INSERT, "TRUE"),
        (Action.UPDATE, table.changes_any(sorted(columns))),
    ):
        if table.classes(action):
            sizes = _sizes(connection, table, action, condition, indexes)
            heap, entries = heap + sizes[0], entries + sizes[1]
    index = round(entries / _FILLED)
    touched = updated + deleted
    wal = heap + entries + (inserted * (1 + len(indexes)) + touched * 2) * _RECORD
    if table.live.replica_identity == "f" and inserted + updated:
        wal += touched * heap // (inserted + updated)
    pages = min(touched, -(-table.live.size_bytes // _PAGE))
    pages += sum(min(inserted + updated, -(-size // _PAGE) or 1) for _, _, size in indexes)
    return _Cost(
        table=table,
        inserted=inserted,
        updated=updated,
        deleted=deleted,
        heap=heap,
        index=index,
        wal=wal,
        pages=pages,
    )


def _sizes(
    connection: Connection,
    table: PlannedTable,
    action: Action,
    indexed: str,
    indexes: Sequence[tuple[Sequence[str], int, int]],
) -> tuple[int, int]:
    """Return the bytes of the rows of one action, and of their entries in indexes."""
    copies = "r.copies" if table.keyless else "1"
    entry = " + ".join(["0", *(_entry(names, parts) for names, parts, _ in indexes)])
    row = f"{_aligned('pg_column_size(x.*)')} + {_LINE_POINTER}"
    ((heap, entries),) = rows_of(
        connection,
        f"SELECT coalesce(sum(({row}) * {copies}), 0)::bigint,"
        f" coalesce(sum(CASE WHEN {indexed} THEN ({entry}) * {copies} END), 0)::bigint"
        f" FROM {table.rows} AS r {table.becoming()} WHERE {table.acting(action)}",
    )
    return int(heap), int(entries)


def _entry(names: Iterable[str], expressions: int) -> str:
    sizes = [f"coalesce(pg_column_size(x.{quoted(name)}), 0)" for name in names]
    size = " + ".join([*sizes, str(expressions * _EXPRESSION + _INDEX_HEAD)])
    return f"({_aligned(size)} + {_LINE_POINTER})"


def _aligned(size: str) -> str:
    return f"(({size} + 7) / 8 * 8)"


def _locks(family: Family, cost: _Cost) -> Iterator[TableLock]:
    table = cost.table
    touched = 0 if table.keyless else cost.updated + cost.deleted
    yield TableLock(
        table=table.name,
        mode="ACCESS EXCLUSIVE" if table.is_made_anew else "ROW EXCLUSIVE",
        rows=touched or None,
        row_mode=("FOR UPDATE" if cost.deleted else "FOR NO KEY UPDATE") if touched else None,
    )
    if cost.inserted + cost.updated:
        for key in family.of(table):
            rows = cost.inserted + cost.updated
            yield TableLock(
                table=str(key.parent), mode="ROW SHARE", rows=rows, row_mode="FOR KEY SHARE"
            )
    if cost.deleted:
        for key in family.to(table):
            mode = "ROW EXCLUSIVE" if key.on_delete in _CHANGES_CHILDREN else "ROW SHARE"
            yield TableLock(table=str(key.child), mode=mode)


def _both(one: TableLock, other: TableLock) -> TableLock:
    """Return two locks of one table as one: the stronger mode, and the rows of the stronger."""
    strong, weak = sorted((one, other), key=lambda lock: _MODES.index(lock.mode), reverse=True)
    if strong.row_mode is not None:
        return strong
    return replace(strong, rows=weak.rows, row_mode=weak.row_mode)
