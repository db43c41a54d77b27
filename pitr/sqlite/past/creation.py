"""Decide under which CREATE TABLE a table of the past comes back.

The text of the time is taken as it is whenever rows can be written under it. A CHECK that calls a
function of the application is no obstacle (checks are not run on rows that passed them then). A
generated column that calls one is, and so is a key ordered by a collation of the application: such
a table is described anew from what SQLite says about it, with the loss named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass

import apsw

from pitr.errors import CorruptDatabase
from pitr.sqlite.past.replay import BUILTIN_COLLATIONS
from pitr.sqlite.past.tables import PastTable, TableColumn
from pitr.sqlite.statement.tokens import quoted, statement_tokens, tokens_of

_UNKNOWN_FUNCTION = re.compile(
    r"(?:no such function: |wrong number of arguments to function )(.+?)(?:\(\))?", re.DOTALL
)
_UNKNOWN_COLLATION = re.compile(r"no such collation sequence: (.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Creation:
    """A CREATE TABLE, the columns to fill, and what it lacks of the table as it was."""

    sql: str
    columns: tuple[str, ...]
    is_exact: bool
    warnings: tuple[str, ...] = ()


def creation_of(past: apsw.Connection, table: PastTable) -> Creation:
    """Return how to create the table so that its rows can be written.

    Raises CorruptDatabase when the text of the schema is not one CREATE TABLE.
    """
    if table.virtual is not None:
        return _virtual_creation_of(table)
    with closing(apsw.Connection(":memory:")) as scratch:
        create(scratch, table.sql)
        image = scratch.serialize("main")
    # Read back by a connection that knows no stand-ins, as the one that writes the rows will be.
    with closing(apsw.Connection(":memory:")) as scratch:
        scratch.deserialize("main", image)
        fault = _insert_fault(scratch, table)
    if fault is None:
        return Creation(table.sql, table.plain_columns, is_exact=True)
    return _described_anew(past, table, fault)


def _virtual_creation_of(table: PastTable) -> Creation:
    """Return the text of the time, or an ordinary table where its index cannot be made here."""
    try:
        with closing(apsw.Connection(":memory:")) as scratch:
            create(scratch, table.sql)
    except apsw.SQLError as error:
        sql = f"CREATE TABLE {quoted(table.name)} ({_names(table.plain_columns)})"
        warning = f"{table.name}: restored as an ordinary table, without its index ({error})"
        return Creation(sql, table.plain_columns, is_exact=False, warnings=(warning,))
    return Creation(table.sql, table.plain_columns, is_exact=True)


def create(connection: apsw.Connection, sql: str) -> None:
    """Run a CREATE of a schema, with stand-ins for functions and collations that are unknown.

    The stand-ins stay on the connection and raise when they are called: use it for nothing else.
    """
    if not statement_tokens(sql)[0].is_word("CREATE"):
        raise CorruptDatabase("the schema holds a statement that is no CREATE", detail=sql[:200])
    known: set[str] = set()
    while True:
        try:
            connection.execute(sql)
            return
        except apsw.SQLError as error:
            name = _stand_in(connection, str(error))
            if name is None or name in known:
                raise
            known.add(name)


def _stand_in(connection: apsw.Connection, message: str) -> str | None:
    """Make what the message says is missing; return its name, None when it says something else."""

    def never(*_arguments: object) -> int:
        raise apsw.SQLError(message)

    if found := _UNKNOWN_FUNCTION.fullmatch(message):
        connection.create_scalar_function(found[1], never, deterministic=True)
    elif found := _UNKNOWN_COLLATION.fullmatch(message):
        connection.create_collation(found[1], never)
    return found[1] if found else None


def _insert_fault(scratch: apsw.Connection, table: PastTable) -> str | None:
    """Return why no row can be written, None when rows can be: asked by compiling an INSERT."""
    scratch.pragma("ignore_check_constraints", True)
    values = ", ".join("NULL" for _ in table.plain_columns)
    target = f"{quoted(table.name)}({_names(table.plain_columns)})"
    try:
        scratch.execute(f"EXPLAIN INSERT INTO {target} VALUES ({values})").fetchall()
    except apsw.SQLError as error:
        return str(error)
    return None


def _described_anew(past: apsw.Connection, table: PastTable, fault: str) -> Creation:
    kept = [column for column in table.columns if _can_be_read(past, table, column)]
    names = {column.name for column in kept}
    parts = [_column_text(past, table, column) for column in kept]
    parts += [f"UNIQUE ({_names(key)})" for key in _unique_keys(past, table) if names >= set(key)]
    if table.key_columns and not table.integer_key:
        parts.append(f"PRIMARY KEY ({_names(table.key_columns)})")
    options = {"WITHOUT": "WITHOUT ROWID", "STRICT": "STRICT"}
    ends = [text for word, text in options.items() if word in table.options]
    sql = f"CREATE TABLE {quoted(table.name)} ({', '.join(parts)}) {', '.join(ends)}".rstrip()
    return Creation(
        sql, tuple(c.name for c in kept), is_exact=False, warnings=_losses(table, kept, fault)
    )


def _losses(table: PastTable, kept: list[TableColumn], fault: str) -> tuple[str, ...]:
    warnings = [
        f"{table.name}: rows cannot be written under its own definition here ({fault}); "
        "restored without CHECK, FOREIGN KEY and the application's own collations"
    ]
    for column in table.columns:
        if column.is_generated:
            fate = "kept as plain data" if column in kept else "left out, it cannot be computed"
            warnings.append(f"{table.name}: the generated column {column.name} is {fate}")
    return tuple(warnings)


def _can_be_read(past: apsw.Connection, table: PastTable, column: TableColumn) -> bool:
    statement = f"EXPLAIN SELECT {quoted(column.name)} FROM main.{quoted(table.name)}"
    try:
        past.execute(statement).fetchall()
    except apsw.SQLError:
        return False
    return True


def _column_text(past: apsw.Connection, table: PastTable, column: TableColumn) -> str:
    words = [quoted(column.name), column.declared_type]
    if column.name == table.integer_key:
        words.append("PRIMARY KEY" + " AUTOINCREMENT" * table.has_autoincrement)
    if column.not_null:
        words.append("NOT NULL")
    if column.default is not None:
        # Parentheses around a lone token would turn DEFAULT "text" into the name of a column.
        is_lone = len(list(tokens_of(column.default))) == 1
        words.append(f"DEFAULT {column.default}" if is_lone else f"DEFAULT ({column.default})")
    collation = str(past.column_metadata("main", table.name, column.name)[1])
    if collation.upper() in BUILTIN_COLLATIONS - {"BINARY"}:
        words.append(f"COLLATE {collation}")
    return " ".join(word for word in words if word)


def _unique_keys(past: apsw.Connection, table: PastTable) -> list[list[str]]:
    names = past.execute(
        "SELECT name FROM pragma_index_list(?, 'main') WHERE origin = 'u'", (table.name,)
    ).fetchall()
    return [
        [str(row[0]) for row in past.execute("SELECT name FROM pragma_index_info(?, 'main')", name)]
        for name in names
    ]


def _names(names: Iterable[str]) -> str:
    return ", ".join(quoted(name) for name in names)
