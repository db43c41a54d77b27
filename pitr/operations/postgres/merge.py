"""merge: run the plan of a recovery in one transaction of the live database.

With a user who still has to agree, the plan is made once in a snapshot, shown, and made again in
the transaction that writes: it must come to the same. Who agreed beforehand gets the plan as that
transaction finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pitr.clock import now_us
from pitr.config import Settings
from pitr.operations.merge import Confirm, MergeResult, MergeWish, unheard
from pitr.operations.postgres.comparing import open_recovery
from pitr.operations.postgres.plan import plan_request
from pitr.postgres.diff.states import States, comparing
from pitr.postgres.live.connection import Connection
from pitr.postgres.live.faults import server_faults
from pitr.postgres.merge.apply import (
    Again,
    Applied,
    Classify,
    MergeRun,
    Record,
    Transaction,
    apply_plan,
    stale,
)
from pitr.postgres.merge.kin import Classifier
from pitr.postgres.merge.plan import PlanRequest, PreparedPlan, make_plan
from pitr.postgres.merge.writability import lacking_rights
from pitr.postgres.merge.writing import WrittenTable
from pitr.postgres.tables.definition import NewDefinition
from pitr.recovery.merges import KeptDefinition, MergedTable, MergeRecord, NewMerge, new_merge
from pitr.vocabulary.event import OnEvent
from pitr.vocabulary.plan import BlockerKind, MergeOutcome, MergeStep, OnStep, Plan, SavedPlan
from pitr.vocabulary.row_class import Action


def merge(settings: Settings, wish: MergeWish, *, confirm: Confirm, on_step: OnStep) -> MergeResult:
    """Merge a recovery into the live database: all of the plan, or nothing.

    Raises PlanStale, DatabaseRefused, PrivilegeMissing, and what opening a recovery raises; then
    nothing was changed. SourceUnreachable may leave open what became of the COMMIT.
    """
    recovery_id = wish.saved.recovery if wish.saved else wish.recovery_id
    options = wish.saved.options if wish.saved else wish.options
    tables = wish.saved.chosen if wish.saved else wish.tables
    with open_recovery(settings, recovery_id, tables=tables, program="pitr merge") as opened:
        request = plan_request(settings, opened, options, tables)
        classifier = Classifier(request.options)
        run = Run(
            state=settings.state,
            recovery=opened.recovery.id,
            undoes=None,
            is_agreed=wish.is_agreed,
            saved=wish.saved,
            lock_seconds=wish.lock_seconds,
            statement_seconds=wish.statement_seconds,
            report=wish.report,
            confirm=confirm,
            on_step=on_step,
            reconnect=opened.connect,
            classify=classifier.classify,
            again=classifier.again,
        )
        return run_plan(opened.states, request, run)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What running one plan needs to know, whether it is a merge or an undo.

    `reconnect` opens the live database by another connection.
    """

    state: Path
    recovery: str
    undoes: str | None
    is_agreed: bool
    saved: SavedPlan | None
    lock_seconds: float
    confirm: Confirm
    on_step: OnStep
    reconnect: Callable[[], Connection]
    classify: Classify
    again: Again
    statement_seconds: float = 0.0
    report: OnEvent = unheard
    made: tuple[NewDefinition, ...] = ()


def run_plan(states: States, request: PlanRequest, run: Run) -> MergeResult:
    """Plan, ask, apply. Raises what `apply_plan` raises, and what `confirm` does."""
    expected = run.saved.fingerprint if run.saved else None
    if not run.is_agreed:
        plan = _plan(states, replace(request, is_described=True), run)
        if expected is not None and plan.fingerprint != expected:
            raise stale("Rows, keys or definitions have moved since the plan was saved.")
        grants = [b.detail for b in plan.blocking if b.kind is BlockerKind.PRIVILEGE_MISSING]
        if grants:
            raise lacking_rights(grants)
        if plan.blocking or not (plan.has_work or run.made):
            return MergeResult(plan=plan)
        run.on_step(MergeStep.PLANNED)
        run.confirm(plan)
        expected = plan.fingerprint
    request = replace(request, is_described=expected is not None)
    return _apply(states, request, run, expected)


def _plan(states: States, request: PlanRequest, run: Run) -> Plan:
    with server_faults("plan the merge"), comparing(states):
        return make_plan(states, run.classify(states), request).plan


def _apply(states: States, request: PlanRequest, run: Run, expected: str | None) -> MergeResult:
    label = states.tables[0].name if states.tables else "undo"
    with new_merge(run.state, run.recovery, label=label, now_us=now_us()) as new:
        applied = apply_plan(
            states,
            request,
            MergeRun(
                folder=new.folder,
                expected=expected,
                classify=run.classify,
                again=run.again,
                record=_recorder(new, run),
                discard=new.discard,
                reconnect=run.reconnect,
                on_step=run.on_step,
                report=run.report,
                show=run.confirm if run.is_agreed else _is_seen,
                lock_seconds=run.lock_seconds,
                statement_seconds=run.statement_seconds,
                made=run.made,
            ),
        )
        if not applied.is_written:
            return MergeResult(plan=applied.prepared.plan, warnings=applied.warnings)
        new.conclude(MergeOutcome.HAPPENED)
        run.on_step(MergeStep.NOTED)
        return _result(new, applied)


def _is_seen(_plan: Plan) -> None:
    """Show nothing: somebody was asked about it."""


def _recorder(new: NewMerge, run: Run) -> Record:
    def record(
        transaction: Transaction,
        tables: tuple[WrittenTable, ...],
        prepared: PreparedPlan,
        made: tuple[NewDefinition, ...],
    ) -> None:
        plan = prepared.plan
        new.seal(
            MergeRecord(
                id=new.id,
                recovery=run.recovery,
                engine=plan.engine,
                source=plan.source,
                created_us=now_us(),
                undoes=run.undoes,
                tables=_merged_tables(tables, {str(one.name) for one in made}),
                skipped=plan.actions[Action.SKIP],
                rebuilt=(),
                xid=transaction.xid,
                held=transaction.held,
                made=tuple(
                    KeptDefinition(one.kind, one.name.schema, one.name.name, one.stamp)
                    for one in made
                ),
            )
        )

    return record


def _merged_tables(
    tables: Sequence[WrittenTable], made: Collection[str]
) -> tuple[MergedTable, ...]:
    return tuple(
        MergedTable(
            table=one.table,
            inserted=one.inserted,
            updated=one.updated,
            deleted=one.deleted,
            created=one.table in made,
        )
        for one in tables
        if one.inserted or one.updated or one.deleted or one.table in made
    )


def _result(new: NewMerge, applied: Applied) -> MergeResult:
    return MergeResult(
        plan=applied.prepared.plan,
        merge=new.id,
        inserted=sum(table.inserted for table in applied.tables),
        updated=sum(table.updated for table in applied.tables),
        deleted=sum(table.deleted for table in applied.tables),
        warnings=applied.warnings,
        locked_seconds=applied.locked_seconds,
        trace=applied.trace,
    )
