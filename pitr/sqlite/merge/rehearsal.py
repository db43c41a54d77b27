"""Write the rows of a plan into an empty table of the live table's own definition, and look.

SQLite itself then says what CHECK, NOT NULL, STRICT and the unique keys hold of the rows, fills in
defaults, computes generated columns and converts values: nothing of that is imitated here. The
table is in a temporary database; the live one is only read.

Not needed, and left out, where rows are only inserted into a table that is exactly as it was: they
were in a table of that definition before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import apsw

from pitr.sqlite.merge.planned import REHEARSAL, PlannedTable
from pitr.sqlite.past.tables import folded
from pitr.sqlite.statement.restatement import restated, restated_index
from pitr.sqlite.statement.tokens import quoted
from pitr.vocabulary.plan import BlockerKind
from pitr.vocabulary.row_class import Action

_UNIQUE_CODES = (
    apsw.SQLITE_CONSTRAINT_UNIQUE,
    apsw.SQLITE_CONSTRAINT_PRIMARYKEY,
    apsw.SQLITE_CONSTRAINT_ROWID,
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Rows of a table that SQLite would not take, left out by now, and its words."""

    kind: BlockerKind
    detail: str
    rows: int


def unique_index_texts(connection: apsw.Connection, schema: str, table: str) -> list[str]:
    """Return the CREATE statements of the unique indexes that are no constraints of the table."""
    return [
        str(sql)
        for (sql,) in connection.execute(
            f"SELECT s.sql FROM pragma_index_list(?, '{schema}') i"
            f" JOIN {schema}.sqlite_schema s ON s.type = 'index' AND s.name = i.name"
            " WHERE i.\"unique\" AND i.origin = 'c' ORDER BY s.name",
            (table,),
        )
    ]


def rehearse(connection: apsw.Connection, table: PlannedTable) -> list[Refusal]:
    """Write the rows that are to be inserted or updated; leave out those that are refused.

    Raises apsw.SQLError when the definition cannot be carried out here.
    """
    target = f"{REHEARSAL}.{quoted(table.name)}"
    if not _exists(connection, table.name):
        connection.execute(restated(table.definition.sql, REHEARSAL))
        for text in unique_index_texts(connection, "main", table.name):
            connection.execute(restated_index(text, REHEARSAL))
    found: dict[tuple[BlockerKind, str], int] = {}
    if table.classes(Action.INSERT):
        _write(connection, table, target, found, is_update=False)
    if table.classes(Action.UPDATE):
        _write(connection, table, target, found, is_update=True)
    return [Refusal(kind, detail, rows) for (kind, detail), rows in found.items()]


def _exists(connection: apsw.Connection, name: str) -> bool:
    names = connection.execute(f"SELECT name FROM {REHEARSAL}.sqlite_schema WHERE type = 'table'")
    return folded(name) in {folded(str(row[0])) for row in names}


def _write(
    connection: apsw.Connection,
    table: PlannedTable,
    target: str,
    found: dict[tuple[BlockerKind, str], int],
    *,
    is_update: bool,
) -> None:
    try:
        connection.execute(_statement(table, target, is_update=is_update, only="TRUE"))
        return
    except apsw.ConstraintError:
        pass  # a statement that fails leaves nothing behind
    one = " AND ".join(f"r.{name} IS ?" for name in table.row_key)
    statement = _statement(table, target, is_update=is_update, only=one)
    acting = table.acting(Action.UPDATE if is_update else Action.INSERT)
    keys = f"SELECT {table.row_key_of()} FROM {table.rows} AS r WHERE {acting}"
    for key in connection.execute(keys).fetchall():
        try:
            connection.execute(statement, key)
        except apsw.ConstraintError as error:
            kind = _kind(error)
            connection.execute(f"UPDATE {table.rows} AS r SET reason = ? WHERE {one}", (kind, *key))
            place = (kind, str(error))
            found[place] = found.get(place, 0) + 1


def _kind(error: apsw.ConstraintError) -> BlockerKind:
    if getattr(error, "extendedresult", 0) in _UNIQUE_CODES:
        return BlockerKind.UNIQUE_TAKEN
    return BlockerKind.CHECK_FAILED


def _statement(table: PlannedTable, target: str, *, is_update: bool, only: str) -> str:
    if not is_update:
        return table.insertion(target, only=only)
    names = tuple(dict.fromkeys((*table.key, *table.definition.plain_columns)))
    values = ", ".join(table.became(name) for name in names)
    return (
        f"INSERT OR ABORT INTO {target}({', '.join(map(quoted, names))}) SELECT {values}"
        f" FROM {table.rows} AS r {table.before_row()} {table.live_row()}"
        f" WHERE {table.acting(Action.UPDATE)} AND {only}"
    )


def lossy_conversions(connection: apsw.Connection, table: PlannedTable) -> list[tuple[str, int]]:
    """Leave out rows whose values the live column types would alter; return columns and counts.

    '12' may become 12, and 2.0 may become 2; '007' may not become 7.
    """
    found = []
    for name, _, _ in table.drift.type_changed:
        if name not in table.insert_columns or not table.is_rehearsed:
            continue
        now, was = f"x.{quoted(name)}", table.was(name)
        numbers = f"typeof({now}) IN ('integer', 'real') AND typeof({was}) IN ('integer', 'real')"
        kept = (
            f"({now} IS {was} AND typeof({now}) = typeof({was}))"
            f" OR CAST({now} AS TEXT) IS CAST({was} AS TEXT) OR ({numbers} AND {now} = {was})"
        )
        chosen = (
            f"SELECT {table.row_key_of()} FROM {table.rows} AS r {table.before_row()}"
            f" {table.becoming()} WHERE {table.writes_columns([name])} AND NOT ({kept})"
        )
        rows = table.leave_out(connection, BlockerKind.SCHEMA_DRIFT, chosen)
        if rows:
            found.append((name, rows))
    return found


def needs_rehearsal(
    connection: apsw.Connection, table: PlannedTable, before_schema: str, before_sql: str
) -> bool:
    """Return whether the rows might be other than they were, or the table might refuse them."""
    if table.created_by is not None:
        return False
    if table.values or table.classes(Action.UPDATE) or before_sql != table.definition.sql:
        return True
    then: Sequence[str] = unique_index_texts(connection, before_schema, table.name)
    return not set(unique_index_texts(connection, "main", table.name)) <= set(then)
