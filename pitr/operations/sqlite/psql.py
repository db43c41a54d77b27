"""psql on SQLite: there is no such thing, and the answer says what to run instead."""

from __future__ import annotations

from collections.abc import Sequence

from pitr.config import Settings
from pitr.errors import UsageError
from pitr.recovery.folder import read_recovery


def psql(settings: Settings, recovery_id: str | None, arguments: Sequence[str]) -> int:
    """Raise UsageError, naming the recovery and the command that asks it."""
    recovery = read_recovery(settings.state, recovery_id)
    raise UsageError(
        f"psql cannot read a recovery of SQLite: {recovery.id}",
        detail=f"These words were meant for it: {' '.join(arguments)}." if arguments else None,
        hint=f"Ask it with 'pitr recoveries sql {recovery.id} STATEMENT'.",
    )
