"""Transactions in which the texts of values mean the same on every server.

Everything is set for the transaction alone, so that it holds behind a pooler that hands out
sessions by the transaction, and nothing is left behind in one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.resources import files
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from pitr.postgres.live.connection import USER_SETTINGS
from pitr.postgres.live.connection import Connection as Connection

Values = dict[str, Any] | tuple[Any, ...] | list[Any] | None

# What the text of a value, or which rows are seen, depends on.
VALUE_SETTINGS = {
    "search_path": "pg_catalog, pg_temp",
    "bytea_output": "hex",
    "DateStyle": "ISO, YMD",
    "extra_float_digits": "1",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "lc_monetary": "C",
    "xmloption": "content",
    "xmlbinary": "base64",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "quote_all_identifiers": "off",
    "row_security": "off",  # a policy that would hide rows is an error then
}
_PINNED = VALUE_SETTINGS | {
    "work_mem": "64MB",
    "temp_buffers": "32MB",
    "default_statistics_target": "20",  # of temporary tables: how many rows, and how many alike
    "jit": "off",  # compiling our long expressions takes longer than running them
}


def run(connection: Connection, statement: str, values: Values = None) -> psycopg.Cursor[Any]:
    """Run one statement. It is text made by this package; values of users go in `values`."""
    return connection.execute(statement.encode(), values)


def rows_of(connection: Connection, statement: str, values: Values = None) -> list[Any]:
    """Run one statement and return its rows."""
    return run(connection, statement, values).fetchall()


def value_of(connection: Connection, statement: str, values: Values = None) -> Any:
    """Run one statement and return the first value of its first row."""
    row = run(connection, statement, values).fetchone()
    assert row is not None, statement
    return row[0]


@lru_cache(maxsize=64)
def statement_text(name: str) -> str:
    """Return the statement in sql/postgres/<name>.sql."""
    return files("pitr.sql").joinpath(f"postgres/{name}.sql").read_text()


def begin(connection: Connection, how: str = "ISOLATION LEVEL REPEATABLE READ READ WRITE") -> None:
    """Begin a transaction and pin its settings; temporary tables are made in it."""
    run(connection, f"BEGIN {how}")
    pin(connection)


def pin(connection: Connection) -> None:
    """Pin the settings of the transaction that is open."""
    _set(connection, _PINNED)


def unpin(connection: Connection) -> None:
    """Give the settings that the code of users may rest on back to what the role has."""
    for name in USER_SETTINGS:
        run(connection, f"SET LOCAL {name} TO DEFAULT")


def use_own_path(connection: Connection) -> None:
    """Let names be found where the role's own sessions find them."""
    run(connection, "SET LOCAL search_path TO DEFAULT")


def set_local(connection: Connection, settings: dict[str, str]) -> None:
    """Set parameters until the transaction ends."""
    _set(connection, settings)


def _set(connection: Connection, settings: dict[str, str]) -> None:
    calls = ", ".join("pg_catalog.set_config(%s, %s, true)" for _ in settings)
    values = [text for pair in settings.items() for text in pair]
    run(connection, f"SELECT {calls}", values)


def is_open(connection: Connection) -> bool:
    """Return whether a transaction is open, failed or not."""
    status = connection.info.transaction_status
    return status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)


@contextmanager
def reading(connection: Connection) -> Iterator[None]:
    """Run the block in one pinned snapshot, and leave nothing of it."""
    begin(connection, "ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        yield
    finally:
        if is_open(connection):
            run(connection, "ROLLBACK")
