"""A plan as SQL for the sqlite3 shell: a script that asserts its own preconditions.

Every row is written out, with what must be so before it is touched and what must be so afterwards.
An assertion is an INSERT into a table whose CHECK it violates: the shell, under `.bail on`, stops
there and the transaction is rolled back. For plans of up to ROWS_MAX rows, and in databases whose
text is UTF-8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import apsw

from pitr.sqlite.merge.planned import PlannedTable
from pitr.sqlite.statement.tokens import quoted
from pitr.vocabulary.diff_row import Row, Value
from pitr.vocabulary.row_class import Action

ROWS_MAX = 1000

_HEAD = """\
-- Made by pitr; fingerprint {fingerprint}.
-- Run it with the sqlite3 shell on the live database: sqlite3 DATABASE < FILE
-- It stops and rolls back when a row is not as it was when the plan was made.
{noted}\
.bail on
.timeout 10000
PRAGMA foreign_keys = ON;
CREATE TEMP TABLE pitr_assert (holds CHECK (holds), what TEXT);
BEGIN IMMEDIATE;
PRAGMA defer_foreign_keys = ON;
"""
_TAIL = """\
COMMIT;
"""


def script_of(
    connection: apsw.Connection,
    tables: Sequence[PlannedTable],
    fingerprint: str,
    *,
    noted: Sequence[str] = (),
) -> str | None:
    """Return the script; None when there are too many rows, or text that is not valid UTF-8.

    `noted` are lines for its head.
    """
    rows = sum(table.count(connection, table.acting()) for table in tables)
    if rows > ROWS_MAX:
        return None
    try:
        lines = [line for table in tables for line in _table(connection, table)]
    except UnicodeDecodeError:
        return None
    head = _HEAD.format(fingerprint=fingerprint, noted="".join(f"-- {x}\n" for x in noted))
    return head + "".join(f"{x};\n" for x in lines) + _TAIL


def _table(connection: apsw.Connection, table: PlannedTable) -> Iterator[str]:
    name = quoted(table.name)
    if table.created_by is not None and table.classes(Action.INSERT):
        yield table.created_by
    if table.keyless:
        yield from _copies(connection, table, name)
        return
    yield from _deletes(connection, table, name)
    yield from _updates(connection, table, name)
    yield from _inserts(connection, table, name)


def _inserts(connection: apsw.Connection, table: PlannedTable, name: str) -> Iterator[str]:
    if not table.classes(Action.INSERT):
        return
    columns = [*table.insert_columns, *(column for column, _ in table.values)]
    taken = [f"b.{quoted(table.before_names[c])}" for c in table.insert_columns]
    taken += [f"x.{quoted(column)}" for column, _ in table.values]
    joined = table.before_row() + (f" {table.becoming()}" if table.values else "")
    rows = _select(connection, table, taken, joined, Action.INSERT)
    listed = ", ".join(map(quoted, columns))
    for key, image in rows:
        where = _equal(table.key, key)
        yield _assert(f"NOT EXISTS (SELECT 1 FROM {name} WHERE {where})", f"{name} has no {where}")
        values = ", ".join(map(literal, image))
        yield f"{table.inserts} INTO {name} ({listed}) VALUES ({values})"
        yield _assert(f"EXISTS (SELECT 1 FROM {name} WHERE {where})", f"{name} has {where} now")


def _updates(connection: apsw.Connection, table: PlannedTable, name: str) -> Iterator[str]:
    if not table.classes(Action.UPDATE):
        return
    plain = table.definition.plain_columns
    columns = [f"l.{quoted(c)}" for c in plain] + [table.was(c) for c in table.columns]
    joined = f"{table.before_row()} {table.live_row()}"
    rows = _select(connection, table, ["r.mask", *columns], joined, Action.UPDATE)
    for key, (mask, *images) in rows:
        live, was = images[: len(plain)], images[len(plain) :]
        where = _equal(table.key, key)
        yield _assert_row(name, where, plain, tuple(live))
        restored = dict(zip(table.columns, was, strict=True))
        values = ", ".join(f"{quoted(c)} = {literal(restored[c])}" for c in table.masked(str(mask)))
        yield f"{table.updates} {name} SET {values} WHERE {where}"
        yield _assert("changes() = 1", f"one row of {name} has {where}")


def _deletes(connection: apsw.Connection, table: PlannedTable, name: str) -> Iterator[str]:
    if not table.classes(Action.DELETE):
        return
    plain = table.definition.plain_columns
    columns = [f"l.{quoted(c)}" for c in plain]
    for key, live in _select(connection, table, columns, table.live_row(), Action.DELETE):
        where = _equal(table.key, key)
        yield _assert_row(name, where, plain, live)
        yield f"DELETE FROM {name} WHERE {where}"
        yield _assert("changes() = 1", f"one row of {name} has {where}")


def _copies(connection: apsw.Connection, table: PlannedTable, name: str) -> Iterator[str]:
    listed = ", ".join(map(quoted, table.insert_columns))
    rows = connection.execute(
        f"SELECT r.copies, {table.key_values()} FROM {table.rows} AS r WHERE {table.acting()}"
    )
    for copies, *content in rows:
        values = ", ".join(map(literal, content))
        for _ in range(int(str(copies))):
            yield f"{table.inserts} INTO {name} ({listed}) VALUES ({values})"


def _select(
    connection: apsw.Connection,
    table: PlannedTable,
    columns: Sequence[str],
    joined: str,
    action: Action,
) -> Iterator[tuple[Row, Row]]:
    """Yield the key and the values asked for of each row with one action."""
    width = len(table.key)
    rows = connection.execute(
        f"SELECT {table.key_values()}, {', '.join(columns)} FROM {table.rows} AS r {joined}"
        f" WHERE {table.acting(action)} ORDER BY {table.row_key_of()}"
    )
    for row in rows:
        yield row[:width], row[width:]


def _assert_row(name: str, where: str, columns: Sequence[str], row: Row) -> str:
    same = " AND ".join(
        f"{quoted(column)} IS {literal(value)} AND typeof({quoted(column)}) = '{_type(value)}'"
        for column, value in zip(columns, row, strict=True)
    )
    condition = f"EXISTS (SELECT 1 FROM {name} WHERE {where} AND {same})"
    return _assert(condition, f"the row of {name} with {where} is as it was planned")


def _assert(condition: str, what: str) -> str:
    return f"INSERT INTO pitr_assert SELECT {condition}, {literal(what)}"


def _equal(columns: Sequence[str], key: Row) -> str:
    pairs = zip(columns, key, strict=True)
    return " AND ".join(f"{quoted(column)} = {literal(value)}" for column, value in pairs)


def _type(value: Value) -> str:
    names = {type(None): "null", int: "integer", float: "real", str: "text", bytes: "blob"}
    return names[type(value)]


def literal(value: Value) -> str:
    """Return a value as an SQL literal that gives exactly the same value back."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else ("9e999" if value > 0 else "-9e999")
    if isinstance(value, int):
        # The text of the smallest integer would be read as a real that is negated.
        return str(value) if value > -(2**63) else "(-9223372036854775807 - 1)"
    if "\0" in value or not value.isprintable():
        # The shell reads lines: neither a NUL nor a line's end may stand in the text.
        return f"CAST(x'{value.encode().hex()}' AS TEXT)"
    return "'" + value.replace("'", "''") + "'"
