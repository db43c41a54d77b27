"""Which tables a migration touches, by its text and by the catalogs that it will run on.

Named are those of its statements and of the functions, triggers and DO bodies behind them, as far
as they can be read. What only shows as it runs, as a text that EXECUTE runs, is found then: the
file of the table is not there. Only an exception handler could hide that: then all tables count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pglast import ast, enums

from pitr.postgres.guard.acts import Statement
from pitr.postgres.replay.statement_tables import Reached, follow_names
from pitr.postgres.replay.target_tables import (
    Connection,
    TargetRelation,
    named_relations,
    statement_of,
)
from pitr.postgres.statement.reading import Named, names_of, nodes_of
from pitr.postgres.statement.routine import names_in_routine
from pitr.postgres.tables.name import quoted

_HANDLER = re.compile(r"\bexception\s+when\b", re.IGNORECASE)
_BODY = "CREATE FUNCTION pitr_body() RETURNS void LANGUAGE plpgsql AS {}"
_TABLES = "rpm"
_DROPPED = (
    enums.ObjectType.OBJECT_TABLE,
    enums.ObjectType.OBJECT_MATVIEW,
    enums.ObjectType.OBJECT_VIEW,
    enums.ObjectType.OBJECT_INDEX,
)


@dataclass(frozen=True, slots=True)
class Touched:
    """The tables to recover, and those among them whose rows are in no WAL: unlogged ones."""

    tables: list[TargetRelation]
    unlogged: list[TargetRelation]


def names_in(statement: Statement) -> tuple[Named, bool]:
    """Return what a statement names, and whether a handler in it may hide what it touches."""
    found = names_of(statement.node, may_reach_out=True)
    bodies = [str(text) for text in _do_bodies(statement.node)]
    inside = [
        names_in_routine("plpgsql", "", _BODY.format(_dollars(one)), may_reach_out=True)
        for one in bodies
    ]
    relations = found.relations.union(_dropped(statement.node), *(one.relations for one in inside))
    functions = found.functions.union(*(one.functions for one in inside))
    return Named(relations, functions), any(map(_HANDLER.search, bodies))


def touched_tables(
    connection: Connection, role: str, statements: Sequence[Statement], more: Iterable[int] = ()
) -> Touched:
    """Return the tables that statements touch when a role runs them; `more` are OIDs besides.

    `connection` is a superuser's, to a server with the catalogs. What reaches out of the database
    is for the sidecar to refuse.
    """
    with connection.transaction():
        connection.execute(statement_of("rehearsal_search_path"), {"role": role})
        reached, hides = Reached(relations=set(more)), False
        for statement in statements:
            named, has_handler = names_in(statement)
            hides |= has_handler
            follow_names(connection, connection, named, None, reached)
        hides |= _close(connection, reached)
    known = {relation.oid: relation for relation in named_relations(connection)}
    chosen = known.keys() if hides else reached.relations & known.keys()
    found = [known[oid] for oid in sorted(chosen) if known[oid].kind in _TABLES]
    return Touched(
        tables=[table for table in found if table.persistence == "p"],
        unlogged=[table for table in found if table.persistence == "u"],
    )


def _close(connection: Connection, reached: Reached) -> bool:
    """Add all that is reached by itself; return whether a handler may hide what is touched."""
    hides = False
    asked: set[int] = set()
    size = -1
    while len(reached.relations) + len(reached.functions) != size:
        size = len(reached.relations) + len(reached.functions)
        wanted = {"relations": list(reached.relations)}
        for kind, oid in _rows(connection, "rehearsal_reach", wanted):
            (reached.relations if kind == "relation" else reached.functions).add(oid)
        pending = reached.functions - asked
        asked |= pending
        for routine in _rows(connection, "routine_bodies", {"functions": list(pending)}):
            _, language, _, body, definition, path = routine
            hides |= language == "plpgsql" and _HANDLER.search(body) is not None
            named = names_in_routine(language, body, definition, may_reach_out=True)
            follow_names(connection, connection, named, path, reached)
    return hides


def _dropped(node: Any) -> set[str]:
    """Return the relations that DROP names, as SQL writes them."""
    if not isinstance(node, ast.DropStmt) or node.removeType not in _DROPPED:
        return set()
    return {".".join(quoted(word.sval) for word in item) for item in node.objects or ()}


def _do_bodies(node: ast.Node) -> list[str]:
    return [
        item.arg.sval
        for one in nodes_of(node)
        if isinstance(one, ast.DoStmt)
        for item in one.args or ()
        if item.defname == "as"
    ]


def _dollars(body: str) -> str:
    mark = "$pitr$"
    while mark in body:
        mark = f"{mark[:-1]}x$"
    return f"{mark}{body}{mark}"


def _rows(connection: Connection, name: str, values: Mapping[str, object]) -> list[Any]:
    return connection.execute(statement_of(name), values).fetchall()
