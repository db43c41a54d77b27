"""Check a condition that a user wrote before it becomes part of a statement of ours.

A condition is put between parentheses. What could break out of them is found here by reading its
tokens; what it refers to is judged by SQLite, which prepares it against the past under an
authorizer that allows reading only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from pitr.errors import UsageError
from pitr.sqlite.statement.faults import sqlite_faults, sqlite_says
from pitr.sqlite.statement.readonly import INTERNAL_PRAGMAS, ReadingAuthorizer, reading_only
from pitr.sqlite.statement.tokens import Token, fault_of, quoted, tokens_of

_HINT = "Give one SQL condition over the columns of the table, as in: id > 100 AND note IS NULL."


def check_expression(connection: apsw.Connection, table_name: str, text: str) -> str:
    """Return the condition, trimmed, once it is known to be one expression that only reads.

    Columns and functions are looked up as of the connection's database; subselects on other
    tables are allowed, and read the same database. Raises UsageError naming the offending part.
    """
    tokens = list(tokens_of(text))
    fault = fault_of(tokens, text) or _shape_fault(tokens)
    if fault is not None:
        raise _refusal(fault)
    condition = text.strip()
    _prepare(connection, table_name, condition)
    return condition


def _shape_fault(tokens: list[Token]) -> str | None:
    if not tokens:
        return "It is empty."
    if tokens[0].is_word("SELECT", "VALUES", "WITH"):
        return f"It is a whole statement beginning with {tokens[0].text}, not a condition."
    open_signs: list[Token] = []
    for token in tokens:
        if token.is_sign(";"):
            return f"The ; at character {token.begin + 1} would end the condition."
        if token.is_sign("("):
            open_signs.append(token)
        if token.is_sign(")"):
            if not open_signs:
                return f"The ) at character {token.begin + 1} closes nothing."
            open_signs.pop()
    if open_signs:
        return f"The ( at character {open_signs[-1].begin + 1} is never closed."
    return None


def _prepare(connection: apsw.Connection, table_name: str, condition: str) -> None:
    """Let SQLite compile the condition; EXPLAIN compiles all of it and runs nothing."""
    statement = f"EXPLAIN SELECT 1 FROM main.{quoted(table_name)} WHERE (\n{condition}\n)"
    authorizer = ReadingAuthorizer(INTERNAL_PRAGMAS)
    with sqlite_faults("the condition cannot be checked"), _strict_strings(connection):
        try:
            with reading_only(connection, authorizer):
                connection.execute(statement).fetchall()
        except apsw.SQLError as error:
            raise _refusal(sqlite_says(error)) from error
        except UnicodeEncodeError as error:
            raise _refusal("It is not valid UTF-8.") from error


@contextmanager
def _strict_strings(connection: apsw.Connection) -> Iterator[None]:
    """Refuse "text" in double quotes that names no column, which SQLite would take as a string.

    A mistyped column name would otherwise be a constant, and choose all rows or none.
    """
    before = connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, -1)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    try:
        yield
    finally:
        connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, before)


def _refusal(detail: str) -> UsageError:
    return UsageError("the condition on the rows cannot be used", detail=detail, hint=_HINT)
