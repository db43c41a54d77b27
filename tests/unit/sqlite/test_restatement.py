"""The text of a table for another schema, and what an index is over. Judge: SQLite itself."""

from __future__ import annotations

import apsw
import pytest

from pitr.sqlite.statement.restatement import index_parts, restated

TABLES = {
    "plain": "a INTEGER PRIMARY KEY, b TEXT",
    "column reference": "a PRIMARY KEY, b REFERENCES p, c TEXT NOT NULL",
    "named columns": 'a, b INT REFERENCES "the parent" ("x y") ON DELETE SET NULL, c',
    "named constraint": "a, b CONSTRAINT goes REFERENCES p(x) MATCH FULL NOT NULL, c DEFAULT 3",
    "all clauses": "a, b REFERENCES p ON UPDATE CASCADE ON DELETE NO ACTION NOT DEFERRABLE "
    "INITIALLY IMMEDIATE CHECK (b > 1), c",
    "deferrable": "a, b REFERENCES p DEFERRABLE UNIQUE, c REFERENCES q(z) DEFERRABLE INITIALLY "
    "DEFERRED",
    "table constraint": "a, b, c, FOREIGN KEY (a, b) REFERENCES p (x, y) ON DELETE RESTRICT",
    "two constraints": "a, b, UNIQUE (a), CONSTRAINT k FOREIGN KEY (a) REFERENCES p, "
    "FOREIGN KEY (b) REFERENCES q ON DELETE SET DEFAULT, CHECK (a > b)",
    "comment": "a /* REFERENCES p */, b -- FOREIGN KEY (b) REFERENCES p\n, c DEFAULT 'REFERENCES'",
    "quoted words": 'a, "REFERENCES" TEXT, [FOREIGN] INT, `KEY` INT',
    "options": "a TEXT PRIMARY KEY, b INT REFERENCES p",
}


@pytest.mark.parametrize("name", TABLES)
def test_restated_table_has_the_columns_and_takes_rows_without_parents(name: str) -> None:
    """Promise: same columns and uniqueness in the other schema, and no foreign key left."""
    connection = apsw.Connection(":memory:")
    connection.execute("ATTACH '' AS elsewhere")
    options = " STRICT, WITHOUT ROWID" if name == "options" else ""
    connection.execute(f'CREATE TABLE "a table" ({TABLES[name]}\n){options}')
    sql = connection.execute("SELECT sql FROM main.sqlite_schema WHERE type = 'table'").get
    connection.execute(restated(sql, "elsewhere"))
    connection.pragma("foreign_keys", True)
    columns = "SELECT * FROM pragma_table_xinfo('a table', ?) ORDER BY cid"
    here = connection.execute(columns, ("main",)).fetchall()
    assert connection.execute(columns, ("elsewhere",)).fetchall() == here
    indexes = "SELECT name, \"unique\", origin FROM pragma_index_list('a table', ?)"
    assert (
        connection.execute(indexes, ("elsewhere",)).fetchall()
        == connection.execute(indexes, ("main",)).fetchall()
    )
    keys = "SELECT count(*) FROM pragma_foreign_key_list('a table', 'elsewhere')"
    assert connection.execute(keys).get == 0
    connection.close()


@pytest.mark.parametrize(
    ("text", "parts", "condition"),
    [
        ("(a)", ("a",), ""),
        ("(a DESC, b ASC)", ("a", "b"), ""),
        ("(lower(a), b COLLATE NOCASE DESC)", ("lower(a)", "b COLLATE NOCASE"), ""),
        ("(a || ',' || b, substr(c, 1, 2))", ("a || ',' || b", "substr(c, 1, 2)"), ""),
        ('("desc") WHERE a > 1 AND b IN (1, 2)', ('"desc"',), "a > 1 AND b IN (1, 2)"),
    ],
)
def test_index_parts_are_those_that_the_text_lists(
    text: str, parts: tuple[str, ...], condition: str
) -> None:
    """Promise: each indexed expression as written, directions left out."""
    assert index_parts(f"CREATE UNIQUE INDEX i ON t {text}") == (parts, condition)
