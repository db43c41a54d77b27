"""A plan as SQL for psql: a script that asserts its own preconditions.

Every row is written out, with what must be so before it is touched and what must be so afterwards.
An assertion divides by zero, which psql, under ON_ERROR_STOP, stops at; the transaction is then
rolled back. For plans of up to ROWS_MAX rows, of tables with a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pitr.postgres.merge.parents import Family
from pitr.postgres.merge.planned import PlannedTable
from pitr.postgres.tables.definition import Creation
from pitr.postgres.tables.name import literal, quoted
from pitr.postgres.tables.session import Connection, rows_of
from pitr.vocabulary.row_class import Action

ROWS_MAX = 1000
_COLUMNS_MAX = 1600  # both images of a row are read by one SELECT

_HEAD = """\
-- Made by pitr; fingerprint {fingerprint}.
-- Run it with psql on the live database: psql DATABASE -f FILE
-- It stops and rolls back when a row is not as it was when the plan was made.
{noted}\
\\set ON_ERROR_STOP on
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL lock_timeout = '10s';
SET LOCAL DateStyle = 'ISO, YMD';
SET LOCAL IntervalStyle = 'postgres';
SET LOCAL TimeZone = 'UTC';
SET LOCAL bytea_output = 'hex';
SET LOCAL extra_float_digits = 1;
SET LOCAL row_security = off;
"""
_TAIL = """\
COMMIT;
"""


def script_of(
    connection: Connection,
    family: Family,
    fingerprint: str,
    *,
    noted: Sequence[str] = (),
    creations: Sequence[Creation] = (),
) -> str | None:
    """Return the script, what is made anew included; None for too many rows, or without a key.

    `noted` are lines for its head.
    """
    tables = parents_first(family)
    written = [table for table in tables if table.classes()]
    rows = sum(table.count(connection, table.acting()) for table in written)
    if not rows or rows > ROWS_MAX or any(table.keyless for table in written):
        return None
    if any(2 * len(table.live.columns) > _COLUMNS_MAX for table in written):
        return None  # a script of such rows is nothing that anybody reads
    lines = [_closed(one) for creation in creations for one in creation.statements]
    lines += [line for table in reversed(written) for line in _deletes(connection, table)]
    lines += [line for table in written for line in _updates(connection, table)]
    lines += [line for table in written for line in _inserts(connection, table)]
    lines += [_closed(one) for creation in creations for one in creation.later]
    head = _HEAD.format(fingerprint=fingerprint, noted="".join(f"-- {x}\n" for x in noted))
    return head + "".join(f"{x};\n" for x in lines) + _TAIL


def _closed(statement: str) -> str:
    return statement.rstrip().removesuffix(";")


def parents_first(family: Family) -> list[PlannedTable]:
    """Return the tables, each behind its parents; where they go in circles, as they come."""
    ordered: list[PlannedTable] = []
    waiting = list(family.tables)
    while waiting:
        names = {table.live.oid for table in waiting}
        free = [
            table
            for table in waiting
            if not ({key.parent_oid for key in family.of(table)} - {table.live.oid}) & names
        ]
        taken = free or waiting[:1]
        ordered += taken
        waiting = [table for table in waiting if table not in taken]
    return ordered


def _deletes(connection: Connection, table: PlannedTable) -> Iterator[str]:
    columns = [column.name for column in table.live.plain_columns]
    for row in _select(connection, table, Action.DELETE, [f"l.{quoted(c)}" for c in columns]):
        yield _assert_row(table, columns, row)
        key = _key(table, dict(zip(columns, row, strict=True)))
        yield f"DELETE FROM {table.live.source} WHERE {key}"


def _updates(connection: Connection, table: PlannedTable) -> Iterator[str]:
    columns = [column.name for column in table.live.plain_columns]
    taken = [f"l.{quoted(c)}" for c in columns] + [f"x.{quoted(c)}" for c in columns]
    rows = _select(connection, table, Action.UPDATE, ["r.mask", *taken], table.becoming())
    width = len(columns)
    for mask, *values in rows:
        was = dict(zip(columns, values[:width], strict=True))
        becomes = dict(zip(columns, values[width:], strict=True))
        yield _assert_row(table, columns, values[:width])
        masked = table.masked(str(mask))
        sets = ", ".join(f"{quoted(c)} = {_value(table, c, becomes[c])}" for c in masked)
        yield f"UPDATE {table.live.source} SET {sets} WHERE {_key(table, was)}"


def _inserts(connection: Connection, table: PlannedTable) -> Iterator[str]:
    columns = table.insert_columns
    taken = [f"x.{quoted(c)}" for c in columns]
    listed = ", ".join(map(quoted, columns))
    for row in _select(connection, table, Action.INSERT, taken, table.becoming()):
        values = dict(zip(columns, row, strict=True))
        yield _assert(f"NOT EXISTS (SELECT FROM {table.live.source} WHERE {_key(table, values)})")
        texts = ", ".join(_value(table, name, value) for name, value in values.items())
        yield (
            f"INSERT INTO {table.live.name.sql} ({listed}) OVERRIDING SYSTEM VALUE VALUES ({texts})"
        )
        yield _assert_row(table, columns, row)


def _select(
    connection: Connection,
    table: PlannedTable,
    action: Action,
    taken: Sequence[str],
    joined: str = "",
) -> list[Sequence[str | None]]:
    if not table.classes(action):
        return []
    live = "" if action is Action.INSERT else table.live_row()
    texts = ", ".join(f"({one})::text" for one in taken)
    return rows_of(
        connection,
        f"SELECT {texts} FROM {table.rows} AS r {live} {joined}"
        f" WHERE {table.acting(action)} ORDER BY r.n",
    )


def _assert_row(table: PlannedTable, columns: Sequence[str], row: Sequence[str | None]) -> str:
    values = dict(zip(columns, row, strict=True))
    same = " AND ".join(
        f"t.{quoted(name)}::text IS NOT DISTINCT FROM {'NULL' if v is None else literal(v)}"
        for name, v in values.items()
    )
    key = _key(table, values)
    return _assert(f"EXISTS (SELECT FROM {table.live.source} AS t WHERE {key} AND {same})")


def _assert(condition: str) -> str:
    return f"SELECT 1 / ({condition})::int AS is_as_planned"


def _key(table: PlannedTable, values: dict[str, str | None]) -> str:
    return " AND ".join(
        f"{quoted(column.name)} = {_value(table, column.name, values[column.name])}"
        for column in table.aligned.key
    )


def _value(table: PlannedTable, name: str, text: str | None) -> str:
    return "NULL" if text is None else f"{literal(text)}::{table.live.column(name).plain_type}"
