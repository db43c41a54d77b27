"""merge: run the plan of a recovery in one transaction of the live database.

The plan is made in a read transaction, so that writers go on meanwhile, and the rows that it
touches are looked at again once the lock is held. When they have moved and the user agreed to
whatever the plan is (--yes, no saved plan), it is made once more under the lock, where nothing
can move.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pitr.clock import now_us
from pitr.config import Settings
from pitr.errors import PlanStale
from pitr.operations.merge import Confirm, MergeResult, MergeWish
from pitr.operations.sqlite.comparing import open_recovery
from pitr.operations.sqlite.plan import plan_request
from pitr.recovery.merges import MergedTable, MergeRecord, NewMerge, new_merge
from pitr.sqlite.diff.classified import ClassifiedTable, classify
from pitr.sqlite.diff.states import States
from pitr.sqlite.merge.apply import (
    Applied,
    apply_plan,
    begin_locked,
    stale,
    wait_for_locks,
)
from pitr.sqlite.merge.plan import PlanRequest, PreparedPlan, attached_past, make_plan
from pitr.sqlite.merge.writing import WrittenTable
from pitr.vocabulary.plan import (
    MergeOutcome,
    MergeStep,
    OnStep,
    SavedPlan,
)
from pitr.vocabulary.row_class import Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What running one plan needs to know, whether it is a merge or an undo."""

    state: Path
    recovery: str
    undoes: str | None
    is_agreed: bool
    saved: SavedPlan | None
    lock_seconds: float
    confirm: Confirm
    on_step: OnStep
    classify: Callable[[States], list[ClassifiedTable]] = classify
    dropped: tuple[str, ...] = ()
    rebuilt: tuple[str, ...] = ()

    def make_plan(self, states: States, request: PlanRequest) -> PreparedPlan:
        """Classify the rows and make the plan, inside the transaction that is open."""
        prepared = make_plan(states, self.classify(states), request)
        rebuilt = (*prepared.rebuilt, *self.rebuilt)
        return replace(prepared, dropped=self.dropped, rebuilt=rebuilt)


def merge(settings: Settings, wish: MergeWish, *, confirm: Confirm, on_step: OnStep) -> MergeResult:
    """Merge a recovery into the live database: all of the plan, or nothing.

    `confirm` sees the plan before anything is written, and raises to keep it from being run.
    Raises PlanStale, DatabaseRefused, and what planning raises; then nothing was changed.
    """
    recovery_id = wish.saved.recovery if wish.saved else wish.recovery_id
    options = wish.saved.options if wish.saved else wish.options
    tables = wish.saved.chosen if wish.saved else wish.tables
    with (
        open_recovery(settings, recovery_id, tables=tables, writable=True) as opened,
        attached_past(opened.states) as past,
    ):
        run = Run(
            state=settings.state,
            recovery=opened.recovery.id,
            undoes=None,
            is_agreed=wish.is_agreed,
            saved=wish.saved,
            lock_seconds=wish.lock_seconds,
            confirm=confirm,
            on_step=on_step,
        )
        request = plan_request(settings, opened, options, tables, past=past)
        request = replace(request, is_described=wish.saved is not None)
        return run_plan(opened.states, request, run)


def run_plan(states: States, request: PlanRequest, run: Run) -> MergeResult:
    """Plan, ask, apply; when rows have moved meanwhile, once more under the lock."""
    prepared = _plan_unlocked(states, request, run)
    if run.saved is not None and prepared.plan.fingerprint != run.saved.fingerprint:
        raise stale("Rows, keys or definitions have moved since the plan was saved.")
    if prepared.plan.blocking or not prepared.plan.rows_to_write:
        return MergeResult(plan=prepared.plan)
    run.on_step(MergeStep.PLANNED)
    run.confirm(prepared.plan)
    try:
        return _apply(states, prepared, run, again=None)
    except PlanStale:
        if run.saved is not None or not run.is_agreed:
            raise
    return _apply(states, prepared, run, again=replace(request, attributes=False))


def _plan_unlocked(states: States, request: PlanRequest, run: Run) -> PreparedPlan:
    connection = states.connection
    wait_for_locks(connection, run.lock_seconds)
    connection.execute("BEGIN")
    try:
        prepared = run.make_plan(states, request)
        connection.execute("COMMIT")  # the temporary tables stay
        return prepared
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _apply(
    states: States, prepared: PreparedPlan, run: Run, *, again: PlanRequest | None
) -> MergeResult:
    """Take the lock and run the plan; with `again` it is made anew first."""
    connection = states.connection
    label = prepared.plan.tables[0].table
    with new_merge(run.state, run.recovery, label=label, now_us=now_us()) as new:
        begin_locked(
            connection, enforces_keys=prepared.enforces_keys, lock_seconds=run.lock_seconds
        )
        began = time.monotonic()
        try:
            run.on_step(MergeStep.LOCKED)
            if again is not None:
                was = prepared.enforces_keys
                prepared = run.make_plan(states, again)
                if prepared.plan.blocking or not prepared.plan.rows_to_write:
                    return MergeResult(plan=prepared.plan)
                if prepared.enforces_keys != was:
                    raise stale("What foreign keys hold of the rows has changed.")
            applied = apply_plan(
                connection,
                prepared,
                lock_seconds=run.lock_seconds,
                record=_recorder(new, prepared, run),
                on_step=run.on_step,
            )
            locked_seconds = round(time.monotonic() - began, 4)
        finally:
            if connection.in_transaction:  # else it was committed, whatever came after
                connection.execute("ROLLBACK")
                new.discard()
        new.conclude(MergeOutcome.HAPPENED)
        run.on_step(MergeStep.NOTED)
        return _result(new, prepared, applied, locked_seconds)


def _recorder(
    new: NewMerge, prepared: PreparedPlan, run: Run
) -> Callable[[bytes, bytes, tuple[WrittenTable, ...]], None]:
    plan = prepared.plan

    def record(before: bytes, after: bytes, tables: tuple[WrittenTable, ...]) -> None:
        about = MergeRecord(
            id=new.id,
            recovery=run.recovery,
            engine=plan.engine,
            source=plan.source,
            created_us=now_us(),
            undoes=run.undoes,
            tables=_merged_tables(tables),
            skipped=plan.actions[Action.SKIP],
            rebuilt=prepared.rebuilt,
        )
        new.write(about, before=before, after=after)

    return record


def _merged_tables(tables: Sequence[WrittenTable]) -> tuple[MergedTable, ...]:
    """Return the tables, each once: one may come from the sidecar and from a closure too."""
    found: dict[str, MergedTable] = {}
    for one in tables:
        if not (one.inserted or one.updated or one.deleted):
            continue
        known = found.get(one.table)
        found[one.table] = MergedTable(
            table=one.table,
            inserted=one.inserted + (known.inserted if known else 0),
            updated=one.updated + (known.updated if known else 0),
            deleted=one.deleted + (known.deleted if known else 0),
            created=one.created or (known.created if known else False),
        )
    return tuple(found.values())


def _result(
    new: NewMerge, prepared: PreparedPlan, applied: Applied, locked_seconds: float
) -> MergeResult:
    return MergeResult(
        plan=prepared.plan,
        merge=new.id,
        inserted=sum(table.inserted for table in applied.tables),
        updated=sum(table.updated for table in applied.tables),
        deleted=sum(table.deleted for table in applied.tables),
        warnings=applied.warnings,
        locked_seconds=locked_seconds,
        trace=applied.trace,
    )
