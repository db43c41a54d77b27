"""restore on PostgreSQL: surgical replay of chosen tables into a sidecar server that is stopped.

What only some options need is imported where it is used: loading it takes as long as half a
recovery of a small table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pitr.clock import now_us
from pitr.config import Settings
from pitr.errors import UsageError
from pitr.operations.postgres.absence import absence_explained
from pitr.operations.postgres.bases import nearest_base
from pitr.operations.postgres.reading import open_reading
from pitr.operations.postgres.sidecar import keep_server, new_sidecar, server_tools
from pitr.operations.restore import RestoreOutcome, RestoreRequest, uncounted
from pitr.postgres.base.archive import BaseArchive
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.live.connection import require_room
from pitr.postgres.replay.replay import (
    Replay,
    ReplayedTables,
    ReplaySource,
    StopPoint,
    open_source,
)
from pitr.postgres.replay.server import RunningServer
from pitr.postgres.replay.target_tables import (
    Connection,
    KinWish,
    TargetRelation,
    choose_tables,
    named_relations,
    search_path,
    split_name,
)
from pitr.postgres.tables.name import TableName
from pitr.recovery.folder import RecoveredTable, Recovery, new_recovery
from pitr.source_text import POSTGRES
from pitr.vocabulary.target import ResolvedTarget

# Where names are looked up when neither the command nor the source says.
DATABASE = "postgres"


@dataclass(frozen=True, slots=True)
class Way:
    """How a target is reached: the base and the WAL, an index of it or none, and the stop."""

    source: ReplaySource
    index: WalIndex | None
    stop: StopPoint
    target: ResolvedTarget
    database: str | None
    archive: str

    @property
    def bytes_read(self) -> int:
        """Return how many bytes were read so far, those of the index included."""
        return self.source.bytes_read + (self.index.bytes_read if self.index else 0)


def restore(
    settings: Settings, request: RestoreRequest, *, on_target: Callable[[ResolvedTarget], None]
) -> RestoreOutcome:
    """Restore tables into a server of their own, which is stopped again.

    `on_target` hears the resolved target before any work. Raises what resolving a target, reading
    base and WAL, and recovering raise; then there is no recovery, and no server is left.
    """
    return make_recovery(settings, request, on_target=on_target)


def make_recovery(
    settings: Settings,
    request: RestoreRequest,
    *,
    on_target: Callable[[ResolvedTarget], None],
    kind: str = "restore",
) -> RestoreOutcome:
    """Make a recovery of this kind; see `restore`."""
    now = now_us()
    named = _database(request)
    if request.load_into is not None:
        require_room(request.load_into)
    way = find_way(settings, request, now)
    tools = server_tools(settings, way.source.control.major)
    database = named or settings.database or way.database or DATABASE
    later = _later(settings, request, way, now)
    on_target(way.target)
    if later is not None:
        on_target(later.target)
    with new_recovery(settings.state, label=request.tables[0], now_us=now) as new:
        began = time.monotonic()
        folder = new_sidecar(settings, new, tools.account)
        replay = Replay(way.source, way.stop, tools, folder, way.index)
        kin = KinWish(request.with_parents, request.with_children)
        choice = _Choice(request)
        with absence_explained(settings, way.stop.lsn, has_archive=way.index is not None):
            catalogs = replay.find_chosen(database, choice.choose, kin=kin)
        replayed = replay.recover(catalogs, folder / "sidecar", choice.where)
        after = None
        if later is not None:
            again = Replay(later.source, later.stop, tools, folder, later.index)
            is_same = later.stop.timeline == way.stop.timeline and again.has_same_catalogs(
                catalogs, way.stop.lsn
            )
            names = [table.quoted for table in (*catalogs.tables, *catalogs.kin)]
            there = catalogs if is_same else again.find_tables(database, names, may_lack=True)
            after = again.recover(there, folder / "after")
        if request.load_into is not None:
            from pitr.postgres.replay.loading import gather, load

            with replay.asked(catalogs) as started:
                gather(started, database, catalogs.tables, new.id, choice.where)
                load(started, database, new.id, request.load_into)
        keep_server(new, replayed, after)
        recovery = Recovery(
            id=new.id,
            engine=POSTGRES,
            source=source.location if (source := settings.source_of(POSTGRES)) else None,
            archive=way.archive,
            created_us=now,
            target=request.target,
            resolved=way.target,
            sidecar=request.load_into or str(replayed.server.folder),
            tables=choice.recovered(replayed),
            where=choice.where,
            seconds=round(time.monotonic() - began, 3),
            bytes_read=way.bytes_read + (later.bytes_read if later else 0),
            kind=kind,
            until=later.target if later else None,
            with_parents=request.with_parents,
            with_children=request.with_children,
            kin=tuple(table.full_name for table in catalogs.kin),
        )
        new.finish(recovery)
    if request.compare and recovery.source is not None:
        from pitr.operations.postgres.counting import counted

        return RestoreOutcome(recovery, counted(settings, recovery))
    return RestoreOutcome(recovery, uncounted(recovery))


class _Choice:
    """The tables, rows and columns of a request, as the catalogs at the target have them.

    `where` and `columns` are known once `choose` was called.
    """

    def __init__(self, request: RestoreRequest) -> None:
        self._request = request
        self.where: str | None = None
        self.columns: Mapping[TableName, tuple[str, ...]] = {}

    def choose(self, started: RunningServer, connection: Connection) -> list[TargetRelation]:
        """Return the tables; see choose_tables, choose_rows and choose_columns for the errors."""
        path = search_path(connection)
        tables = choose_tables(named_relations(connection), self._request.tables, path)
        names = [TableName(table.schema, table.name) for table in tables]
        if self._request.where is not None:
            from pitr.postgres.tables.choosing import choose_rows

            self.where = choose_rows(connection, names, self._request.where, path)
        if self._request.columns:
            from pitr.postgres.diff.chosen_columns import choose_columns
            from pitr.postgres.tables.reading import read_table

            found = [read_table(connection, name) for name in names]
            known = [table for table in found if table is not None]
            self.columns = choose_columns(known, self._request.columns)
        return tables

    def recovered(self, replayed: ReplayedTables) -> tuple[RecoveredTable, ...]:
        """Return the tables with their rows and columns."""
        return tuple(
            RecoveredTable(
                table.full_name,
                replayed.rows[table.oid],
                self.columns.get(TableName(table.schema, table.name)),
            )
            for table in replayed.catalogs.tables
        )


def _database(request: RestoreRequest) -> str | None:
    """Return the database that the request names, or None. Raises UsageError."""
    if request.destination is not None:
        raise UsageError(
            "the sidecar of a PostgreSQL source is no file",
            hint="Name a database to load the tables into, as in '--to postgresql://HOST/NAME', or "
            "leave it out: 'pitr recoveries psql' leads to the sidecar.",
        )
    parts = [split_name(name) for name in request.tables]
    named = {part[0] for part in parts if len(part) == 3}
    named |= {request.database} if request.database else set()
    if len(named) > 1:
        raise UsageError(
            "the tables are of several databases",
            detail=f"Named are {', '.join(sorted(named))}.",
            hint="Restore those of one database at a time.",
        )
    return next(iter(named), None)


def _later(settings: Settings, request: RestoreRequest, way: Way, now: int) -> Way | None:
    """Return how the state after the damage is reached, where one is asked for.

    Raises UsageError when it lies before the target.
    """
    if request.until is None:
        return None
    later = find_way(settings, replace(request, target=request.until), now)
    if later.stop.lsn < way.stop.lsn:
        raise UsageError(
            "the moment after the damage lies before the target",
            detail=f"--until came to {later.target.position}, --at to {way.target.position}.",
            hint="Give --at the last good moment and --until one just after the damage.",
        )
    return later


def find_way(settings: Settings, request: RestoreRequest, now: int) -> Way:
    """Return how the target is reached, from an archive or from files that lie about."""
    if request.backup is not None and request.wal is not None:
        from pitr.operations.postgres.loose_files import find_in_files

        source, found, stop = find_in_files(request.backup, request.wal, request.target, now)
        return Way(source, None, stop, found.target, None, str(request.wal))
    reading = open_reading(settings)
    resolved = reading.resolve(request.target)
    bases = BaseArchive(reading.store)
    stop = StopPoint(resolved.timeline, resolved.stop)
    base = bases.open(nearest_base(reading, bases, stop).id)
    source = open_source(base, reading.wal)
    archive = settings.needed_archive()
    return Way(source, reading.index, stop, resolved.target, reading.database, archive)
