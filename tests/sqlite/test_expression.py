"""A condition by a user: one expression that reads, or an error that names what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from pitr.errors import UsageError
from pitr.sqlite.past.replay import open_past
from pitr.sqlite.statement.expression import check_expression
from tests.sqlite.past_files import APPLICATION, FilePages, write_database


@pytest.fixture
def past(tmp_path: Path) -> Iterator[apsw.Connection]:
    path = write_database(
        tmp_path / "source.db",
        [
            'CREATE TABLE orders (id INTEGER PRIMARY KEY, status TEXT, total REAL, "odd);--" INT)',
            "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT COLLATE backwards)",
            "CREATE VIRTUAL TABLE notes USING fts5(text)",
            "CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1)",
            "CREATE VIEW open_orders AS SELECT * FROM orders WHERE status = 'open'",
            "INSERT INTO orders VALUES (1, 'open', 2.5, NULL)",
        ],
        APPLICATION,
    )
    with open_past(FilePages(path)) as connection:
        yield connection


@pytest.mark.parametrize(
    "text",
    [
        "id = 42",
        "  id = 42\n",
        "status IN ('a;b', ')', '--', '/*', 'it''s') OR status IS NULL",
        "orders.id > 1 AND \"status\" <> 'x' AND [status] = `status`",
        '"odd);--" = 1',
        "id = 1 -- a comment to the end",
        "id /* ; ) */ = 1",
        "(id, status) IN (SELECT id, name FROM customers)",
        "EXISTS (SELECT 1 FROM open_orders AS o WHERE o.id = orders.id)",
        "id IN (WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 9)"
        " SELECT i FROM n)",
        "id IN (SELECT value FROM json_each('[1, 2]'))",
        "id IN (SELECT rowid FROM notes WHERE notes MATCH 'fish')",
        "id IN (SELECT id FROM boxes WHERE x0 > 1)",
        "id > (SELECT max(id) - 10 FROM orders)",
        "total BETWEEN 0x10 AND 1.5e3 AND status LIKE 'a%' AND status COLLATE NOCASE = 'x'",
        "datetime('now') > status AND lower(status) = 'x' AND total -> 'a' IS NULL",
        "x'00ff' <> status",
        "Größe" and "status = 'Größe'",
        "1",
    ],
)
def test_condition_that_reads_is_accepted(past: apsw.Connection, text: str) -> None:
    """It comes back trimmed, and runs between parentheses."""
    condition = check_expression(past, "orders", text)

    assert condition == text.strip()
    past.execute(f"SELECT 1 FROM orders WHERE (\n{condition}\n)").fetchall()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id=1) or (1=1", "The ) at character 5 closes nothing"),
        ("(id = 1", "The ( at character 1 is never closed"),
        ("((id = 1)", "The ( at character 1 is never closed"),
        ("id = 1; DROP TABLE orders", "The ; at character 7 would end"),
        ("  id = 1;", "The ; at character 9 would end"),
        ("status = 'open", "The ' at character 10 is never closed"),
        ('"id = 1', 'The " at character 1 is never closed'),
        ("[id = 1", "The [ at character 1 is never closed"),
        ("id = 1 /* and", "The /* at character 8 is never closed"),
        ("id = ?", "The bind parameter ? at character 6"),
        ("id = ?17", "The bind parameter ?17"),
        ("id = :id", "The bind parameter :id"),
        ("id = @id", "The bind parameter @id"),
        ("id = $id", "The bind parameter $id"),
        ("", "It is empty"),
        (" -- only a comment", "It is empty"),
        ("id = 1\0 OR 1", "A NUL character stands at character 7"),
        ("id = '\udcff'", "not valid UTF-8"),
        ("SELECT id FROM orders", "a whole statement beginning with SELECT"),
        ("with x as (select 1) select 1", "a whole statement beginning with with"),
        ("id = 1 ORDER BY id", 'near "ORDER"'),
        ("id = 1 UNION SELECT 1", 'near "UNION"'),
        ("id, status", "row value misused"),
        ("idd = 1", "no such column: idd"),
        ('status = "open"', 'no such column: "open"'),
        ("secret(status) = 'x'", "no such function: secret"),
        ("lower(status, 1) = 'x'", "wrong number of arguments to function lower"),
        ("count(*) > 1", "misuse of aggregate function count"),
        ("row_number() OVER () = 1", "misuse of window function row_number"),
        ("EXISTS (SELECT 1 FROM nowhere)", "no such table: nowhere"),
        ("id IN (DELETE FROM orders RETURNING id)", 'near "DELETE"'),
        ("raise(ABORT, 'x')", "RAISE()"),
        ("load_extension('x') IS NULL", "the function load_extension"),
        ("fts3_tokenizer('simple') IS NULL", "the function fts3_tokenizer"),
        ("id IN (SELECT cid FROM pragma_table_info('orders'))", "pragma_table_info"),
        ("(SELECT * FROM pragma_user_version) = 0", "pragma_user_version"),
    ],
)
def test_anything_else_is_refused_by_name(past: apsw.Connection, text: str, says: str) -> None:
    """The error names the offending part, with its place where there is one."""
    with pytest.raises(UsageError) as caught:
        check_expression(past, "orders", text)

    assert says in f"{caught.value.message} | {caught.value.detail}"


def test_check_leaves_the_connection_as_it_was(past: apsw.Connection) -> None:
    """Neither a refusal nor an acceptance changes what the connection may do afterwards."""
    check_expression(past, "orders", "id = 1")
    with pytest.raises(UsageError):
        check_expression(past, "orders", "load_extension('x')")

    assert past.authorizer is None
    assert past.config(apsw.SQLITE_DBCONFIG_DQS_DML, -1) == 1
    assert past.execute("SELECT name FROM pragma_table_info('notes')").get == "text"


def test_check_runs_nothing(past: apsw.Connection) -> None:
    """A condition that would run for ever is checked at once."""
    endless = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"

    assert check_expression(past, "orders", f"id IN ({endless})")
