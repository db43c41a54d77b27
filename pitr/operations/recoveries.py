"""recoveries: what was brought back and is still there."""

from __future__ import annotations

from pitr.config import Settings
from pitr.recovery.folder import Recovery, drop_recovery, list_recoveries, sweep
from pitr.recovery.merges import KeptMerge, list_merges


def all_recoveries(settings: Settings) -> list[Recovery]:
    """Return all recoveries, newest last, after removing what a killed command left behind."""
    sweep(settings.state)
    return list_recoveries(settings.state)


def all_merges(settings: Settings) -> list[KeptMerge]:
    """Return the merges of all recoveries, newest last."""
    return list_merges(settings.state)


def drop(settings: Settings, recovery_id: str) -> None:
    """Remove a recovery. Raises UsageError when there is no such one."""
    drop_recovery(settings.state, recovery_id)
