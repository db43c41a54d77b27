"""Write the rows of a plan into a temporary table of the live table's own definition, and look.

PostgreSQL itself then says what types, domains, enums, NOT NULL and CHECK hold of the rows, and
computes generated columns: nothing of that is imitated here. What it makes of the rows is what the
merge writes. Constraints that are NOT VALID count: they hold of new rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import errors

from pitr.postgres.diff.alignment import BEFORE, SharedColumn
from pitr.postgres.diff.classified import balanced
from pitr.postgres.merge.planned import NUMBER, PlannedTable
from pitr.postgres.tables.definition import Column
from pitr.postgres.tables.name import quoted
from pitr.postgres.tables.session import (
    Connection,
    pin,
    rows_of,
    run,
    statement_text,
    use_own_path,
)
from pitr.vocabulary.plan import Blocker, BlockerKind, Resolution
from pitr.vocabulary.row_class import Action

# Class 22: a value that the type does not take. 23: a constraint.
_ABOUT_ROWS = (errors.DataError, errors.IntegrityError)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """One row, and what the server says against it."""

    number: int
    kind: BlockerKind
    detail: str


def rehearse(connection: Connection, table: PlannedTable, resolution: Resolution) -> list[Blocker]:
    """Fill the table of `x`; leave out, and return, the rows that PostgreSQL does not take."""
    name = table.become.partition(".")[2]
    like = f"LIKE {table.live.name.sql} INCLUDING CONSTRAINTS INCLUDING GENERATED"
    run(connection, f"DROP TABLE IF EXISTS {table.become}")
    numbered = f", {NUMBER} bigint" if table.is_numbered else ""
    run(connection, f"CREATE TEMP TABLE {name} ({like}{numbered}) ON COMMIT DROP")
    for column in table.added():
        if column.not_null and _default(column) is None:  # one without a value is told as drift
            run(
                connection,
                f"ALTER TABLE {table.become} ALTER {quoted(column.name)} DROP NOT NULL",
            )
    found: list[_Refusal] = []
    # What a CHECK calls may rest on the search path of the application.
    use_own_path(connection)
    for action, statement in _statements(table):
        condition = table.acting(action)
        found += _write(connection, table, statement, condition)
    pin(connection)
    run(connection, f"ANALYZE {table.become} ({', '.join(_joined_columns(table))})")
    return _blockers(connection, table, found, resolution)


def _joined_columns(table: PlannedTable) -> Iterator[str]:
    """Yield the columns of `x` by which rows are looked up; others need no statistics."""
    if table.is_numbered:
        yield NUMBER
    numbers = {number for index in table.live.indexes for number in index.columns}
    yield from (quoted(column.name) for column in table.live.columns if column.number in numbers)


def _statements(table: PlannedTable) -> Iterator[tuple[Action, str]]:
    if table.classes(Action.INSERT):
        yield Action.INSERT, _insertion(table)
    if table.classes(Action.UPDATE):
        yield Action.UPDATE, _updated(table)


def _write(
    connection: Connection, table: PlannedTable, statement: str, condition: str
) -> list[_Refusal]:
    """Write rows, and look for those that are refused by halving."""
    numbers = rows_of(connection, f"SELECT min(n), max(n) FROM {table.rows} AS r WHERE {condition}")
    low, high = numbers[0]
    if low is None:
        return []
    found: list[_Refusal] = []
    waiting = [(int(low), int(high))]
    while waiting:
        first, last = waiting.pop()
        refusal = _try(connection, f"{statement} WHERE {condition} AND r.n BETWEEN {first}"
                       f" AND {last}")  # fmt: skip
        if refusal is None:
            continue
        if first == last:
            found.append(_Refusal(first, *refusal))
            continue
        middle = (first + last) // 2
        waiting += [(middle + 1, last), (first, middle)]
    return found


def _try(connection: Connection, statement: str) -> tuple[BlockerKind, str] | None:
    run(connection, "SAVEPOINT pitr_rehearsal")
    try:
        run(connection, statement)
    except _ABOUT_ROWS as error:
        run(connection, "ROLLBACK TO SAVEPOINT pitr_rehearsal")
        return BlockerKind.CHECK_FAILED, _says(error)
    finally:
        if connection.info.transaction_status != psycopg.pq.TransactionStatus.INERROR:
            run(connection, "RELEASE SAVEPOINT pitr_rehearsal")
    return None


def _says(error: psycopg.Error) -> str:
    """Return the server's words without what changes from row to row where that can be told."""
    diagnostic = error.diag
    text = diagnostic.message_primary or str(error)
    if diagnostic.constraint_name:
        return f"the constraint {diagnostic.constraint_name} does not take the row"
    if isinstance(error, errors.NotNullViolation):
        return f"{diagnostic.column_name} must not be null"
    return text


