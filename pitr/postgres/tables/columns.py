"""The columns of all tables of one database at one moment, and which of them were dropped since."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from pitr.postgres.live.connection import Connection
from pitr.postgres.live.faults import server_faults
from pitr.postgres.tables.name import TableName
from pitr.postgres.tables.session import statement_text


@dataclass(slots=True)
class TableColumns:
    """One table: its columns by number, those dropped by number with the xid that dropped them.

    `is_empty` says that its file has no block; a table without rows may have some.
    """

    table: TableName
    is_empty: bool
    columns: dict[int, str] = field(default_factory=dict)
    dropped: dict[int, int] = field(default_factory=dict)


def read_columns(connection: Connection) -> dict[int, TableColumns]:
    """Return the tables of the connection's database by OID. Raises as `server_faults` says."""
    found: dict[int, TableColumns] = {}
    with server_faults("cannot read the columns of the tables"):
        rows = connection.execute(statement_text("guarded_columns")).fetchall()
    for oid, schema, name, is_empty, number, column, is_dropped, xid in rows:
        table = found.setdefault(oid, TableColumns(TableName(schema, name), is_empty))
        if is_dropped:
            table.dropped[number] = xid
        else:
            table.columns[number] = column
    return found


def dropped_columns(
    before: dict[int, TableColumns], after: dict[int, TableColumns], by: Collection[int] | None
) -> dict[str, tuple[str, ...]]:
    """Return, by the name that a table had before, which of its columns are dropped since.

    `by` are the xids that count, sub-transactions included; None: all. Of tables that are gone
    nothing is said. A dropped column whose row in pg_attribute was written again since is not
    told from one that another transaction dropped.
    """
    found = {}
    for oid, table in before.items():
        dropped = after[oid].dropped if oid in after else {}
        names = [
            name
            for number, name in table.columns.items()
            if number in dropped and (by is None or dropped[number] in by)
        ]
        if names:
            found[str(table.table)] = tuple(names)
    return found


def dropping_xids(before: dict[int, TableColumns], after: dict[int, TableColumns]) -> set[int]:
    """Return the xids of the transactions or sub-transactions that dropped columns in between."""
    return {
        xid
        for oid, table in before.items()
        if oid in after
        for number, xid in after[oid].dropped.items()
        if number in table.columns
    }
