"""What a merge would write and lock, told from the rows of the plan.

A row counts with the lengths of its values as texts or blobs, a byte a column and a head of 6; so
does an entry in an index, by the columns of the index and the rowid. An update counts as the row
written anew. Of the WAL (or the rollback journal) it is whole pages: at least those that the bytes
fill, at most a page for each row and each entry. What triggers write is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import apsw

from pitr.sqlite.merge.planned import PlannedTable
from pitr.sqlite.statement.tokens import quoted
from pitr.vocabulary.estimate import Estimate, TableLock
from pitr.vocabulary.row_class import Action

_HEAD = 6
_ROWID = 4
_FRAME_HEAD = 24


def estimate(connection: apsw.Connection, tables: Sequence[PlannedTable]) -> Estimate:
    """Estimate what writing the plan costs."""
    page = int(str(connection.pragma("page_size")))
    rows = written = touched = 0
    for table in tables:
        if not table.classes():
            continue
        indexes = _indexes(connection, table)
        count = table.count(connection, table.acting())
        rows += count
        touched += count * (1 + len(indexes))
        written += sum(
            _bytes(connection, table, action, indexes)
            for action in (Action.INSERT, Action.UPDATE)
            if table.classes(action)
        )
    filled = -(-written // page)
    most = min(touched, int(str(connection.pragma("page_count")))) + filled
    return Estimate(
        rows=rows,
        bytes=written,
        log_bytes=max(filled, bool(rows)) * (page + _FRAME_HEAD),
        log_bytes_max=most * (page + _FRAME_HEAD),
        locks=(TableLock(table=None, mode="the one write lock"),) if rows else (),
    )


def _indexes(connection: apsw.Connection, table: PlannedTable) -> list[list[str]]:
    """Return the columns of each index of the live table; expressions are left out."""
    found = connection.execute(
        "SELECT l.name, x.name FROM pragma_index_list(?1, 'main') AS l"
        " JOIN pragma_index_xinfo(l.name, 'main') AS x WHERE x.key",
        (table.name,),
    )
    columns: dict[str, list[str]] = {}
    for index, column in found:
        parts = columns.setdefault(str(index), [])
        parts += [] if column is None else [str(column)]
    return list(columns.values())


def _bytes(
    connection: apsw.Connection,
    table: PlannedTable,
    action: Action,
    indexes: Sequence[Sequence[str]],
) -> int:
    names = table.insert_columns
    if action is Action.INSERT:
        is_before = not (table.keyless or table.is_rehearsed)
        joined = table.becoming()
        places = {name: table.before_names[name] if is_before else name for name in names}
        values = {name: f"x.{quoted(place)}" for name, place in places.items()}
    else:
        joined = table.live_row()
        values = {name: f"l.{quoted(name)}" for name in names}
    copies = "r.copies" if table.keyless else "1"
    # One sum a column: a single long expression would be too deep for a table of 2000.
    sums = [
        f"total((coalesce(length(CAST({value} AS BLOB)), 0) + 1) * {copies})"
        for value in values.values()
    ]
    found = connection.execute(
        f"SELECT total({copies}), {', '.join(sums)} FROM {table.rows} AS r {joined}"
        f" WHERE {table.acting(action)}"
    ).fetchone()
    assert found is not None
    rows, *sizes = (int(float(str(one))) for one in found)
    size = dict(zip(values, sizes, strict=True))
    entries = sum(size.get(name, 0) for name in chain.from_iterable(indexes))
    return sum(sizes) + rows * _HEAD + entries + rows * (_HEAD + _ROWID) * len(indexes)
