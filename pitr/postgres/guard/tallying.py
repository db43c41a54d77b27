"""What was done to the tables of a running sidecar between two moments: counted from its own WAL.

As `guard run` counts what a command did to production: the WAL is read by the code of `log`, with
readings of the catalog before and after. What TRUNCATE and DROP took away is no row in the WAL: it
is what a table had before, and what came in, less what it has after.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg

from pitr.archive.local import LocalStore
from pitr.errors import SidecarFailed
from pitr.postgres.catalog.catalog_map import CatalogMap
from pitr.postgres.catalog.catalog_reader import CatalogReader
from pitr.postgres.guard.confining import SidecarRoles
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.log.log import LogStretch, transactions
from pitr.postgres.replay.target_tables import Connection, statement_of
from pitr.postgres.tables.columns import dropped_columns, read_columns
from pitr.postgres.tables.name import TableName
from pitr.postgres.wal_store.folder import WalFolder
from pitr.vocabulary.change import TableChange
from pitr.vocabulary.position import Lsn

# So that the WAL tells of every row, and nothing of it goes away.
SETTINGS = {"wal_level": "replica", "wal_keep_size": "1000000000", "synchronous_commit": "local"}
_COUNTED = "rm"
_READINGS = "readings"


@dataclass(frozen=True, slots=True)
class CountedTable:
    """One table of the sidecar; `rows` None where they were not counted."""

    oid: int
    name: TableName
    kind: str
    parent: int | None
    rows: int | None


@dataclass(frozen=True, slots=True)
class Tally:
    """What was done, in the order of commits; columns that were dropped; rows taken away whole.

    `gone` are the rows that each truncated or dropped table lost, those deleted one by one
    included. `uncounted` are the OIDs of tables that went without their rows having been counted.
    """

    changes: list[TableChange]
    columns: dict[str, tuple[str, ...]]
    gone: dict[str, int]
    uncounted: frozenset[int]


class Counter:
    """Stands at the moment before; `tally` tells what was done since."""

    def __init__(self, roles: SidecarRoles, recovered: Collection[int]) -> None:
        """Count the rows of the tables recovered, by OID. Raises psycopg.Error.

        Readings of the catalog are kept in the folder of the sidecar's server.
        """
        self._roles = roles
        self._store = LocalStore(roles.started.server.folder / _READINGS)
        self._store.make()
        with closing(roles.keeper()) as connection:
            self._database = _database(connection)
            self._before = _count(connection, recovered)
            self._columns = read_columns(connection)
            self._reader = CatalogReader(self._store, self._connect)
            self._reader.refresh([self._database])
            self._begin = _switch(connection)[1]

    def tally(self) -> Tally:
        """Return what was done up to now. Raises psycopg.Error, SidecarFailed."""
        with closing(self._roles.keeper()) as connection:
            end, _, timeline = _switch(connection)
            self._reader.refresh([self._database])
            columns = dropped_columns(self._columns, read_columns(connection), None)
            there = {oid for oid, *_ in _tables(connection)}
            changes = self._changes(timeline, end)
            names = {change.table for change in changes if change.truncated or change.dropped}
            hit = [table for table in self._before.values() if self._shown(table, names) in names]
            after = _count(connection, [table.oid for table in hit if table.oid in there])
        gone: dict[str, int] = defaultdict(int)
        renewed: set[str] = set()
        for change in changes:
            if change.created:
                renewed.add(change.table)  # what comes in from now on is in another table
            elif change.table in names and (change.dropped or change.table not in renewed):
                gone[change.table] += change.inserted
        for table in hit:
            left = after[table.oid].rows if table.oid in after else 0
            gone[self._shown(table, names)] += (table.rows or 0) - (left or 0)
        lacking = (t.oid for t in hit if t.rows is None and t.kind in _COUNTED)
        return Tally(changes, columns, dict(gone), frozenset(lacking))

    def _changes(self, timeline: int, end: Lsn) -> list[TableChange]:
        wal = WalFolder(self._roles.started.server.data / "pg_wal")
        wal.refresh()
        catalog = CatalogMap(self._store)
        catalog.refresh()
        stretch = LogStretch(timeline, self._begin, self._begin, end, end)
        found = transactions(
            WalIndex(self._store, wal), catalog, stretch, default_database=self._roles.database
        )
        return [change for one in found for change in one.tables]

    def _shown(self, table: CountedTable, own: Collection[str]) -> str:
        """Return the name that a table's changes stand under: a partition's under the topmost."""
        while str(table.name) not in own and table.parent in self._before:
            table = self._before[table.parent]
        return str(table.name)

    def _connect(self, _: str | None) -> Connection:
        return self._roles.keeper()


def _database(connection: Connection) -> int:
    statement = "SELECT oid::bigint FROM pg_database WHERE datname = current_database()"
    return int(_row(connection, statement)[0])


def _switch(connection: Connection) -> tuple[Lsn, Lsn, int]:
    """Flush the WAL; return where it ends, where it goes on, in a new segment, and the timeline."""
    (end,) = _row(connection, "SELECT pg_switch_wal()::text")
    begin, name = _row(
        connection,
        "SELECT lsn::text, pg_walfile_name(lsn) FROM pg_current_wal_insert_lsn() AS lsn",
    )
    return Lsn.parse(end), Lsn.parse(begin), int(name[:8], 16)


def _tables(connection: Connection) -> Sequence[Any]:
    return connection.execute(statement_of("rehearsal_tables")).fetchall()


def _count(connection: Connection, wanted: Collection[int]) -> dict[int, CountedTable]:
    """Return all tables by OID; the rows of those that are wanted are counted."""
    found = {}
    for oid, schema, name, kind, persistence, parent in _tables(connection):
        rows = 0 if persistence == "u" else None  # of an unlogged table nothing was recovered
        if oid in wanted and kind in _COUNTED:
            table = TableName(schema, name).sql
            try:
                rows = int(_row(connection, f"SELECT count(*) FROM ONLY {table}")[0])
            except psycopg.errors.ObjectNotInPrerequisiteState:
                rows = 0  # a materialized view that was never filled
        found[oid] = CountedTable(oid, TableName(schema, name), kind, parent, rows)
    return found


def _row(connection: Connection, statement: str) -> tuple[Any, ...]:
    row = connection.execute(statement.encode()).fetchone()
    if row is None:
        raise SidecarFailed("the sidecar does not answer", detail=statement, hint="Report this.")
    return row