def _insertion(table: PlannedTable) -> str:
    """Return the statement that fills `x` with rows to be inserted, up to its condition."""
    names, taken = ([NUMBER], ["r.n"]) if table.is_numbered else ([], [])
    aligned = table.aligned
    if table.keyless:
        for at, shared in enumerate(aligned.columns):
            names.append(quoted(shared.name))
            taken.append(shared.own.typed(f"r.key_{at}"))
        joined = ""
    else:
        for name, value in table.restored():
            names.append(quoted(name))
            taken.append(value)
        joined = f" {table.before_row()}"
    for name, expression in table.values:
        names.append(quoted(name))
        taken.append(f"(SELECT {expression} FROM {_named_before(table)})")
    for column in table.added():
        default = _default(column)
        if default is not None:
            names.append(quoted(column.name))
            taken.append(f"({default})")
    return (
        f"INSERT INTO {table.become} ({', '.join(names)}) SELECT {', '.join(taken)}"
        f" FROM {table.rows} AS r{joined}"
    )


def _named_before(table: PlannedTable) -> str:
    """Return the row as it was under its live names, for an expression of the user's."""
    taken = ", ".join(f"{value} AS {quoted(name)}" for name, value in table.restored())
    return f"(SELECT {taken}) AS {quoted(table.live.name.name)}"


def _default(column: Column) -> str | None:
    """Return what a column that was added gets, None when that is not known before it is done."""
    if column.default is None or "nextval(" in column.default:
        return None
    return column.default


def _updated(table: PlannedTable) -> str:
    """Return the statement that fills `x` with rows to be updated, up to its condition."""
    names, taken = ([NUMBER], ["r.n"]) if table.is_numbered else ([], [])
    places = {column.name: at for at, column in enumerate(table.aligned.columns)}
    for column in table.live.plain_columns:
        value = f"l.{quoted(column.name)}"
        at = places.get(column.name)
        if at is not None:
            restored = column.typed(f"b.c{at}")
            value = f"CASE WHEN substr(r.mask, {at + 1}, 1) <> '.' THEN {restored} ELSE {value} END"
        names.append(quoted(column.name))
        taken.append(value)
    return (
        f"INSERT INTO {table.become} ({', '.join(names)}) SELECT {', '.join(taken)}"
        f" FROM {table.rows} AS r {table.before_row()} {table.live_row()}"
    )


def _blockers(
    connection: Connection,
    table: PlannedTable,
    refusals: list[_Refusal],
    resolution: Resolution,
) -> list[Blocker]:
    found: dict[tuple[BlockerKind, str], list[int]] = {}
    for one in refusals:
        found.setdefault((one.kind, one.detail), []).append(one.number)
    blockers = []
    for (kind, detail), numbers in found.items():
        chosen = ", ".join(map(str, numbers))
        blockers += table.refuse(connection, kind, detail, resolution, chosen)
    return blockers


def without_partition(
    connection: Connection, table: PlannedTable, resolution: Resolution
) -> list[Blocker]:
    """Leave out rows that no partition of today takes: one may have been dropped or detached."""
    if table.live.kind != "p" or not table.classes(Action.INSERT, Action.UPDATE):
        return []
    rows = rows_of(
        connection,
        "SELECT pg_get_partition_constraintdef(relid) FROM pg_partition_tree(%s::bigint::oid)"
        " WHERE isleaf",
        (table.live.oid,),
    )
    # A partition without a condition of its own takes every row.
    takes = [f"({condition}) IS TRUE" if condition else "TRUE" for (condition,) in rows]
    use_own_path(connection)
    found = rows_of(
        connection,
        f"SELECT {NUMBER} FROM {table.becomes} AS {quoted(table.live.name.name)}"
        f" WHERE NOT ({balanced(takes, 'OR') if takes else 'FALSE'})",
    )
    pin(connection)
    if not found:
        return []
    chosen = ", ".join(str(number) for (number,) in found)
    detail = "there is no partition that takes the row; it may have been dropped or detached"
    return table.refuse(connection, BlockerKind.CHECK_FAILED, detail, resolution, chosen)


