"""Queries of a user: one statement that reads, its columns and rows, or an error that says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from pitr.errors import CorruptObject, PitrError, TableUnknown, UsageError
from pitr.sqlite.past.replay import open_past
from pitr.sqlite.statement.readonly import run_query
from tests.sqlite.past_files import FilePages, write_database

FILL = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"


@pytest.fixture
def source(tmp_path: Path) -> FilePages:
    path = write_database(
        tmp_path / "source.db",
        [
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, status)",
            f"{FILL} INSERT INTO orders SELECT i, 'status ' || i FROM n",
            "CREATE VIRTUAL TABLE notes USING fts5(text)",
            "CREATE VIRTUAL TABLE words USING fts5vocab(notes, row)",
            "CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1)",
            "INSERT INTO notes VALUES ('red fish')",
            "INSERT INTO boxes VALUES (7, 1, 2)",
            "CREATE TABLE bad (t)",
            "INSERT INTO bad VALUES (CAST(x'41ff' AS TEXT))",
        ],
    )
    return FilePages(path)


@pytest.fixture
def past(source: FilePages) -> Iterator[apsw.Connection]:
    with open_past(source) as connection:
        yield connection


@pytest.mark.parametrize(
    ("statement", "columns", "rows"),
    [
        ("SELECT id, status AS s FROM orders WHERE id = 2", ("id", "s"), [(2, "status 2")]),
        ("select 1 as one ; -- the end", ("one",), [(1,)]),
        ("SELECT id FROM orders WHERE id < 0", ("id",), []),
        ("VALUES (1, 2), (3, 4)", ("column1", "column2"), [(1, 2), (3, 4)]),
        ("WITH x(a) AS (SELECT 5) SELECT a FROM x", ("a",), [(5,)]),
        ("/* why */ SELECT text FROM notes WHERE notes MATCH 'fish'", ("text",), [("red fish",)]),
        ("SELECT term FROM words ORDER BY 1", ("term",), [("fish",), ("red",)]),
        ("SELECT id FROM boxes WHERE x0 > 0", ("id",), [(7,)]),
        ("PRAGMA quick_check", ("quick_check",), [("ok",)]),
        ("PRAGMA integrity_check(orders)", ("integrity_check",), [("ok",)]),
        ("SELECT name FROM pragma_table_info('orders')", ("name",), [("id",), ("status",)]),
        ("SELECT hex(t) AS h FROM bad", ("h",), [("41FF",)]),
        ("SELECT ';' AS \"a;b\"", ("a;b",), [(";",)]),
    ],
)
def test_reading_statement_returns_columns_and_rows(
    past: apsw.Connection, statement: str, columns: tuple[str, ...], rows: list[tuple[object, ...]]
) -> None:
    """Names of the columns come even when there is no row."""
    result = run_query(past, statement)

    assert result.columns == columns
    assert list(result.rows) == rows
    assert past.authorizer is None


def test_explain_is_allowed(past: apsw.Connection) -> None:
    """A plan can be asked for."""
    result = run_query(past, "EXPLAIN QUERY PLAN SELECT * FROM orders WHERE id = 1")
    assert "SEARCH orders" in str(list(result.rows))


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("", "The text is empty"),
        (" ; ", "The text is empty"),
        ("SELECT 1; SELECT 2", "A second statement begins after the ; at character 9"),
        ("SELECT ?", "The bind parameter ?"),
        ("SELECT 'x", "The ' at character 8 is never closed"),
        ("DELETE FROM orders", "DELETE is not allowed"),
        ("WITH x AS (SELECT 1) DELETE FROM orders", "DELETE orders is not allowed"),
        ("WITH x AS (SELECT 1) UPDATE orders SET status = 1", "UPDATE orders is not allowed"),
        ("WITH x AS (SELECT 1) DELETE FROM boxes_node", "writes is not allowed"),
        ("EXPLAIN DROP TABLE orders", "is not allowed"),
        ("CREATE TEMP TABLE x (a)", "CREATE is not allowed"),
        ("ATTACH 'x' AS y", "ATTACH is not allowed"),
        ("EXPLAIN ATTACH 'x' AS y", "ATTACH x is not allowed"),
        ("BEGIN", "BEGIN is not allowed"),
        ("VACUUM INTO 'x'", "VACUUM is not allowed"),
        ("PRAGMA journal_mode = WAL", "PRAGMA journal_mode is not allowed"),
        ("PRAGMA user_version = 5", "PRAGMA user_version is not allowed"),
        ("PRAGMA wal_checkpoint", "PRAGMA wal_checkpoint is not allowed"),
        ("PRAGMA writable_schema(1)", "PRAGMA writable_schema is not allowed"),
        ("SELECT load_extension('x')", "the function load_extension is not allowed"),
        ("SELECT secret(1)", "no such function: secret"),
        ("SELECT FROM", 'near "FROM"'),
        ("SELECT t FROM bad", "not valid UTF-8"),
    ],
)
def test_anything_else_is_refused_by_name(past: apsw.Connection, statement: str, says: str) -> None:
    """The error names what was not allowed, or passes on what SQLite says."""
    with pytest.raises(UsageError) as caught:
        list(run_query(past, statement).rows)

    assert says in f"{caught.value.message} | {caught.value.detail}"


def test_unknown_table_is_told_with_the_nearest_name(past: apsw.Connection) -> None:
    """A mistyped name is a table error, not a syntax error."""
    with pytest.raises(TableUnknown) as caught:
        run_query(past, "SELECT * FROM orderz")
    assert caught.value.hint == "Did you mean orders?"


def test_rows_given_up_after_the_end_raise_nothing(source: FilePages) -> None:
    """Whoever stops reading early may let the result go after the database is closed."""
    with open_past(source) as past:
        result = run_query(past, "SELECT * FROM orders")
        next(result.rows)

    result.rows.close()


def test_rows_are_read_as_they_are_asked_for(past: apsw.Connection, source: FilePages) -> None:
    """The first row of a large table costs a few pages; a fault later comes out of the rows."""
    result = run_query(past, "SELECT * FROM orders")
    assert next(result.rows) == (1, "status 1")
    assert len(set(source.read)) < 10

    fault: PitrError = CorruptObject("log/1", "Its checksum is wrong.")
    source.fails = dict.fromkeys(range(30, source.page_count), fault)
    with pytest.raises(CorruptObject):
        list(result.rows)
