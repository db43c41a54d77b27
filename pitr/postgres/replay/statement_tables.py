"""Which tables a statement reads, as the catalogs at the target have it.

The statement names relations and functions; views are followed through the catalog, functions
through their bodies. What only shows when it runs, such as a text that a function makes up and
EXECUTEs, is found then: the table's file is not there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg.pq import DiagnosticField, ExecStatus

from pitr.errors import UsageError
from pitr.postgres.replay.sidecar_query import refused
from pitr.postgres.replay.target_tables import (
    Connection,
    TargetRelation,
    named_relations,
    require_recoverable,
    statement_of,
    unknown_table,
)
from pitr.postgres.statement.reading import Named
from pitr.postgres.statement.routine import names_in_routine

_UNDEFINED_TABLE = b"42P01"
_QUOTED = re.compile('"(.+)"')
# relkind: what has rows of its own, where views only lead to it.
_HAS_ROWS = frozenset("rpmSt")


@dataclass(slots=True)
class Reached:
    """OIDs of the relations and functions that something leads to."""

    relations: set[int] = field(default_factory=set)
    functions: set[int] = field(default_factory=set)


def tables_read(
    connection: Connection, reader: Connection, statement: str, named: Named
) -> list[TargetRelation]:
    """Return the tables that a statement reads when `reader` runs it.

    `connection` is a superuser's. Raises TableUnknown, and UsageError for a statement that the
    server refuses by the catalogs, for a table that cannot be recovered, and for a function that is
    not confined to the database.
    """
    known = {relation.oid: relation for relation in named_relations(connection)}
    _check(reader, statement, list(known.values()))
    reached = Reached()
    follow_names(connection, reader, named, None, reached)
    for oid in reached.relations & known.keys():
        if known[oid].kind != "v":
            require_recoverable(known[oid])
    asked: set[int] = set()
    while pending := reached.functions - asked:
        asked |= pending
        for routine in _rows(connection, "routine_bodies", {"functions": list(pending)}):
            name, language, is_confined, body, definition, path = routine
            if not is_confined:
                raise UsageError(
                    f"the statement calls {name}, which is written in {language}",
                    detail="That language is not confined to the database.",
                    hint="Ask for the rows without it.",
                )
            follow_names(
                connection, reader, names_in_routine(language, body, definition), path, reached
            )
    return [
        known[oid]
        for oid in sorted(reached.relations & known.keys())
        if known[oid].kind in _HAS_ROWS and known[oid].persistence == "p"
    ]


def _check(reader: Connection, statement: str, known: list[TargetRelation]) -> None:
    """Let the server parse and analyse the statement, which reads no table."""
    result = reader.pgconn.prepare(b"", statement.encode())
    if result.status != ExecStatus.FATAL_ERROR:
        return
    if result.error_field(DiagnosticField.SQLSTATE) == _UNDEFINED_TABLE:
        said = (result.error_field(DiagnosticField.MESSAGE_PRIMARY) or b"").decode()
        name = _QUOTED.search(said)
        if name:
            raise unknown_table(known, name[1], name[1].rpartition(".")[2])
    raise refused(result)


def follow_names(
    connection: Connection, reader: Connection, named: Named, path: str | None, reached: Reached
) -> None:
    """Add what these names mean on a search_path, None for that of the session, and lead to."""
    relations = _relations(reader, named.relations, path)
    functions = sorted(named.functions, key=str)
    found = _rows(
        connection,
        "functions_named",
        {"schemas": [schema for schema, _ in functions], "names": [name for _, name in functions]},
    )
    wanted = {"relations": list(relations), "functions": [oid for (oid,) in found]}
    for kind, oid in _rows(connection, "reached_objects", wanted):
        (reached.relations if kind == "relation" else reached.functions).add(oid)


def _relations(reader: Connection, names: Collection[str], path: str | None) -> list[int]:
    with reader.transaction():
        if path is not None:
            reader.execute("SELECT set_config('search_path', %s, true)", [path])
        found = reader.execute(
            "SELECT to_regclass(name)::oid FROM unnest(%s::text[]) AS name", [list(names)]
        ).fetchall()
    return [oid for (oid,) in found if oid is not None]


def _rows(connection: Connection, name: str, values: Mapping[str, object]) -> list[Any]:
    return connection.execute(statement_of(name), values).fetchall()
