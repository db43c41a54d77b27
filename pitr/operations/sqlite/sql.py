"""sql: ask the whole database as it was, without restoring anything; ask a sidecar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pitr.config import Settings
from pitr.errors import PreconditionFailed
from pitr.operations.sqlite.reading import open_reading, refuse_database
from pitr.recovery.folder import read_recovery
from pitr.sqlite.past.replay import open_past
from pitr.sqlite.past.scans import announce_scans
from pitr.sqlite.past.sidecar import open_sidecar
from pitr.sqlite.statement.readonly import run_query
from pitr.vocabulary.query import QueryResult
from pitr.vocabulary.target import ResolvedTarget


@contextmanager
def query_past(
    settings: Settings,
    target: str,
    statement: str,
    *,
    database: str | None = None,
    on_target: Callable[[ResolvedTarget], None],
) -> Iterator[QueryResult]:
    """Run one reading statement on the database as it was; rows are read inside the block."""
    refuse_database(database)
    reading = open_reading(settings)
    found = reading.resolve(target)
    on_target(found.target)
    with open_past(reading.pages.at(found.record.number)) as past:
        announce_scans(past, statement)
        yield run_query(past, statement)


@contextmanager
def query_sidecar(
    settings: Settings, recovery_id: str | None, statement: str
) -> Iterator[QueryResult]:
    """Run one reading statement on a recovery's sidecar; rows are read inside the block."""
    recovery = read_recovery(settings.state, recovery_id)
    if not Path(recovery.sidecar).is_file():
        raise PreconditionFailed(
            f"the sidecar of {recovery.id} is gone",
            detail=f"There is no file {recovery.sidecar}.",
            hint=f"Restore again, or drop it with 'pitr recoveries drop {recovery.id}'.",
        )
    sidecar = open_sidecar(Path(recovery.sidecar))
    try:
        yield run_query(sidecar, statement)
    finally:
        sidecar.close()
