"""plan: what a merge of a recovery would do, as a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pitr.config import Settings
from pitr.operations.engine import wired
from pitr.recovery.folder import Recovery, read_recovery
from pitr.vocabulary.plan import MergeOptions, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanWish:
    """Which recovery (the newest when None), which of its tables (all when empty), and how."""

    recovery_id: str | None = None
    tables: Sequence[str] = ()
    options: MergeOptions = field(default_factory=MergeOptions)


def plan_recovery(settings: Settings, wish: PlanWish) -> Plan:
    """Return the plan. The live database is read, never written.

    Raises what opening a recovery raises, and UsageError for a --set that makes no sense.
    """
    engine = read_recovery(settings.state, wish.recovery_id).engine
    return wired(plan_recovery, engine)(settings, wish)


def with_kin(recovery: Recovery, options: MergeOptions) -> MergeOptions:
    """Return the options with what was said about kin when the recovery was made."""
    return replace(
        options,
        with_parents=options.with_parents or recovery.with_parents,
        with_children=options.with_children or recovery.with_children,
    )
