"""sql on PostgreSQL: ask the database as it was, or the sidecar of a recovery.

To ask the past, the tables that the statement reads are recovered into a sidecar that goes away
with the answer. Which they are is asked of the catalogs at the target; what only shows when the
statement runs is found then, and recovered as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from pitr.clock import now_us
from pitr.config import Settings
from pitr.errors import UsageError
from pitr.operations.postgres.absence import absence_explained
from pitr.operations.postgres.restore import DATABASE, find_way
from pitr.operations.postgres.sidecar import kept_server
from pitr.operations.postgres.states import passing_replay
from pitr.operations.restore import RestoreRequest
from pitr.postgres.replay.reader import connect_reader
from pitr.postgres.replay.server import RunningServer, running
from pitr.postgres.replay.sidecar_query import FileAbsent, query
from pitr.postgres.replay.statement_tables import tables_read
from pitr.postgres.replay.target_tables import Connection, TargetRelation
from pitr.postgres.statement.reading import read_statement
from pitr.recovery.folder import read_recovery
from pitr.vocabulary.query import QueryResult
from pitr.vocabulary.target import ResolvedTarget

# How often tables that only show when the statement runs are recovered as well.
_ROUNDS_MAX = 16


@contextmanager
def query_past(
    settings: Settings,
    target: str,
    statement: str,
    *,
    database: str | None = None,
    on_target: Callable[[ResolvedTarget], None],
) -> Iterator[QueryResult]:
    """Recover the tables that a statement reads, and run it; all is gone when the block ends."""
    named = read_statement(statement)
    way = find_way(settings, RestoreRequest(tables=(), target=target), now_us())
    chosen = database or settings.database or way.database or DATABASE

    def choose(started: RunningServer, connection: Connection) -> list[TargetRelation]:
        with closing(connect_reader(started, chosen)) as reader:
            return tables_read(connection, reader, statement, named)

    with passing_replay(settings, way.source, way.stop, way.index, label="sql") as replay:
        on_target(way.target)
        with absence_explained(settings, way.stop.lsn, has_archive=True):
            catalogs = replay.find_chosen(chosen, choose)
        for _ in range(_ROUNDS_MAX):
            with (
                replay.asked(catalogs) as started,
                closing(connect_reader(started, chosen)) as reader,
            ):
                try:
                    result = query(reader, statement)
                except FileAbsent as absent:
                    catalogs = replay.find_absent(catalogs, started, absent.file)
                    continue
                yield result
                return
    raise UsageError(
        "the statement reads too many tables that only show as it runs",
        detail=f"{_ROUNDS_MAX} were recovered one after the other.",
        hint="Restore the tables with 'pitr restore -t', and ask with 'pitr recoveries sql'.",
    )


@contextmanager
def query_sidecar(
    settings: Settings, recovery_id: str | None, statement: str
) -> Iterator[QueryResult]:
    """Start the server of a recovery, ask it, and stop it when the block ends."""
    read_statement(statement)
    recovery = read_recovery(settings.state, recovery_id)
    kept = kept_server(settings, recovery)
    with (
        running(kept.server) as started,
        closing(connect_reader(started, kept.database)) as reader,
    ):
        try:
            result = query(reader, statement)
        except FileAbsent:
            raise UsageError(
                "the statement reads a table that the recovery does not have",
                detail=f"It has {', '.join(table.table for table in recovery.tables)}.",
                hint="Restore that table too, or ask the past itself with 'pitr sql --at'.",
            ) from None
        yield result
