"""Ask a user's condition of single rows of the past, without the table they were in.

The rows are written into a table in memory that has the columns of the original, with their
types, collations and generated values, and none of the constraints that could refuse a row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import apsw

from pitr.errors import UsageError
from pitr.sqlite.file.page import Cell, Value
from pitr.sqlite.past.definition import (
    ColumnDefinition,
    TableDefinition,
    tolerant_connection,
)
from pitr.sqlite.past.replay import BUILTIN_COLLATIONS
from pitr.sqlite.past.tables import folded
from pitr.sqlite.rows.rowdiff import TableSide
from pitr.sqlite.statement.expression import check_expression
from pitr.sqlite.statement.faults import sqlite_says
from pitr.sqlite.statement.tokens import Token, TokenKind, quoted, tokens_of, unquoted

_HINT = "Find the values first with 'pitr sql', then write them into the condition."


class Evaluator:
    """One condition over one definition of a table. Use from one thread; close it."""

    def __init__(
        self, definition: TableDefinition, table_name: str, encoding: str, condition: str
    ) -> None:
        """Check the condition. Raises UsageError naming what it contains that cannot be asked.

        `table_name` is what the condition calls the table, whatever its name was at the time.
        """
        refuse_other_rows(condition, table_name)
        self._definition = definition
        self._connection = tolerant_connection()
        self._connection.execute(f"PRAGMA encoding = '{encoding.replace('-', '')}'")
        self.columns = _create(self._connection, definition, table_name)
        checked = check_expression(self._connection, table_name, condition)
        table = quoted(table_name)
        self._checked, self._table_name = checked, table_name
        self._matches = f"SELECT EXISTS (SELECT 1 FROM {table} WHERE (\n{checked}\n))"
        self._delete = f"DELETE FROM {table}"
        self._has_rowid_apart = definition.rowid_column is None and definition.rowid_name
        self._stored = [n for n, column in enumerate(definition.columns) if column.is_stored]
        names = [quoted(definition.columns[n].name) for n in self._stored]
        if self._has_rowid_apart:
            names.append(str(definition.rowid_name))
        marks = ", ".join("?" * len(names))
        self._insert = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"

    def close(self) -> None:
        """Forget the rows and the table."""
        self._connection.close()

    def find(self, side: TableSide, cells: Sequence[Cell]) -> int | None:
        """Return the position of the first of the rows that the condition is true for."""
        if not self._is_true_for_any(side, cells):
            return None
        if len(cells) == 1:
            return 0
        half = len(cells) // 2
        found = self.find(side, cells[:half])
        if found is not None:
            return found
        found = self.find(side, cells[half:])
        return None if found is None else found + half

    def _is_true_for_any(self, side: TableSide, cells: Sequence[Cell]) -> bool:
        self._load(side, cells)
        try:
            return bool(self._connection.execute(self._matches).get)
        except apsw.SQLError as error:
            raise UsageError(
                "the condition cannot be asked of a row of the past",
                detail=sqlite_says(error),
                hint="Use columns whose values are stored and functions of SQLite's own.",
            ) from error

    def _load(self, side: TableSide, cells: Sequence[Cell]) -> None:
        self._connection.execute(self._delete)
        self._connection.executemany(self._insert, [self._bindings(side, cell) for cell in cells])

    def _bindings(self, side: TableSide, cell: Cell) -> list[Value]:
        values = side.values(cell)
        bindings = [values[column] for column in self._stored]
        if self._has_rowid_apart:
            bindings.append(cell.rowid)
        return bindings

    def row(self, side: TableSide, cell: Cell) -> dict[str, Value]:
        """Return a row by column name, generated columns included where they can be computed."""
        self._load(side, [cell])
        rows = self._connection.execute(f"SELECT * FROM {quoted(self._table_name)}").fetchall()
        return dict(zip(self.columns, rows[0], strict=True))

    def statement(self, name: str) -> str:
        """Return a SELECT of one row that the condition is true for, from the table `name`."""
        names = ", ".join(map(quoted, self.columns))
        return (
            f"SELECT {names} FROM main.{quoted(name)} AS {quoted(self._table_name)}"
            f" WHERE (\n{self._checked}\n) LIMIT 1"
        )


def refuse_other_rows(condition: str, table_name: str) -> None:
    """Raise UsageError for a condition that looks at more than the row it is asked of.

    Subselects would see the changed rows only, and so give wrong answers.
    """
    tokens = list(tokens_of(condition))
    for before, token in zip([None, *tokens], tokens, strict=False):
        names_table = before is not None and before.is_word("IN") and _is_name(token)
        if token.is_word("SELECT") or names_table:
            what = "a subselect" if token.is_word("SELECT") else f"the table {unquoted(token)}"
            raise UsageError(
                "the condition on the rows cannot be used here",
                detail=f"It looks at {what} at character {token.begin + 1}; "
                f"only columns of {table_name} itself can be asked of a row that is gone.",
                hint=_HINT,
            )


def _is_name(token: Token) -> bool:
    return token.kind in (TokenKind.WORD, TokenKind.QUOTED)


def _create(connection: apsw.Connection, definition: TableDefinition, table_name: str) -> list[str]:
    """Make the table and return its columns.

    Columns generated by functions of the application are left out.
    """
    columns = list(definition.columns)
    while True:
        try:
            connection.execute(_table_sql(definition, table_name, columns))
            return [column.name for column in columns]
        except apsw.SQLError as error:
            missing = re.fullmatch(r"no such (?:function|column): (.+)", str(error))
            lacking = [c for c in columns if missing and _mentions(c, missing[1])]
            if not lacking:
                raise
            columns = [column for column in columns if column not in lacking]


def _mentions(column: ColumnDefinition, name: str) -> bool:
    names = (unquoted(token) for token in tokens_of(column.expression or ""))
    return folded(name) in map(folded, names)


def _table_sql(
    definition: TableDefinition, table_name: str, columns: Sequence[ColumnDefinition]
) -> str:
    """Return the CREATE TABLE; a STORED generated column takes the stored value."""
    parts = [_column_sql(definition, column) for column in columns]
    ending = ""
    if definition.key:
        names = (
            f"{quoted(definition.columns[part.column].name)} COLLATE {_known(part.collation)}"
            for part in definition.key
        )
        parts.append(f"PRIMARY KEY ({', '.join(names)})")
        ending = " WITHOUT ROWID"
    return f"CREATE TABLE {quoted(table_name)} ({', '.join(parts)}){ending}"


def _column_sql(definition: TableDefinition, column: ColumnDefinition) -> str:
    is_rowid = definition.columns.index(column) == definition.rowid_column
    parts = [quoted(column.name), column.affinity, "PRIMARY KEY" if is_rowid else ""]
    parts.append(f"COLLATE {quoted(column.collation)}")
    if column.expression is not None:
        parts.append(f"AS ({column.expression})")
    return " ".join(part for part in parts if part)


def _known(collation: str) -> str:
    # Rows are ordered by the key's collation, which must be one that can compare.
    return folded(collation) if collation.upper() in BUILTIN_COLLATIONS else "BINARY"
