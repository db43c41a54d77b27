"""undo: take a merge back, by the same rules; and find out what became of one that was cut off.

To an undo the merge is the damage: "before" are its rows as they were, "after" as it made them. So
a row that was changed since is a conflict and never overwritten, and rows that are back already
are left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pitr.config import Settings
from pitr.errors import PitrError, SourceUnusable
from pitr.merge.aftermath import judge
from pitr.operations.merge import Confirm, MergeResult
from pitr.operations.sqlite.merge import Run, run_plan
from pitr.operations.undo import Settled, UndoWish
from pitr.recovery.merges import KeptMerge, read_merge
from pitr.sqlite.diff.states import States, StateSources, open_states
from pitr.sqlite.merge.plan import PlanRequest
from pitr.sqlite.merge.undo import attach_images, classify_merged
from pitr.vocabulary.plan import MergeOptions, OnStep
from pitr.vocabulary.row_class import RowClass


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
            "there is no database to take the merge back in",
            detail=f"There is no file {live}.",
            hint="Put the database back to where it was merged into.",
        )
    sources = StateSources(
        live=live,
        sidecar=kept.before,
        tables=tuple(table.table for table in kept.record.tables),
        before_commit=0,
    )
    with open_states(sources, wait_seconds=0, writable=True) as states:
        yield attach_images(states, kept.after)


def settle_merge(kept: KeptMerge) -> Settled:
    """Find out what became of one merge, and note it in its record."""
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
