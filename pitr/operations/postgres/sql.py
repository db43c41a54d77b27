"""sql on PostgreSQL: ask the sidecar of a recovery."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pitr.config import Settings
from pitr.operations.postgres.sidecar import kept_server
from pitr.postgres.replay.server import running
from pitr.postgres.replay.sidecar_query import query
from pitr.recovery.folder import read_recovery
from pitr.vocabulary.query import QueryResult


@contextmanager
def query_sidecar(
    settings: Settings, recovery_id: str | None, statement: str
) -> Iterator[QueryResult]:
    """Start the server of a recovery, ask it, and stop it when the block ends."""
    kept = kept_server(settings, read_recovery(settings.state, recovery_id))
    with running(kept.server) as started:
        yield query(started, kept.database, statement)
