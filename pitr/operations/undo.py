"""undo: take a merge back, by the same rules; and find out what became of one that was cut off.

To an undo the merge is the damage: "before" are its rows as they were, "after" as it made them. So
a row that was changed since is a conflict and never overwritten, and rows that are back already
are left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pitr.config import Settings
from pitr.errors import PitrError, SourceUnusable
from pitr.merge.aftermath import judge
from pitr.operations.merge import LOCK_SECONDS, Confirm, MergeResult, Run, run_plan
from pitr.recovery.merges import KeptMerge, list_merges, read_merge
from pitr.sqlite.diff.states import States, StateSources, open_states
from pitr.sqlite.merge.apply import OnStep
from pitr.sqlite.merge.plan import PlanRequest
from pitr.sqlite.merge.undo import attach_images, classify_merged
from pitr.vocabulary.plan import MergeOptions, MergeOutcome
from pitr.vocabulary.row_class import ConflictPolicy, RowClass


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoWish:
    """Which merge to take back, and how; see MergeWish."""

    merge_id: str
    on_conflict: ConflictPolicy = ConflictPolicy.ABORT
    is_agreed: bool = False
    lock_seconds: float = LOCK_SECONDS


@dataclass(frozen=True, slots=True)
class Settled:
    """A merge that had been cut off, and what became of it; `error` when that was not found out."""

    merge: str
    outcome: MergeOutcome | None
    error: str | None = None


def undo(settings: Settings, wish: UndoWish, *, confirm: Confirm, on_step: OnStep) -> MergeResult:
    """Take a merge back: all of it, or nothing. Raises as `merge` does, and UsageError.

    The undo is a merge itself, with a record of its own, and can be taken back in turn.
    """
    kept = read_merge(settings.state, wish.merge_id)
    record = kept.record
    # What the merge inserted goes; a table that it made goes too, if nothing else is in it.
    options = MergeOptions(on_conflict=wish.on_conflict, delete_extra=True)
    request = PlanRequest(
        recovery=record.recovery,
        source=record.source,
        target=f"before the merge {record.id}",
        options=options,
        attributes=False,
        is_described=False,
        is_undo=True,
    )
    with _open_merge(kept) as states:
        run = Run(
            state=settings.state,
            recovery=record.recovery,
            undoes=record.id,
            is_agreed=wish.is_agreed,
            saved=None,
            lock_seconds=wish.lock_seconds,
            confirm=confirm,
            on_step=on_step,
            classify=classify_merged,
            dropped=tuple(table.table for table in record.tables if table.created),
            rebuilt=record.rebuilt,
        )
        return run_plan(states, request, run)


@contextmanager
def _open_merge(kept: KeptMerge) -> Iterator[States]:
    """Open the live database to be written, with the rows of a merge before and after it."""
    live = Path(kept.record.source)
    if not live.is_file():
        raise SourceUnusable(
            "there is no database to take the merge back in", detail=f"There is no file {live}."
        )
    sources = StateSources(
        live=live,
        sidecar=kept.before,
        tables=tuple(table.table for table in kept.record.tables),
        before_commit=0,
    )
    with open_states(sources, wait_seconds=0, writable=True) as states:
        yield attach_images(states, kept.after)


def settle(settings: Settings) -> list[Settled]:
    """Find out what became of merges that were cut off around their COMMIT, and note it."""
    found = []
    for kept in list_merges(settings.state):
        if kept.outcome is None and not kept.is_running:
            found.append(_settle(kept))
    return found


def _settle(kept: KeptMerge) -> Settled:
    try:
        with _open_merge(kept) as states:
            counts = Counter[RowClass]()
            states.connection.execute("BEGIN")
            for table in classify_merged(states):
                counts.update(table.counts)
            states.connection.execute("ROLLBACK")
    except PitrError as error:
        return Settled(kept.record.id, None, error.message)
    outcome = judge(counts)
    kept.conclude(outcome)
    return Settled(kept.record.id, outcome)
