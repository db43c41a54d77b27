"""Run one query that can only read, and say what it would have done otherwise.

Three fences, each enough by itself: the first word of the statement, an authorizer while SQLite
prepares and runs it, and SQLite's own word that the prepared statement is read-only. The database
behind it is opened read-only as well.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache

import apsw

from pitr.errors import TableUnknown, UsageError
from pitr.sqlite.statement.faults import sqlite_faults, sqlite_says
from pitr.sqlite.statement.tokens import statement_tokens
from pitr.vocabulary.query import QueryResult

_ONE_SELECT = "Give one SELECT; nothing but reading is possible here."
_FIRST_WORDS = ("SELECT", "VALUES", "WITH", "EXPLAIN", "PRAGMA")

# With these an argument chooses what to look at; with the others it would set something.
_PRAGMAS_WITH_ARGUMENT = frozenset(
    {
        "foreign_key_check",
        "foreign_key_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "integrity_check",
        "quick_check",
        "table_info",
        "table_list",
        "table_xinfo",
    }
)
_PRAGMAS_WITHOUT_ARGUMENT = frozenset(
    {
        "application_id",
        "auto_vacuum",
        "collation_list",
        "compile_options",
        "data_version",
        "database_list",
        "encoding",
        "freelist_count",
        "function_list",
        "module_list",
        "page_count",
        "page_size",
        "pragma_list",
        "schema_version",
        "user_version",
    }
)
READING_PRAGMAS = _PRAGMAS_WITH_ARGUMENT | _PRAGMAS_WITHOUT_ARGUMENT
# FTS asks these by itself while it is read.
INTERNAL_PRAGMAS = frozenset({"data_version", "page_size"})

# Not part of the library as we load it; refused by name all the same, should a build bring them.
_REFUSED_FUNCTIONS = frozenset(
    {"edit", "eval", "fts3_tokenizer", "load_extension", "readfile", "writefile", "zipfile"}
)
_READING = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE})
_WRITING = frozenset({apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE})
# An R-Tree prepares its own writes on its shadow tables as soon as it is opened.
_RTREE_SHADOWS = ("_node", "_parent", "_rowid")
_NO_TABLE = re.compile(r"no such table: (?:main\.)?(.*)", re.DOTALL)


class ReadingAuthorizer:
    """Let SQLite read, and nothing else; `refused` names the first thing it was not allowed."""

    def __init__(self, pragmas: frozenset[str]) -> None:
        self._pragmas = pragmas
        self.refused: str | None = None

    def __call__(
        self,
        operation: int,
        first: str | None,
        second: str | None,
        database: str | None,
        view: str | None,
    ) -> int:
        """Answer SQLite's question; see `sqlite3_set_authorizer`."""
        allowed = (
            operation in _READING
            or (operation == apsw.SQLITE_READ and self._is_readable(first or ""))
            or (operation == apsw.SQLITE_FUNCTION and second not in _REFUSED_FUNCTIONS)
            or (operation == apsw.SQLITE_PRAGMA and self._is_reading(first or "", second))
            or (operation in _WRITING and (first or "").endswith(_RTREE_SHADOWS))
        )
        if not allowed and self.refused is None:
            self.refused = _describe(operation, first, second)
        return apsw.SQLITE_OK if allowed else apsw.SQLITE_DENY

    def _is_readable(self, table: str) -> bool:
        pragma = _pragma_tables().get(table.lower())
        return pragma is None or pragma in self._pragmas

    def _is_reading(self, pragma: str, argument: str | None) -> bool:
        name = pragma.lower()
        return name in self._pragmas and (argument is None or name in _PRAGMAS_WITH_ARGUMENT)


@cache
def _pragma_tables() -> dict[str, str]:
    """Return the pragmas that SQLite knows, by the name of their table-valued function."""
    with closing(apsw.Connection(":memory:")) as connection:
        names = [str(row[0]) for row in connection.execute("PRAGMA pragma_list")]
    return {f"pragma_{name}": name for name in names}


