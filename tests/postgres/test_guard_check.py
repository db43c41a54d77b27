"""`pitr guard check` on PostgreSQL: what the text says, and what the catalog adds to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from pitr.errors import UsageError
from pitr.postgres.guard.cascade import Cascades
from pitr.postgres.guard.checking import check
from pitr.postgres.live.connection import connect
from tools.postgres_servers import Server

SCHEMA = """
CREATE SCHEMA s;
CREATE TYPE s.mood AS ENUM ('sad', 'ok');
CREATE TABLE orders (id int PRIMARY KEY, feeling s.mood);
CREATE TABLE lines (id int PRIMARY KEY, o int REFERENCES orders ON DELETE CASCADE);
CREATE TABLE notes (id int PRIMARY KEY, l int REFERENCES lines ON DELETE SET NULL);
CREATE TABLE s.inside (a int);
CREATE TABLE s."Odd;--" (a int) PARTITION BY LIST (a);
CREATE TABLE s.part PARTITION OF s."Odd;--" FOR VALUES IN (1);
CREATE MATERIALIZED VIEW many AS SELECT count(*) FROM s.inside;
CREATE FUNCTION wipe() RETURNS int LANGUAGE sql AS 'DELETE FROM orders RETURNING 1';
CREATE FUNCTION looks() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER note AFTER DELETE ON notes FOR EACH ROW EXECUTE FUNCTION noted();
"""
Found = list[tuple[str, str | None, str]]


@pytest.fixture
def cascades(shared_server: Server, database: str) -> Iterator[Cascades]:
    """The catalog of a database with tables that hang together."""
    shared_server.query(SCHEMA, database=database)
    with closing(connect(shared_server.url(), database=database)) as connection:
        yield Cascades(connection)


def seen(sql: str, catalog: Cascades | None = None) -> Found:
    """Return kind, table and severity of each finding."""
    return [(f.kind, f.table, f.severity.name.lower()) for f in check(sql, catalog)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("DELETE FROM a.t", [("delete", "a.t", "error")]),
        ("DELETE FROM t USING u WHERE t.id = u.id", [("delete", "t", "warning")]),
        ('UPDATE "T" SET a = 1', [("update", '"T"', "error")]),
        (
            "WITH d AS (DELETE FROM t RETURNING *), u AS (UPDATE v SET a = 1 WHERE b RETURNING *)"
            " INSERT INTO w SELECT * FROM d",
            [("delete", "t", "error"), ("update", "v", "warning")],
        ),
        (
            "MERGE INTO t USING s ON true WHEN MATCHED AND a THEN DELETE"
            " WHEN MATCHED THEN UPDATE SET a = 1",
            [("merge", "t", "warning")],
        ),
        ("INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 1",
         [("overwrite", "t", "warning")]),
        ("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", []),
        ("TRUNCATE a, b", [("truncate", "a", "error"), ("truncate", "b", "error")]),
        ("DROP TABLE a, s.b", [("drop_table", "a", "error"), ("drop_table", "s.b", "error")]),
        ("DROP SCHEMA s", []),
        ("DROP SCHEMA s CASCADE", [("drop_schema", None, "error")]),
        ("DROP INDEX i", []),
        ("DROP OWNED BY r", [("drop_owned", None, "error")]),
        ("DROP DATABASE d", [("drop_database", None, "error")]),
        ("ALTER TABLE t DROP COLUMN a, ALTER COLUMN b TYPE int USING b::int, ADD COLUMN c int",
         [("drop_column", "t", "error"), ("alter_type", "t", "warning")]),
        ("VACUUM FULL t", [("rewrite", "t", "note")]),
        ("VACUUM t", []),
        ("DO $$ BEGIN DELETE FROM t; END $$", [("opaque", None, "warning")]),
        ("CALL p(1)", [("opaque", None, "warning")]),
        ("SELECT count(*), mine(1) FROM t", [("opaque", None, "warning")]),
        ("SELECT count(*), pg_catalog.lower('a') FROM t", []),
        ("EXPLAIN DELETE FROM t", []),
        ("EXPLAIN ANALYZE DELETE FROM t", [("delete", "t", "error")]),
        ("PREPARE p AS DELETE FROM t", [("delete", "t", "error")]),
        ("CREATE TABLE n (a int); DELETE FROM n; DROP TABLE n", []),
        ("CREATE TEMP TABLE n AS SELECT 1; TRUNCATE n", []),
        ("CREATE TABLE IF NOT EXISTS n (a int); DELETE FROM n", [("delete", "n", "error")]),
        ("CREATE RULE r AS ON INSERT TO t DO ALSO DELETE FROM u", []),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'DELETE FROM t RETURNING 1'", []),
        ("COPY t FROM stdin;\n1\tDELETE FROM t;\n\\.\nDELETE FROM u", [("delete", "u", "error")]),
        ("\\set x 1\n\\i other.sql\nSELECT 1", [("opaque", None, "warning")]),
    ],
)  # fmt: skip
def test_statement_has_its_findings(sql: str, expected: Found) -> None:
    """By PostgreSQL's own parser; no server is needed."""
    assert seen(sql) == expected


def test_findings_begin_where_their_statement_does() -> None:
    """Also behind comments, umlauts and what is psql's."""
    sql = "-- ä; DELETE\n\\timing on\nSELECT 1;\n\n  /* ö */ DELETE FROM t;\nDROP TABLE u"
    found = check(sql, None)
    assert [sql.count("\n", 0, one.begin) + 1 for one in found] == [5, 6]
    assert [one.statement for one in found] == ["DELETE FROM t", "DROP TABLE u"]


def test_text_that_is_no_sql_is_refused_with_its_line() -> None:
    """Nobody shall think that there are no findings."""
    with pytest.raises(UsageError, match="in line 2"):
        check("SELECT 1;\nSELEC 2", None)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("DELETE FROM orders WHERE id = 1",
         {("delete", "public.orders", "warning"), ("delete", "public.lines", "warning"),
          ("update", "public.notes", "warning")}),
        ("TRUNCATE orders CASCADE",
         {("truncate", "public.orders", "error"), ("truncate", "public.lines", "error"),
          ("truncate", "public.notes", "error")}),
        ("TRUNCATE notes",
         {("truncate", "public.notes", "error"), ("opaque", "public.notes", "note")}),
        ('TRUNCATE s."Odd;--"',
         {("truncate", 's."Odd;--"', "error"), ("truncate", "s.part", "error")}),
        ("DROP SCHEMA s CASCADE",
         {("drop_schema", None, "error"), ("drop_table", "s.inside", "error"),
          ("drop_table", 's."Odd;--"', "error"), ("drop_table", "s.part", "error"),
          ("drop_table", "public.many", "note"), ("drop_column", "public.orders", "error")}),
        ("DROP TYPE s.mood CASCADE",
         {("drop_type", None, "error"), ("drop_column", "public.orders", "error")}),
        ("DROP TABLE orders CASCADE", {("drop_table", "public.orders", "error")}),
        ("SELECT wipe()", {("opaque", None, "warning")}),
        ("SELECT looks(), jsonb_path_query('{}', '$')", set()),
        ("DELETE FROM not_there", {("delete", "not_there", "error")}),
    ],
)  # fmt: skip
def test_catalog_adds_what_a_statement_reaches(
    cascades: Cascades, sql: str, expected: set[tuple[str, str | None, str]]
) -> None:
    """Foreign keys, partitions, dependencies, triggers, and whether a function can write."""
    assert set(seen(sql, cascades)) == expected
