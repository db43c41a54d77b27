"""A plan as SQL for psql: a script that asserts its own preconditions, and what came of it.

Every row is written out. First each row that is touched is locked and compared with what it was
when the plan was made; then rows are written, a table and verb by one statement, in the order in
which a merge tries it first; at last each row is compared with what it shall be. What is asserted
and is not so divides by zero, which psql, under ON_ERROR_STOP, stops at; the transaction is then
rolled back. For plans of up to ROWS_MAX rows, of tables with a key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from pitr.postgres.merge.parents import Family
from pitr.postgres.merge.planned import PlannedTable
from pitr.postgres.merge.writability import owned_columns
from pitr.postgres.tables.definition import Creation
from pitr.postgres.tables.name import literal, quoted
from pitr.postgres.tables.session import VALUE_SETTINGS, Connection, rows_of
from pitr.vocabulary.row_class import Action

ROWS_MAX = 1000
_COLUMNS_MAX = 1600  # both images of a row are read by one SELECT

_HEAD = """\
-- Made by pitr; fingerprint {fingerprint}.
-- Run it with psql on the live database: psql DATABASE -f FILE
-- It stops and rolls back when a row is not as it was when the plan was made.
{noted}\
\\set ON_ERROR_STOP on
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SET LOCAL client_encoding = 'UTF8';
SET LOCAL lock_timeout = '10s';
{settings}\
SELECT 1 / (current_setting('session_replication_role') <> 'replica')::int AS foreign_keys_hold;
"""
_TAIL = """\
COMMIT;
"""
# Texts are compared under settings that are pinned; of these triggers have those of the role.
_OF_ROLE = ("search_path", "DateStyle", "TimeZone")
Values = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class _Row:
    """One row as it is and as it becomes: None where there is none. `mask` names what is set."""

    was: Values | None
    becomes: Values | None
    mask: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Written:
    """The rows of a table that one verb writes."""

    table: PlannedTable
    action: Action
    rows: list[_Row]


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
    tables = [table for table in parents_first(family) if table.classes()]
    rows = sum(table.count(connection, table.acting()) for table in tables)
    if not rows or rows > ROWS_MAX or any(table.keyless for table in tables):
        return None
    if any(2 * len(table.live.columns) > _COLUMNS_MAX for table in tables):
        return None  # a script of such rows is nothing that anybody reads
    written = [
        _Written(table, action, _rows(connection, table, action))
        for action in (Action.INSERT, Action.UPDATE, Action.DELETE)
        for table in tables
        if table.classes(action)
    ]
    pinned = [f"SET LOCAL {name} = {_set_value(name)}" for name in _OF_ROLE]
    lines = [_closed(one) for creation in creations for one in creation.statements]
    lines += pinned
    lines += [line for one in written for line in _asserted_before(one)]
    lines += [line for table in tables for line in _raised(connection, table)]
    lines += [f"SET LOCAL {name} TO DEFAULT" for name in _OF_ROLE]
    lines += _statements(family, written)
    lines += pinned
    lines += [line for one in written for line in _asserted_after(one)]
    lines += [_closed(one) for creation in creations for one in creation.later]
    said = "".join(f"-- {' '.join(line.split())}\n" for line in noted)
    settings = "".join(
        f"SET LOCAL {name} = {_set_value(name)};\n"
        for name in VALUE_SETTINGS
        if name not in _OF_ROLE
    )
    head = _HEAD.format(fingerprint=fingerprint, noted=said, settings=settings)
    return head + "".join(f"{x};\n" for x in lines) + _TAIL


def _set_value(name: str) -> str:
    value = VALUE_SETTINGS[name]
    return value if name == "search_path" else f"'{value}'"  # which is a list of names


def _closed(statement: str) -> str:
    return statement.rstrip().removesuffix(";")


def parents_first(family: Family) -> list[PlannedTable]:
    """Return the tables, each behind its parents; where they go in circles, as they come."""
    return [table for group in _generations(family) for table in group]


def _generations(family: Family) -> Iterator[list[PlannedTable]]:
    """Yield the tables, parents first; those together that cannot be put in an order."""
    waiting = list(family.tables)
    while waiting:
        names = {table.live.oid for table in waiting}
        free = [
            table
            for table in waiting
            if not ({key.parent_oid for key in family.of(table)} - {table.live.oid}) & names
        ]
        yield from ([one] for one in free)
        if not free:
            yield waiting
            return
        waiting = [table for table in waiting if table not in free]


# --- statements ----------------------------------------------------------------------------------


def _statements(family: Family, written: Sequence[_Written]) -> Iterator[str]:
    """Yield what writes the rows. Deletes go first where they may free values of other indexes."""
    by_verb = {
        action: [one for one in written if one.action is action]
        for action in (Action.INSERT, Action.UPDATE, Action.DELETE)
    }
    deletes = [line for one in reversed(by_verb[Action.DELETE]) for line in _deletes(one)]
    frees = any(len(one.table.live.indexes) > 1 for one in by_verb[Action.DELETE])
    yield "SET CONSTRAINTS ALL DEFERRED"
    if frees:
        yield from deletes
    inserts = {one.table.rows: _insert(one) for one in by_verb[Action.INSERT]}
    for group in _generations(family):
        found = [inserts[table.rows] for table in group if table.rows in inserts]
        if len(found) > 1:  # foreign keys in a circle are looked at when the statement ends
            parts = [f"w{at} AS ({line} RETURNING 1)" for at, line in enumerate(found)]
            counts = ", ".join(f"(SELECT count(*) FROM w{at})" for at in range(len(found)))
            yield f"WITH {', '.join(parts)}\nSELECT {counts}"
        else:
            yield from found
    yield from (line for one in by_verb[Action.UPDATE] for line in _updates(one))
    if not frees:
        yield from deletes
    yield "SET CONSTRAINTS ALL IMMEDIATE"


def _insert(one: _Written) -> str:
    table = one.table
    columns = table.insert_columns
    listed = ", ".join(map(quoted, columns))
    rows = []
    for row in one.rows:
        assert row.becomes is not None
        rows.append(f"({', '.join(_value(table, name, row.becomes[name]) for name in columns)})")
    values = ",\n  ".join(rows)
    return (
        f"INSERT INTO {table.live.name.sql} ({listed}) OVERRIDING SYSTEM VALUE VALUES\n  {values}"
    )


def _updates(one: _Written) -> Iterator[str]:
    """Yield a statement for the rows that get values in the same columns."""
    table = one.table
    keys = [column.name for column in table.aligned.key]
    masks = dict.fromkeys(row.mask for row in one.rows)
    for mask in masks:
        rows = []
        for row in one.rows:
            if row.mask == mask and row.was is not None and row.becomes is not None:
                found = [_value(table, name, row.was[name]) for name in keys]
                found += [_value(table, name, row.becomes[name]) for name in mask]
                rows.append(f"({', '.join(found)})")
        names = [f"k{at}" for at in range(len(keys))] + [f"v{at}" for at in range(len(mask))]
        sets = ", ".join(f"{quoted(name)} = v.v{at}" for at, name in enumerate(mask))
        same = table.aligned.agree(
            [f"t.{quoted(name)}" for name in keys], [f"v.k{at}" for at in range(len(keys))]
        )
        values = ",\n  ".join(rows)
        yield (
            f"UPDATE {table.live.source} AS t SET {sets} FROM (VALUES\n  {values}\n)"
            f" AS v ({', '.join(names)}) WHERE {same}"
        )


def _deletes(one: _Written) -> Iterator[str]:
    for row in one.rows:
        if row.was is not None:
            yield f"DELETE FROM {one.table.live.source} AS t WHERE {_key(one.table, row.was)}"


def _raised(connection: Connection, table: PlannedTable) -> Iterator[str]:
    """Yield what brings sequences past the values that are put in; none is lowered."""
    if not table.classes(Action.INSERT):
        return
    for sequence, farthest in table.farthest_numbers(connection):
        name, behind = sequence.name.sql, "<" if sequence.increment > 0 else ">"
        yield (
            f"SELECT pg_catalog.setval({literal(name)}, {farthest}) FROM {name} WHERE last_value"
            f" {behind} {farthest} OR (last_value = {farthest} AND NOT is_called)"
        )


# --- assertions ----------------------------------------------------------------------------------


def _asserted_before(one: _Written) -> Iterator[str]:
    table = one.table
    strength = "UPDATE" if one.action is Action.DELETE else "NO KEY UPDATE"
    for row in one.rows:
        if row.was is not None:
            yield _assert_row(table, row.was, row.was, f" FOR {strength}")
        elif row.becomes is not None:
            key = _key(table, row.becomes)
            yield _assert(f"NOT EXISTS (SELECT FROM {table.live.source} AS t WHERE {key})")


def _asserted_after(one: _Written) -> Iterator[str]:
    """Yield assertions of what came of the rows; what a trigger sets itself stays out."""
    table = one.table
    owned = owned_columns(table, one.action)
    for row in one.rows:
        if row.becomes is not None:
            kept = {name: v for name, v in row.becomes.items() if name not in owned}
            yield _assert_row(table, row.becomes, kept)
        elif row.was is not None:
            key = _key(table, row.was)
            yield _assert(f"NOT EXISTS (SELECT FROM {table.live.source} AS t WHERE {key})")


def _assert_row(table: PlannedTable, key: Values, row: Values, lock: str = "") -> str:
    same = "".join(
        f" AND {_text(table, name, 't')} IS NOT DISTINCT FROM"
        f" {'NULL' if value is None else literal(value)}"
        for name, value in row.items()
    )
    found = f"SELECT FROM {table.live.source} AS t WHERE {_key(table, key)}{same}{lock}"
    return _assert(f"EXISTS ({found})")


def _assert(condition: str) -> str:
    return f"SELECT 1 / ({condition})::int AS is_as_planned"


def _key(table: PlannedTable, values: Values) -> str:
    names = [column.name for column in table.aligned.key]
    return table.aligned.agree(
        [f"t.{quoted(name)}" for name in names],
        [_value(table, name, values[name]) for name in names],
    )


# --- rows ----------------------------------------------------------------------------------------


def _rows(connection: Connection, table: PlannedTable, action: Action) -> list[_Row]:
    columns = [column.name for column in table.live.plain_columns]
    was = [] if action is Action.INSERT else columns
    become: Sequence[str] = columns
    if action is not Action.UPDATE:
        become = table.insert_columns if action is Action.INSERT else []
    taken = [_text(table, name, "l") for name in was] + [_text(table, n, "x") for n in become]
    joined = table.live_row() if was else ""
    joined += f" {table.becoming()}" if become else ""
    found = rows_of(
        connection,
        f"SELECT {', '.join(['r.mask', *taken])} FROM {table.rows} AS r {joined}"
        f" WHERE {table.acting(action)} ORDER BY r.n",
    )
    return [
        _Row(
            was=_named(was, row[1 : 1 + len(was)]),
            becomes=_named(become, row[1 + len(was) :]),
            mask=table.masked(str(row[0])) if action is Action.UPDATE else (),
        )
        for row in found
    ]


def _named(names: Collection[str], values: Sequence[str | None]) -> Values | None:
    return dict(zip(names, values, strict=True)) if names else None


def _text(table: PlannedTable, name: str, alias: str) -> str:
    return f"({table.live.column(name).image(alias)})::text"


def _value(table: PlannedTable, name: str, text: str | None) -> str:
    kind = table.live.column(name).plain_type
    return f"NULL::{kind}" if text is None else f"{literal(text)}::{kind}"