def refused_by_partitions(
    connection: Connection, table: PlannedTable, resolution: Resolution
) -> list[Blocker]:
    """Leave out rows that a partition does not take for a check of its own."""
    if table.live.kind != "p" or not table.classes(Action.INSERT, Action.UPDATE):
        return []
    found = []
    checks = rows_of(connection, statement_text("table_partition_checks"), {"oid": table.live.oid})
    for what, rows, condition in checks:
        chosen = (
            f"SELECT {NUMBER} FROM {table.becomes} AS {quoted(table.live.name.name)}"
            f" WHERE ({rows or 'TRUE'}) AND ({condition}) IS FALSE"
        )
        use_own_path(connection)
        numbers = rows_of(connection, chosen)
        pin(connection)
        if numbers:
            listed = ", ".join(str(number) for (number,) in numbers)
            detail = f"{what} does not take the row"
            found += table.refuse(connection, BlockerKind.CHECK_FAILED, detail, resolution, listed)
    return found


def missing_objects(
    connection: Connection, before: Connection, table: PlannedTable, resolution: Resolution
) -> list[Blocker]:
    """Leave out rows that name large objects which there were at the target and are not now.

    The objects are in no table of the user's, and do not come back with the rows.
    """
    found = []
    for column in table.live.plain_columns:
        if not column.may_name_large_object or not table.classes(Action.INSERT, Action.UPDATE):
            continue
        gone = rows_of(
            connection,
            f"SELECT DISTINCT (x.{quoted(column.name)})::oid::bigint FROM {table.rows} AS r"
            f" {table.becoming()} WHERE {table.writes_columns([column.name])} AND NOT EXISTS"
            " (SELECT FROM pg_largeobject_metadata AS m"
            f" WHERE m.oid = (x.{quoted(column.name)})::oid)",
        )
        were = rows_of(
            before,
            "SELECT oid::bigint FROM pg_largeobject_metadata WHERE oid = ANY (%s::bigint[]::oid[])",
            ([oid for (oid,) in gone],),
        )
        if were:
            listed = ", ".join(str(oid) for (oid,) in were)
            chosen = f"SELECT {NUMBER} FROM {table.becomes} AS x"
            chosen += f" WHERE (x.{quoted(column.name)})::oid IN ({listed})"
            detail = f"{column.name} names large objects that are gone"
            found += table.refuse(
                connection, BlockerKind.PARENT_MISSING, detail, resolution, chosen
            )
    return found


def altered_values(
    connection: Connection, table: PlannedTable, resolution: Resolution
) -> list[Blocker]:
    """Leave out rows whose values the types of today would alter, such as 1.25 as numeric(9,1)."""
    found = []
    for column in table.aligned.columns:
        if not _has_other_type(column) or table.keyless:
            continue
        at = table.aligned.columns.index(column)
        now = f"(x.{quoted(column.name)})::text"
        chosen = (
            f"SELECT r.n FROM {table.rows} AS r {table.before_row()} {table.becoming()}"
            f" WHERE {table.writes_columns([column.name])}"
            f" AND {now} IS DISTINCT FROM (b.c{at})::text AND NOT ({_is_same_number(column, at)})"
        )
        detail = f"the type of {column.name} is {column.own.type} now, which would alter the values"
        found += table.refuse(connection, BlockerKind.SCHEMA_DRIFT, detail, resolution, chosen)
    return found


def _has_other_type(column: SharedColumn) -> bool:
    return column.sides[BEFORE].type != column.own.type


_NUMBERS = (20, 21, 23, 1700)


def _is_same_number(column: SharedColumn, at: int) -> str:
    """Return the condition that a number only gained or lost zeros at its end."""
    if {column.sides[BEFORE].base_oid, column.own.base_oid} <= set(_NUMBERS):
        return f"(x.{quoted(column.name)})::numeric = (b.c{at})::text::numeric"
    return "FALSE"