def _describe(operation: int, first: str | None, second: str | None) -> str:
    if operation == apsw.SQLITE_FUNCTION:
        return f"the function {second}"
    if operation == apsw.SQLITE_READ:
        return f"the table-valued function {first}"
    name = apsw.mapping_authorizer_function[operation]
    action = str(name).removeprefix("SQLITE_").replace("_", " ")
    return " ".join(part for part in (action, first) if part)


@contextmanager
def reading_only(connection: apsw.Connection, authorizer: ReadingAuthorizer) -> Iterator[None]:
    """Keep the connection to reading for a while; a refusal becomes a UsageError that names it."""
    before = connection.authorizer
    connection.authorizer = authorizer
    try:
        yield
    except apsw.Error as error:
        if authorizer.refused is None:
            raise
        raise UsageError(
            f"{authorizer.refused} is not allowed here",
            detail="SELECT, VALUES, WITH, EXPLAIN are, and PRAGMA that only show something.",
            hint=_ONE_SELECT,
        ) from error
    finally:
        # Rows that were never read to their end are given up only after the connection is closed.
        with suppress(apsw.ConnectionClosedError):
            connection.authorizer = before


def run_query(connection: apsw.Connection, text: str) -> QueryResult:
    """Run one reading statement.

    Raises UsageError for anything but one query, TableUnknown with the nearest names. Errors that
    appear while rows are read come out of `rows`.
    """
    first = statement_tokens(text)[0]
    if not first.is_word(*_FIRST_WORDS):
        raise UsageError(
            f"{first.text.upper()} is not allowed here",
            detail=f"Only {', '.join(_FIRST_WORDS)} begin a statement that reads.",
            hint=_ONE_SELECT,
        )
    columns: list[str] = []
    rows = _run(connection, text, columns)
    first_row = next(rows, None)
    return QueryResult(tuple(columns), _chained(first_row, rows))


def _run(
    connection: apsw.Connection, statement: str, columns: list[str]
) -> Iterator[apsw.SQLiteValues]:
    def look(cursor: apsw.Cursor, _statement: str, _bindings: object) -> bool:
        if not cursor.is_readonly:
            raise UsageError("a statement that writes is not allowed here", hint=_ONE_SELECT)
        columns.extend(column[0] for column in cursor.get_description())
        return True

    cursor = connection.cursor()
    cursor.exec_trace = look
    with _query_faults(connection), reading_only(connection, ReadingAuthorizer(READING_PRAGMAS)):
        yield from cursor.execute(statement)


def _chained(
    first: apsw.SQLiteValues | None, rest: Iterator[apsw.SQLiteValues]
) -> Iterator[apsw.SQLiteValues]:
    if first is not None:
        yield first
        yield from rest


@contextmanager
def _query_faults(connection: apsw.Connection) -> Iterator[None]:
    try:
        with sqlite_faults("the query failed"):
            try:
                yield
            except apsw.SQLError as error:
                raise _query_error(connection, error) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            "a value of the result is text that is not valid UTF-8",
            detail=f"It begins with {error.object[:20]!r}.",
            hint="Select CAST(column AS BLOB) or hex(column) instead.",
        ) from error


def _query_error(connection: apsw.Connection, error: apsw.SQLError) -> UsageError:
    missing = _NO_TABLE.fullmatch(str(error))
    if missing:
        return table_unknown(connection, missing[1])
    return UsageError("the query cannot be run", detail=sqlite_says(error), hint=_ONE_SELECT)


def table_unknown(
    connection: apsw.Connection, name: str, detail: str | None = None
) -> TableUnknown:
    """Return the error for a table that is not there, with the names that come nearest."""
    known = "SELECT name FROM main.sqlite_schema WHERE type IN ('table', 'view') ORDER BY name"
    names = [str(row[0]) for row in connection.execute(known)]
    by_lower = {known_name.lower(): known_name for known_name in names}
    near = [by_lower[found] for found in difflib.get_close_matches(name.lower(), by_lower, n=3)]
    hint = f"Did you mean {' or '.join(near)}?" if near else None
    if hint is None and names:
        shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        hint = f"There are: {shown}."
    return TableUnknown(f"no table {name} at this target", detail=detail, hint=hint)
