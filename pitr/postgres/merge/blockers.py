"""Conflicts between the states, and unique values that rows outside the plan have.

Each search leaves the rows that it finds out of the plan, by setting their `reason`, and returns a
blocker that names them. Unique values are judged by every unique index and exclusion constraint
there is, by its own operators: ON CONFLICT knows only one of them, and nothing of exclusion.
"""

from __future__ import annotations

from pitr.merge.blocking import CONFLICTS, KEYS_SHOWN
from pitr.postgres.merge.planned import NUMBER, PlannedTable
from pitr.postgres.tables.definition import UniqueIndex
from pitr.postgres.tables.name import quoted
from pitr.postgres.tables.session import Connection, pin, rows_of, run, use_own_path
from pitr.vocabulary.diff_row import Row
from pitr.vocabulary.plan import Blocker, BlockerKind, Resolution
from pitr.vocabulary.row_class import Action

_TAKEN = "pg_temp.pitr_taken"
# Aliases beside a table of the user's, which stands under its own name.
_CANDIDATE, _WRITTEN = '"pitr candidate"', '"pitr written"'


def conflict(
    connection: Connection, table: PlannedTable, kind: BlockerKind, resolution: Resolution
) -> list[Blocker]:
    """Return the blocker of the rows of one class that is a conflict."""
    condition = f"r.class = '{kind}'"
    rows = table.count(connection, condition)
    if not rows:
        return []
    keys = table.keys(connection, condition)
    return [table.blocker(kind, CONFLICTS[kind], resolution, rows=rows, keys=keys)]


def taken_values(
    connection: Connection, table: PlannedTable, resolution: Resolution
) -> list[Blocker]:
    """Leave out rows whose unique values other live rows have, which the plan does not write."""
    if not table.classes(Action.INSERT, Action.UPDATE):
        return []
    found: list[Blocker] = []
    for index in table.live.indexes:
        if not _is_identity(table, index):
            found += _taken(connection, table, index, resolution)
            found += _twice(connection, table, index, resolution)
    return found


def _is_identity(table: PlannedTable, index: UniqueIndex) -> bool:
    """Return whether the index is the key by which rows are matched: its values are known free."""
    if 0 in index.columns or index.predicate is not None or index.is_exclusion or table.keyless:
        return False
    if index.has_own_collation:
        return False
    names = set(table.live.names(index.columns))
    key = {column.name for column in table.aligned.key}
    return names == key and not key & set(table.classified.columns)


def _taken(
    connection: Connection, table: PlannedTable, index: UniqueIndex, resolution: Resolution
) -> list[Blocker]:
    run(connection, f"DROP TABLE IF EXISTS {_TAKEN}")
    use_own_path(connection)  # expressions may call functions of the application
    own = _TAKEN.partition(".")[2]
    run(connection, f"CREATE TEMP TABLE {own} ON COMMIT DROP AS {_taken_statement(table, index)}")
    pin(connection)
    chosen = f"SELECT n FROM {_TAKEN}"
    pairs = _taken_rows(connection, table)
    rows = table.leave_out(connection, BlockerKind.UNIQUE_TAKEN, chosen)
    if not rows:
        return []
    width = len(table.classified.key)
    return [
        table.blocker(
            BlockerKind.UNIQUE_TAKEN,
            f"another row has the value of {', '.join(index.parts)} ({index.name})",
            resolution,
            rows=rows,
            keys=tuple(row[:width] for row in pairs),
            held_by=tuple(row[width:] for row in pairs),
        )
    ]


def _taken_rows(connection: Connection, table: PlannedTable) -> list[Row]:
    """Return the keys of the first rows found, each with the key of a row in its way."""
    if not table.classified.key:
        return []
    holders = ", ".join(f"f.holder_{at}" for at in range(len(table.classified.key)))
    return rows_of(
        connection,
        f"SELECT DISTINCT ON (r.n) {table.key_texts()}, {holders} FROM {_TAKEN} AS f"
        f" JOIN {table.rows} AS r ON r.n = f.n WHERE {table.acting()} ORDER BY r.n"
        f" LIMIT {KEYS_SHOWN}",
    )


