"""psql on PostgreSQL: the server of the recovery runs for as long as psql does."""

from __future__ import annotations

from collections.abc import Sequence

from pitr.config import Settings
from pitr.operations.postgres.sidecar import kept_server
from pitr.postgres.replay.server import run_psql, running
from pitr.recovery.folder import read_recovery


def psql(settings: Settings, recovery_id: str | None, arguments: Sequence[str]) -> int:
    """Run psql on a recovery; return the code that psql ended with. Raises PreconditionFailed."""
    kept = kept_server(settings, read_recovery(settings.state, recovery_id))
    with running(kept.server) as started:
        return run_psql(started, kept.database, arguments)
