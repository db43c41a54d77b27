"""Open the states of a recovery, for the verbs that compare it with live: diff, plan, merge.

The server of the recovery runs for as long as the block, and is only read. What goes wrong with
live inside the block must leave it as an error of ours: a driver's error would be taken for the
sidecar's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial

from pitr.config import Settings
from pitr.errors import IdentityMismatch, PitrError, SourceUnusable, UsageError
from pitr.operations.postgres.reading import open_reading
from pitr.operations.postgres.sidecar import SidecarServer, kept_server
from pitr.postgres.diff.states import PastWal, States
from pitr.postgres.live.connection import Connection, by_role_of, connect, in_database
from pitr.postgres.live.faults import server_faults
from pitr.postgres.live.flushed import flushed_wal
from pitr.postgres.replay.definition_dump import dump_definitions
from pitr.postgres.replay.reader import connect_reader, reading_role
from pitr.postgres.replay.server import RunningServer, running
from pitr.postgres.statement.pattern import TablePattern
from pitr.postgres.tables.name import TableName
from pitr.postgres.tables.reading import system_identifier, table_names
from pitr.recovery.folder import RecoveredTable, Recovery, read_recovery
from pitr.source_text import POSTGRES
from pitr.vocabulary.position import Lsn


@dataclass(frozen=True, slots=True)
class OpenRecovery:
    """A recovery and its states. `place` leads to the live database, without a password."""

    recovery: Recovery
    states: States
    place: str

    def connect(self) -> Connection:
        """Return one more connection to the live database."""
        return connect(self.place)


@contextmanager
def open_recovery(
    settings: Settings,
    recovery_id: str | None,
    *,
    tables: Sequence[str] = (),
    with_after: bool = True,
    program: str,
) -> Iterator[OpenRecovery]:
    """Open the states of a recovery, or of the newest; of these tables, or of all of its tables.

    The state after the damage is left closed without `with_after`, as if there were none.
    Raises UsageError for a table or recovery that does not exist, PreconditionFailed when the
    sidecar is gone, IdentityMismatch when live is another cluster, SourceUnusable and
    SourceUnreachable.
    """
    recovery = read_recovery(settings.state, recovery_id)
    kept = kept_server(settings, recovery)
    place = in_database(_live(settings, recovery), kept.database)
    with (
        closing(connect(place, program=program, is_as_role=True)) as live,
        running(kept.server) as started,
        closing(_before(started, kept.database, recovery)) as before,
        _after(kept if with_after else replace(kept, after=None)) as after,
    ):
        _check_identity(before, live, place)
        names = table_names(before)
        held = {t: found for t in recovery.tables if (found := names.get(t.table)) is not None}
        chosen = _chosen(recovery, kept.database, held, tables)
        kin = {names[name] for name in recovery.kin if name in names}
        states = States(
            live=live,
            before=before,
            after=after,
            tables=tuple(held[table] for table in chosen),
            where=recovery.where,
            columns={held[t]: t.columns for t in chosen if t.columns is not None},
            held=frozenset(held.values()) | kin,
            define=partial(
                dump_definitions,
                kept.server.binaries.path("pg_dump"),
                started.environment(kept.database),
                reading_role(before),
            ),
            past=cache(partial(_past, settings, recovery, place)),
        )
        yield OpenRecovery(recovery, states, place)


def _before(started: RunningServer, database: str, recovery: Recovery) -> Connection:
    """Connect to the state before: as a role that can only read where a condition is asked there.

    A condition may call functions of the recovered database, and they do as they please.
    """
    if recovery.where is not None:
        return connect_reader(started, database)
    return started.connect(database, read_only=True)


@contextmanager
def _after(kept: SidecarServer) -> Iterator[Connection | None]:
    """Open the state after the damage, where the recovery has one."""
    if kept.after is None:
        yield None
        return
    with (
        running(kept.after) as started,
        closing(started.connect(kept.database, read_only=True)) as connection,
    ):
        yield connection


def _past(settings: Settings, recovery: Recovery, place: str) -> PastWal | None:
    """Open the archive that a recovery was made of; None when it cannot be, or is none."""
    try:
        reading = open_reading(replace(settings, archive=recovery.archive))
    except PitrError:
        return None
    return PastWal(reading.wal, reading.index, partial(_flushed, place))


def _flushed(place: str) -> tuple[int, Lsn] | None:
    with closing(connect(place)) as connection:
        return flushed_wal(connection)


def by_configured_role(settings: Settings, place: str) -> str:
    """Return a place by the role of the configured source, where that is the same server."""
    source = settings.source_of(POSTGRES)
    return by_role_of(place, source.location) if source else place


def _live(settings: Settings, recovery: Recovery) -> str:
    if recovery.source is not None:
        return by_configured_role(settings, recovery.source)
    source = settings.source_of(POSTGRES)
    if source is None:
        raise SourceUnusable(
            "there is no live database to compare with",
            detail=f"The recovery {recovery.id} was made without a source.",
            hint=f"'pitr recoveries sql {recovery.id}' asks the sidecar by itself.",
        )
    return source.location


def _check_identity(before: Connection, live: Connection, place: str) -> None:
    """Make sure that live is the cluster that the recovery is of."""
    with server_faults("read the system identifier"):
        then, now = system_identifier(before), system_identifier(live)
    if then != now:
        raise IdentityMismatch(
            f"the recovery is not of {place}",
            detail=f"Its system identifier is {then}, that of the server {now}.",
            hint="Name the cluster that it is of with --source.",
        )


def _chosen(
    recovery: Recovery,
    database: str,
    held: dict[RecoveredTable, TableName],
    texts: Sequence[str],
) -> list[RecoveredTable]:
    """Return the tables that names and patterns mean, in their order; all when there are none."""
    chosen: dict[RecoveredTable, None] = {}
    for text in texts:
        pattern = TablePattern.parse(text)
        found = [t for t, name in held.items() if pattern.names(name.schema, name.name)]
        if pattern.database is not None and not pattern.database.fullmatch(database):
            found = []
        if not found or (len(found) > 1 and not pattern.is_wild):
            raise UsageError(
                f"the recovery {recovery.id} has {'no' if not found else 'more than one'} table"
                f" {text}",
                hint=f"It has: {', '.join(str(name) for name in held.values())}.",
            )
        chosen |= dict.fromkeys(found)
    return list(chosen or held)
