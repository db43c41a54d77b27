"""Read tables from the catalog of one database, inside a pinned transaction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pitr.postgres.tables.definition import (
    Column,
    ColumnSequence,
    ForeignKey,
    Table,
    Trigger,
    UniqueIndex,
)
from pitr.postgres.tables.name import TableName
from pitr.postgres.tables.session import Connection, rows_of, statement_text, value_of


def read_table(
    connection: Connection, name: TableName | None = None, *, oid: int | None = None
) -> Table | None:
    """Return a table by its name or OID, None when there is none. Raises psycopg.Error."""
    wanted = {
        "oid": oid,
        "schema": name.schema if name else None,
        "name": name.name if name else None,
    }
    found = rows_of(connection, statement_text("table_relation"), wanted)
    if not found:
        return None
    (
        oid, schema, relation, kind, persistence, replica_identity, has_children, hides_rows,
        has_row_security, partitions, rows, size, privileges, owner, rules, changes, inserts,
    ) = found[0]  # fmt: skip
    assert oid is not None
    return Table(
        oid=oid,
        name=TableName(schema, relation),
        kind=kind,
        persistence=persistence,
        replica_identity=replica_identity,
        has_children=has_children,
        hides_rows=hides_rows,
        has_row_security=has_row_security,
        partitions=partitions,
        estimated_rows=rows,
        size_bytes=size,
        privileges=frozenset(privileges),
        owner=owner,
        rules=tuple(rules),
        changes_published_by=tuple(changes),
        inserts_published_by=tuple(inserts),
        columns=tuple(_column(row) for row in _rows(connection, "table_columns", oid)),
        indexes=tuple(_index(row) for row in _rows(connection, "table_indexes", oid)),
        triggers=tuple(_trigger(row) for row in _rows(connection, "table_triggers", oid)),
        checks=tuple((row[0], row[1]) for row in _rows(connection, "table_checks", oid)),
        sequences=tuple(_sequence(row) for row in _rows(connection, "table_sequences", oid)),
    )


def read_foreign_keys(connection: Connection, oids: Iterable[int]) -> list[ForeignKey]:
    """Return the foreign keys that tables have, or that refer to them."""
    rows = rows_of(connection, statement_text("table_foreign_keys"), {"oids": list(oids)})
    return [
        ForeignKey(
            name=row[0],
            child_oid=row[1],
            child=TableName(row[2], row[3]),
            child_columns=tuple(row[4]),
            parent_oid=row[5],
            parent=TableName(row[6], row[7]),
            parent_columns=tuple(row[8]),
            operators=tuple(row[9]),
            on_update=row[10],
            on_delete=row[11],
            match=row[12],
        )
        for row in rows
    ]


def read_dependents(connection: Connection, oid: int) -> list[str]:
    """Return the materialised views that read a table."""
    return [str(name) for (name,) in _rows(connection, "table_dependents", oid)]


def _rows(connection: Connection, statement: str, oid: int) -> list[Any]:
    return rows_of(connection, statement_text(statement), {"oid": oid})


def _column(row: Any) -> Column:
    return Column(
        number=row[0],
        name=row[1],
        type=row[2],
        plain_type=row[3],
        type_oid=row[4],
        base_oid=row[5],
        kind=row[6],
        has_own_text_cast=row[7],
        not_null=row[8],
        default=row[9],
        identity=row[10],
        generated=row[11],
        collation=row[12],
        is_bytewise=row[13],
        privileges=frozenset(row[14]),
        labels=None if row[15] is None else tuple(row[15]),
    )


def _index(row: Any) -> UniqueIndex:
    return UniqueIndex(
        name=row[0],
        columns=tuple(row[1]),
        parts=tuple(row[2]),
        operators=tuple(row[3]),
        predicate=row[4],
        is_primary=row[5],
        nulls_not_distinct=row[6],
        is_deferrable=row[7],
        is_exclusion=row[8],
        is_replica_identity=row[9],
        has_own_collation=row[10],
    )


def _trigger(row: Any) -> Trigger:
    return Trigger(
        name=row[0],
        function=row[1],
        timing=row[2],
        for_each_row=row[3],
        events=tuple(row[4]),
        assigned=tuple(row[5]),
        is_unconditional=row[6],
    )


def _sequence(row: Any) -> ColumnSequence:
    return ColumnSequence(
        oid=row[0],
        name=TableName(row[1], row[2]),
        column=row[3],
        increment=row[4],
        lowest=row[5],
        highest=row[6],
        may_set=row[7],
        may_read=row[8],
    )


def table_names(connection: Connection) -> dict[str, TableName]:
    """Return the tables of a database by `schema.name` as it is spelled, nothing quoted."""
    rows = rows_of(
        connection,
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
        " ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')",
    )
    return {f"{schema}.{name}": TableName(schema, name) for schema, name in rows}


def system_identifier(connection: Connection) -> int:
    """Return what tells a cluster from all others that initdb made."""
    return int(value_of(connection, "SELECT system_identifier FROM pg_catalog.pg_control_system()"))
