"""plan: what a merge of a recovery would do, as a value."""

from __future__ import annotations

from collections.abc import Sequence

from pitr.config import Settings
from pitr.operations.plan import PlanWish, with_kin
from pitr.operations.sqlite.comparing import OpenRecovery, open_recovery
from pitr.recovery.merges import standing_merge
from pitr.sqlite.diff.classified import classify
from pitr.sqlite.merge.earlier import attach_earlier
from pitr.sqlite.merge.plan import PlanRequest, attached_past, make_plan
from pitr.vocabulary.plan import MergeOptions, Plan


def plan_recovery(settings: Settings, wish: PlanWish) -> Plan:
    """Return the plan. The live database is read, never written.

    Raises what opening a recovery raises, and UsageError for a --set that makes no sense.
    """
    with (
        open_recovery(settings, wish.recovery_id, tables=wish.tables) as opened,
        attached_past(opened.states) as past,
    ):
        classified = classify(opened.states)
        request = plan_request(settings, opened, wish.options, wish.tables, past=past)
        return make_plan(opened.states, classified, request).plan


def plan_request(
    settings: Settings,
    opened: OpenRecovery,
    options: MergeOptions,
    tables: Sequence[str],
    *,
    past: str | None,
) -> PlanRequest:
    """Return what a plan of an open recovery is of."""
    recovery = opened.recovery
    target = recovery.resolved.position
    if recovery.until is not None:
        target = f"{target} … {recovery.until.position}"
    standing = standing_merge(settings.state, recovery.id)
    earlier = attach_earlier(opened.states, standing.after) if standing else None
    return PlanRequest(
        recovery=recovery.id,
        source=str(opened.states.sources.live),
        target=target,
        options=with_kin(recovery, options),
        chosen=tuple(tables),
        earlier=earlier,
        past=past,
        warnings=opened.warnings,
    )
