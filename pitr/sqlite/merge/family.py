"""Gather what foreign keys say about a plan: whose they are, and where parents are looked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import apsw

from pitr.sqlite.diff.states import BEFORE, LIVE
from pitr.sqlite.merge.foreign_keys import ForeignKeys
from pitr.sqlite.merge.parents import Family
from pitr.sqlite.merge.planned import PlannedTable
from pitr.sqlite.past.tables import folded
from pitr.sqlite.statement.tokens import quoted


def gather_family(
    connection: apsw.Connection,
    tables: Sequence[PlannedTable],
    *,
    past: str | None = None,
    whole: Sequence[str] = (),
    noted: str | None = None,
) -> Family:
    """Return the planned tables with their foreign keys.

    `past` is the schema of the whole state at the target, `whole` names tables of which `before`
    has every row. A table that is made anew has its keys in the past alone.
    """
    live = _tables(connection, LIVE)
    then = {name: (past, real) for name, real in _tables(connection, past).items()} if past else {}
    then |= {folded(name): (BEFORE, name) for name in whole}
    made = [table for table in tables if table.created_by is not None]
    absent = {
        name: _primary_key(connection, schema or BEFORE, real)
        for name, (schema, real) in then.items()
        if name not in live
    }
    absent |= {folded(table.name): table.definition.key_columns for table in made}
    keys = ForeignKeys.read(connection, LIVE, absent=absent)
    for schema in (BEFORE, past) if made else ():
        if schema is not None:
            others = ForeignKeys.read(connection, schema, parents=LIVE, absent=absent)
            keys = keys.with_keys_of([table.name for table in made], others)
    return Family(
        keys=keys,
        tables=tables,
        live_tables=frozenset(live),
        then={name: f"{schema}.{quoted(real)}" for name, (schema, real) in then.items()},
        noted=noted,
    )


def _tables(connection: apsw.Connection, schema: str) -> Mapping[str, str]:
    names = connection.execute(f"SELECT name FROM {schema}.sqlite_schema WHERE type = 'table'")
    return {folded(str(name)): str(name) for (name,) in names}


def _primary_key(connection: apsw.Connection, schema: str, table: str) -> tuple[str, ...]:
    rows = connection.execute(
        "SELECT name FROM pragma_table_info(?, ?) WHERE pk ORDER BY pk", (table, schema)
    )
    return tuple(str(name) for (name,) in rows)
