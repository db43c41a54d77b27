"""Read the live catalog into the archive: which database, table and file there is, and since when.

Every database is read through a connection of its own, in one read-only transaction that waits for
nobody. What is stored is what changed since the reading before. Readings may be made by several
processes at once (capture, backup): each names the reading that it rests on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from datetime import UTC, datetime
from importlib.resources import files

from pitr.archive.store import ObjectExists, Store
from pitr.errors import PitrError
from pitr.postgres.catalog.catalog_map import CatalogMap
from pitr.postgres.catalog.reading import Database, Reading, Relation, encode_reading
from pitr.postgres.catalog.watching import WATCHED
from pitr.postgres.live.connection import Connection
from pitr.postgres.live.faults import server_faults
from pitr.vocabulary.position import Lsn

# A chain of deltas this long is ended by a full reading, and so is one that has grown as large.
_CHAIN_MAX = 64
_BEGIN = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
_TIMEOUTS = "SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '60s'"
_DATABASES = (
    "SELECT oid, datname, dattablespace, datallowconn FROM pg_catalog.pg_database ORDER BY oid"
)
_SUPERUSER = "SELECT rolname FROM pg_catalog.pg_roles WHERE oid = 10"


class CatalogReader:
    """Reads the catalog of a cluster into its archive. Not safe for several threads at once."""

    def __init__(self, store: Store, connect: Callable[[str | None], Connection]) -> None:
        """`connect` opens a connection to a database by name, or to any one; see connection.py."""
        self._store = store
        self._connect = connect
        self._map = CatalogMap(store)
        self._is_loaded = False
        self._known: dict[int, tuple[str | None, dict[int, Relation], int, int]] = {}
        self._listed: tuple[list[Database], str | None] | None = None

    def refresh(self, databases: Iterable[int] | None = None) -> Lsn:
        """Read the list of databases, and the catalogs of these OIDs (None: of all), and store it.

        Returns the position of the reading: whatever was committed before it is in it. A database
        that cannot be connected to is noted in the list. Raises SourceUnreachable, SourceUnusable,
        DatabaseRefused when not even the list can be read, StoreUnusable.
        """
        if not self._is_loaded:
            self._map.refresh()
            self._is_loaded = True
        with closing(self._connect(None)) as connection:
            position, timeline, time_us, rows, superuser = _read_list(connection)
        wanted = {row[0] for row in rows} if databases is None else set(databases)
        found = []
        for oid, name, tablespace, allows in rows:
            fault = None if allows else "it does not allow connections"
            if allows and oid in wanted:
                fault = self._refresh_database(oid, name)
            elif allows:
                fault = self._fault_of(oid)
            found.append(Database(oid, name, tablespace, fault))
        self._store_list(
            Reading(
                database=0,
                position=position,
                timeline=timeline,
                time_us=time_us,
                databases=found,
                superuser=superuser,
            )
        )
        return Lsn(position)

    def moved_catalogs(self) -> list[tuple[int, int]]:
        """Return the files (database, number) of catalogs to watch that are not at their OIDs.

        Known of the databases that this object has read; see CatalogWatch.learn.
        """
        return [
            (0 if relation.is_shared else database, relation.file)
            for database, (_, relations, _, _) in self._known.items()
            for oid in WATCHED
            if (relation := relations.get(oid)) is not None and relation.file != oid
        ]

    def _fault_of(self, oid: int) -> str | None:
        """Return what the list said of a database that is not read this time."""
        known = self._listed[0] if self._listed else self._map.databases()
        return next((database.fault for database in known if database.oid == oid), None)

    def _store_list(self, reading: Reading) -> None:
        if self._listed is None:
            self._listed = (self._map.databases(), self._map.superuser())
        if (reading.databases, reading.superuser) != self._listed:
            self._put(reading)
            self._listed = (reading.databases, reading.superuser)

    def _refresh_database(self, oid: int, name: str) -> str | None:
        """Read one database and store what changed; return why it could not be read."""
        try:
            with closing(self._connect(name)) as connection:
                position, timeline, time_us, relations = _read_relations(connection)
        except PitrError as error:
            return error.message
        base, before, chain, weight = self._last(oid)
        changed = [r for r in relations.values() if before.get(r.oid) != r]
        gone = [old for old in before if old not in relations]
        if base is not None and not changed and not gone:
            return None
        weight += len(changed) + len(gone)
        is_full = base is None or chain >= _CHAIN_MAX or weight > len(relations)
        reading = Reading(
            database=oid,
            position=position,
            timeline=timeline,
            time_us=time_us,
            base=None if is_full else base,
            relations=list(relations.values()) if is_full else changed,
            gone=[] if is_full else gone,
        )
        key = self._put(reading)
        self._known[oid] = (key, relations, *((0, 0) if is_full else (chain + 1, weight)))
        return None

    def _last(self, oid: int) -> tuple[str | None, dict[int, Relation], int, int]:
        """Return the last reading of a database: key, relations, deltas and entries in its chain.

        It is the last one that this process stored or found when it began. Another process may have
        stored one since: both rest on what they name, so neither is wrong.
        """
        if oid not in self._known:
            key, relations = self._map.newest(oid)
            # How large the deltas of an older chain are is not known: one long enough is ended.
            chain = self._map.chain_length(key) if key else 0
            self._known[oid] = (key, relations, chain, 0)
        return self._known[oid]

    def _put(self, reading: Reading) -> str:
        key, data = encode_reading(reading)
        with suppress(ObjectExists):
            self._store.put_new(key, data)
        return key


def _read_list(
    connection: Connection,
) -> tuple[int, int, int, list[tuple[int, str, int, bool]], str | None]:
    with server_faults("cannot read the list of databases"):
        position, timeline, time_us = _position(connection)
        connection.execute(_BEGIN)
        connection.execute(_TIMEOUTS)
        rows = connection.execute(_DATABASES).fetchall()
        superuser = connection.execute(_SUPERUSER).fetchone()
        connection.execute("COMMIT")
    databases = [(row[0], row[1], row[2], row[3]) for row in rows]
    return position, timeline, time_us, databases, superuser[0] if superuser else None


def _read_relations(connection: Connection) -> tuple[int, int, int, dict[int, Relation]]:
    with server_faults("cannot read the catalog"):
        # Before the snapshot, so that the snapshot has all that was committed before it.
        position, timeline, time_us = _position(connection)
        connection.execute(_BEGIN)
        connection.execute(_TIMEOUTS)
        rows = connection.execute(_statement("catalog_relations")).fetchall()
        connection.execute("COMMIT")
    return position, timeline, time_us, {row[0]: Relation(*row) for row in rows}


def _position(connection: Connection) -> tuple[int, int, int]:
    row = connection.execute(_statement("catalog_position")).fetchone()
    assert row is not None
    moment: datetime = row[2]
    elapsed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    time_us = (elapsed.days * 86400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds
    return Lsn.parse(row[0]).value, int(row[1], 16), time_us


def _statement(name: str) -> str:
    return files("pitr.sql").joinpath(f"postgres/{name}.sql").read_text()