def _candidates(table: PlannedTable, index: UniqueIndex) -> str:
    """Return a SELECT of the row numbers and index values of rows that are written.

    The texts of the index name the columns of the table alone, and may name the table itself.
    """
    columns = _columns(table, index)
    written = table.acting(Action.INSERT, Action.UPDATE)
    if columns is not None:
        written = table.writes_columns(columns)
    values = [f'({part}) AS "pitr {at}"' for at, part in enumerate(index.parts)]
    condition = f" WHERE ({index.predicate})" if index.predicate else ""
    becoming = f"SELECT x.* FROM {table.rows} AS r {table.becoming()} WHERE {written}"
    name = quoted(table.live.name.name)
    return f"SELECT {', '.join([NUMBER, *values])} FROM ({becoming}) AS {name}{condition}"


def _taken_statement(table: PlannedTable, index: UniqueIndex) -> str:
    """Return a SELECT of row numbers with the keys of live rows that have the same values."""
    live = table.live
    # The live table stands under its own name, so that the texts of the index mean its columns.
    own = quoted(live.name.name)
    same = [
        _same(f"({part})", operator, f'{_CANDIDATE}."pitr {at}"', index)
        for at, (part, operator) in enumerate(zip(index.parts, index.operators, strict=True))
    ]
    same += [f"({index.predicate})"] if index.predicate else []
    keys = table.aligned.key or table.aligned.columns
    holders = [
        f"{own}.{quoted(column.name)}::text AS holder_{at}" for at, column in enumerate(keys)
    ]
    return (
        f"SELECT {', '.join([f'{_CANDIDATE}.{NUMBER} AS n', *holders])}"
        f" FROM ({_candidates(table, index)}) AS {_CANDIDATE} CROSS JOIN {live.source} AS {own}"
        f" WHERE {' AND '.join(same)} AND NOT {_is_written(table, index, own)}"
    )


def _same(left: str, operator: str, right: str, index: UniqueIndex) -> str:
    same = f"{left} {operator} {right}"
    if not index.nulls_not_distinct:
        return same
    return f"({same} OR ({left} IS NULL AND {right} IS NULL))"


def _is_written(table: PlannedTable, index: UniqueIndex, live: str) -> str:
    """Return the condition that a live row is one that the plan deletes, or gives other values."""
    if table.keyless or not table.classes(Action.UPDATE, Action.DELETE):
        return "FALSE"
    changed = table.acting(Action.UPDATE, rows=_WRITTEN)
    columns = _columns(table, index)
    if columns is not None:
        changed = f"({changed} AND {table.changes_any(columns, rows=_WRITTEN)})"
    match = table.same_key(_WRITTEN, live)
    goes = table.acting(Action.DELETE, rows=_WRITTEN)
    found = f"SELECT 1 FROM {table.rows} AS {_WRITTEN} WHERE {match} AND ({goes} OR {changed})"
    return f"EXISTS ({found})"


def _columns(table: PlannedTable, index: UniqueIndex) -> tuple[str, ...] | None:
    """Return the columns on which the values of an index rest, None when it may be any."""
    if 0 in index.columns or index.predicate is not None:
        return None
    names = table.live.names(index.columns)
    return None if any(table.live.column(name).is_generated for name in names) else names


def _twice(
    connection: Connection, table: PlannedTable, index: UniqueIndex, resolution: Resolution
) -> list[Blocker]:
    """Leave out rows that would have one value with another row of the plan.

    That needs an update, or an index that there was not before. Of an exclusion constraint it is
    left to the server.
    """
    if index.is_exclusion or not (table.classes(Action.UPDATE) or _is_new(table, index)):
        return []
    values = [f'"pitr {at}"' for at in range(len(index.parts))]
    some = "TRUE"
    if not index.nulls_not_distinct:
        some = " AND ".join(f"{value} IS NOT NULL" for value in values)
    counted = (
        f"SELECT {NUMBER} AS n, count(*) OVER (PARTITION BY {', '.join(values)}) AS rows"
        f" FROM ({_candidates(table, index)}) AS c WHERE {some}"
    )
    use_own_path(connection)
    found = rows_of(connection, f"SELECT n FROM ({counted}) AS t WHERE rows > 1")
    pin(connection)
    if not found:
        return []
    chosen = ", ".join(str(n) for (n,) in found)
    detail = f"another row of the plan has the value of {', '.join(index.parts)} ({index.name})"
    return table.refuse(connection, BlockerKind.UNIQUE_TAKEN, detail, resolution, chosen)


def _is_new(table: PlannedTable, index: UniqueIndex) -> bool:
    then = {(one.columns, one.parts, one.predicate) for one in table.aligned.before.indexes}
    return (index.columns, index.parts, index.predicate) not in then
