"""plan: what a merge of a recovery would do, as a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pitr.config import Settings
from pitr.operations.comparing import OpenRecovery, open_recovery
from pitr.sqlite.diff.classified import classify
from pitr.sqlite.merge.plan import PlanRequest, attached_past, make_plan
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
    with (
        open_recovery(settings, wish.recovery_id, tables=wish.tables) as opened,
        attached_past(opened.states) as past,
    ):
        classified = classify(opened.states)
        request = plan_request(opened, wish.options, wish.tables, past=past)
        return make_plan(opened.states, classified, request).plan


def plan_request(
    opened: OpenRecovery, options: MergeOptions, tables: Sequence[str], *, past: str | None
) -> PlanRequest:
    """Return what a plan of an open recovery is of."""
    recovery = opened.recovery
    target = recovery.resolved.position
    if recovery.until is not None:
        target = f"{target} … {recovery.until.position}"
    return PlanRequest(
        recovery=recovery.id,
        source=str(opened.states.sources.live),
        target=target,
        options=options,
        chosen=tuple(tables),
        past=past,
        warnings=opened.warnings,
    )
