"""plan: what a merge of a recovery would do, as a value."""

from __future__ import annotations

from collections.abc import Sequence

from pitr.config import Settings
from pitr.operations.plan import PlanWish, with_kin
from pitr.operations.postgres.attributing import attributing
from pitr.operations.postgres.comparing import OpenRecovery, open_recovery
from pitr.postgres.diff.states import comparing
from pitr.postgres.live.faults import server_faults
from pitr.postgres.merge.kin import Classifier
from pitr.postgres.merge.plan import PlanRequest, make_plan
from pitr.vocabulary.plan import MergeOptions, Plan


def plan_recovery(settings: Settings, wish: PlanWish) -> Plan:
    """Return the plan. The live database is read; temporary tables are made and gone again."""
    with (
        open_recovery(
            settings, wish.recovery_id, tables=wish.tables, program="pitr plan"
        ) as opened,
        server_faults("plan the merge"),
    ):
        request = plan_request(settings, opened, wish.options, wish.tables)
        with comparing(opened.states):
            classified = Classifier(request.options).classify(opened.states)
            return make_plan(opened.states, classified, request).plan


def plan_request(
    settings: Settings, opened: OpenRecovery, options: MergeOptions, tables: Sequence[str]
) -> PlanRequest:
    """Return what a plan of an open recovery is of; the archive is asked who removed rows."""
    recovery = opened.recovery
    target = recovery.resolved.position
    if recovery.until is not None:
        target = f"{target} … {recovery.until.position}"
    return PlanRequest(
        recovery=recovery.id,
        source=opened.place,
        target=target,
        options=with_kin(recovery, options),
        chosen=tuple(tables),
        attribute=attributing(settings, opened),
    )
