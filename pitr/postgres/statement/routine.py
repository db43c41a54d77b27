"""What the body of a function names, as far as its text tells: that of an EXECUTE does not."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pglast import ast, parse_plpgsql, parse_sql
from pglast.parser import ParseError

from pitr.postgres.statement.reading import Named, names_of

_ASSIGNMENT = re.compile(r"\s*[\w\".\[\]]+\s*:?=")
_EXPRESSION, _ASSIGNMENTS = 2, 3  # RawParseMode of the parser: PLPGSQL_EXPR, PLPGSQL_ASSIGN1


def names_in_routine(
    language: str, body: str, definition: str, *, may_reach_out: bool = False
) -> Named:
    """Return what a function of SQL or PL/pgSQL names; nothing for other languages.

    `definition` is the whole CREATE FUNCTION. What cannot be parsed is passed over. Raises
    UsageError for a call that reaches outside the database, unless `may_reach_out`.
    """
    texts = [body] if language == "sql" else []
    if language == "plpgsql":
        texts = list(_expressions(definition))
    relations: frozenset[str] = frozenset()
    functions: frozenset[tuple[str | None, str]] = frozenset()
    for text in texts:
        for statement in _parsed(text):
            found = names_of(statement, may_reach_out=may_reach_out)
            relations, functions = relations | found.relations, functions | found.functions
    return Named(relations, functions)


def _parsed(text: str) -> Iterator[ast.Node]:
    try:
        yield from (raw.stmt for raw in parse_sql(text) if raw.stmt is not None)
    except ParseError:
        return


def _expressions(definition: str) -> Iterator[str]:
    """Yield the SQL in a PL/pgSQL function, each as a statement."""
    try:
        todo: list[object] = list(parse_plpgsql(definition))
    except ParseError:
        return
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            todo += node
        elif isinstance(node, dict):
            query, mode = node.get("query"), node.get("parseMode", 0)
            if isinstance(query, str):
                if mode == _ASSIGNMENTS:
                    query = _ASSIGNMENT.sub("", query, count=1)
                yield f"SELECT {query}" if mode >= _EXPRESSION else query
            todo += node.values()
