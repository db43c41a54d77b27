"""psql: on the sidecar of a recovery of PostgreSQL, whose server runs for as long."""

from __future__ import annotations

from collections.abc import Sequence

from pitr.config import Settings
from pitr.operations.engine import wired
from pitr.recovery.folder import read_recovery


def psql(settings: Settings, recovery_id: str | None, arguments: Sequence[str]) -> int:
    """Run psql on a recovery, the newest without an id; return the code that psql ended with.

    Raises UsageError when the recovery is of SQLite, PreconditionFailed.
    """
    engine = read_recovery(settings.state, recovery_id).engine
    return wired(psql, engine)(settings, recovery_id, arguments)
