"""undo: take a merge back, by the same rules; and find out what became of one that was cut off."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from pitr.config import Settings
from pitr.errors import PitrError
from pitr.operations.merge import Confirm, MergeResult
from pitr.operations.postgres.comparing import by_configured_role
from pitr.operations.postgres.merge import Run, run_plan
from pitr.operations.undo import Settled, UndoWish
from pitr.postgres.diff.states import States
from pitr.postgres.live.connection import Connection, connect
from pitr.postgres.live.faults import server_faults
from pitr.postgres.merge.outcome import merge_outcome
from pitr.postgres.merge.plan import PlanRequest
from pitr.postgres.merge.undo import classify_merged, classify_merged_again
from pitr.postgres.tables.definition import NewDefinition
from pitr.postgres.tables.name import TableName
from pitr.recovery.merges import KeptMerge, read_merge
from pitr.vocabulary.plan import MergeOptions, OnStep


def undo(settings: Settings, wish: UndoWish, *, confirm: Confirm, on_step: OnStep) -> MergeResult:
    """Take a merge back in the database that its record names, by the role that is configured."""
    kept = read_merge(settings.state, wish.merge_id)
    place = by_configured_role(settings, kept.record.source)
    kept = replace(kept, record=replace(kept.record, source=place))
    with closing(connect(place, program="pitr undo", is_as_role=True)) as live:
        return undo_merge(
            settings.state,
            kept,
            wish,
            live,
            reconnect=lambda: connect(place, program="pitr undo"),
            confirm=confirm,
            on_step=on_step,
        )


def undo_merge(
    state: Path,
    kept: KeptMerge,
    wish: UndoWish,
    live: Connection,
    *,
    reconnect: Callable[[], Connection],
    confirm: Confirm,
    on_step: OnStep,
) -> MergeResult:
    """Take a merge back in the database of a connection. Raises as `run_plan` does, and Corrupt."""
    record = kept.record
    request = PlanRequest(
        recovery=record.recovery,
        source=record.source,
        target=f"before the merge {record.id}",
        # What the merge inserted goes.
        options=MergeOptions(on_conflict=wish.on_conflict, delete_extra=True),
        is_described=False,
    )
    run = Run(
        state=state,
        recovery=record.recovery,
        undoes=record.id,
        is_agreed=wish.is_agreed,
        saved=None,
        lock_seconds=wish.lock_seconds,
        statement_seconds=wish.statement_seconds,
        report=wish.report,
        confirm=confirm,
        on_step=on_step,
        reconnect=reconnect,
        classify=lambda states: classify_merged(states.live, kept.folder),
        again=classify_merged_again,
        made=tuple(
            NewDefinition(one.kind, TableName(one.schema, one.name), one.stamp)
            for one in record.made
        ),
    )
    return run_plan(States(live=live, before=None, tables=()), request, run)


def settle_merge(kept: KeptMerge) -> Settled:
    """Ask the server what became of the transaction of a merge, and note it in its record.

    What keeps it from being found out is told with the merge: no other command stops for that.
    """
    record = kept.record
    assert record.xid is not None, record.id
    try:
        with (
            server_faults(f"cannot ask what became of transaction {record.xid}"),
            closing(connect(record.source)) as live,
        ):
            outcome = merge_outcome(
                live, kept.folder, xid=record.xid, held=record.held, place=record.source
            )
    except PitrError as error:
        return Settled(record.id, None, error.message)
    if outcome is None:
        return Settled(record.id, None, "its transaction is still running")
    kept.conclude(outcome)
    return Settled(record.id, outcome)
