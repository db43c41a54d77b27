"""Statements of users, taken apart: what they name, and what may not be asked of the past."""

from __future__ import annotations

import pytest

from pitr.errors import UsageError
from pitr.postgres.statement.reading import Named, read_statement
from pitr.postgres.statement.routine import names_in_routine


@pytest.mark.parametrize(
    ("statement", "relations", "functions"),
    [
        ("SELECT f(1) FROM a, b.c WHERE x IN (SELECT 1 FROM d)", {"a", "b.c", "d"}, {(None, "f")}),
        ("WITH a AS (SELECT * FROM a) SELECT * FROM a JOIN e ON true", {"a", "e"}, set()),
        ('TABLE "Größe Ü"."x ""y"""', {'"Größe Ü"."x ""y"""'}, set()),
        ("EXPLAIN ANALYZE SELECT s.g() FROM z -- and no more", {"z"}, {("s", "g")}),
        ("VALUES (1), (2);", set(), set()),
        ("WITH RECURSIVE t AS (SELECT 1 UNION SELECT n FROM t, u) TABLE t", {"u"}, set()),
    ],
)
def test_what_a_statement_names(
    statement: str, relations: set[str], functions: set[tuple[str | None, str]]
) -> None:
    """Tables but not names of WITH, functions with their schema."""
    assert read_statement(statement) == Named(frozenset(relations), frozenset(functions))


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM a", "DELETE"),
        ("WITH x AS (UPDATE a SET b = 1 RETURNING *) SELECT * FROM x", "UPDATE"),
        ("MERGE INTO a USING b ON true WHEN MATCHED THEN DELETE", "MERGE"),
        ("EXPLAIN ANALYZE INSERT INTO a VALUES (1)", "INSERT"),
        ("SELECT * INTO a FROM b", "INTO"),
        ("SELECT * FROM (SELECT * FROM a FOR UPDATE) AS b", "lock"),
        ("COPY a TO PROGRAM 'cat'", "COPY"),
        ("COPY a TO '/x'", "COPY"),
        ("DROP TABLE a", "DROP"),
        ("DO $$ BEGIN END $$", "DO"),
        ("CALL f()", "CALL"),
        ("SELECT 1; SELECT 2", "not one statement but 2"),
        ("", "empty"),
        ("SELEC 1", "syntax error"),
        ("SELECT 'a", "unterminated"),
        ("SELECT pg_read_file('x')", "pg_read_file"),
        ("SELECT 1 WHERE pg_catalog.lo_export(1, '/x') > 0", "lo_export"),
        ("SELECT * FROM public.dblink('', 'SELECT 1') AS t (i int)", "dblink"),
        ("SELECT * FROM pg_ls_dir('.')", "pg_ls_dir"),
    ],
)
def test_statement_that_does_more_than_read_is_refused(statement: str, said: str) -> None:
    """In plain words that name what is in the way."""
    with pytest.raises(UsageError) as raised:
        read_statement(statement)
    assert said in f"{raised.value.message} {raised.value.detail}"


def test_bodies_of_functions_name_tables_too() -> None:
    """SQL as it is; of PL/pgSQL declarations, assignments, loops; an EXECUTE says nothing."""
    assert names_in_routine("sql", "SELECT 1 FROM a; SELECT g()", "") == Named(
        frozenset({"a"}), frozenset({(None, "g")})
    )
    body = """CREATE FUNCTION f(x int) RETURNS SETOF int LANGUAGE plpgsql AS $$
        DECLARE n int := (SELECT 1 FROM declared); r record;
        BEGIN
            SELECT count(*) INTO n FROM selected WHERE id = x;
            n := n + (SELECT 2 FROM assigned);
            FOR r IN SELECT * FROM looped LOOP PERFORM h(n); END LOOP;
            IF EXISTS (SELECT 1 FROM tested) THEN RETURN QUERY SELECT 1 FROM returned; END IF;
            EXECUTE 'SELECT 1 FROM ' || made_up();
        END $$"""
    found = names_in_routine("plpgsql", "", body)
    names = {"declared", "selected", "assigned", "looped", "tested", "returned"}
    assert found.relations == names
    assert {(None, "h"), (None, "made_up")} <= found.functions
    assert names_in_routine("c", "symbol", "") == Named(frozenset(), frozenset())
    assert names_in_routine("sql", "SELECT 1 FROM", "") == Named(frozenset(), frozenset())


def test_function_that_hides_a_call_outside_is_refused() -> None:
    """The body of a function is judged like the statement that calls it."""
    with pytest.raises(UsageError, match="pg_read_file may not be called"):
        names_in_routine("sql", "SELECT pg_read_file('x')", "")
