"""merge: run the plan of a recovery in one transaction of the live database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pitr.config import Settings
from pitr.operations.engine import wired
from pitr.operations.merge_marks import try_to_mark
from pitr.recovery.folder import read_recovery
from pitr.vocabulary.event import Event, OnEvent
from pitr.vocabulary.plan import (
    CommitTrace,
    MergeMarks,
    MergeOptions,
    OnStep,
    Plan,
    SavedPlan,
)
from pitr.vocabulary.row_class import Action

LOCK_SECONDS = 10.0
Confirm = Callable[[Plan], None]


def unheard(event: Event) -> None:
    """Take an event that nobody wants to hear of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeWish:
    """Which recovery (the newest when None) and tables (all when empty) to merge, and how.

    `saved` is a plan that must come out the same again. `is_agreed` says that the user agreed in
    advance to whatever the plan is. `statement_seconds` limits each statement of PostgreSQL, 0 for
    no limit. `report` is told, by any thread, for whom the merge waits.
    """

    recovery_id: str | None = None
    tables: Sequence[str] = ()
    options: MergeOptions = field(default_factory=MergeOptions)
    saved: SavedPlan | None = None
    is_agreed: bool = False
    lock_seconds: float = LOCK_SECONDS
    statement_seconds: float = 0.0
    report: OnEvent = unheard


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResult:
    """What a merge or an undo came to. Without `merge` nothing was written.

    Then either something is in the way (`plan.blocking`), or there was nothing to do.
    `locked_seconds` is for how long other writers had to wait. `marks` name the states around it;
    `trace` is what they are found by.
    """

    plan: Plan
    merge: str | None = None
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    warnings: tuple[str, ...] = ()
    locked_seconds: float = 0.0
    trace: CommitTrace | None = None
    marks: MergeMarks | None = None

    @property
    def skipped(self) -> int:
        """Return how many rows were left aside."""
        return self.plan.actions[Action.SKIP]


def merge(settings: Settings, wish: MergeWish, *, confirm: Confirm, on_step: OnStep) -> MergeResult:
    """Merge a recovery into the live database: all of the plan, or nothing.

    `confirm` sees the plan before anything is written, and raises to keep it from being run.
    The states around it are marked where a capture runs; see `marked`.
    Raises PlanStale, DatabaseRefused, and what planning raises; then nothing was changed.
    """
    recovery_id = wish.saved.recovery if wish.saved else wish.recovery_id
    recovery = read_recovery(settings.state, recovery_id)
    done = wired(merge, recovery.engine)(settings, wish, confirm=confirm, on_step=on_step)
    captured = replace(settings, archive=recovery.archive or settings.archive)
    return marked(captured, done, wish.report)


def marked(settings: Settings, done: MergeResult, report: OnEvent) -> MergeResult:
    """Return what a merge or an undo came to, with the marks of the states around it."""
    if done.merge is None or done.trace is None:
        return done
    marks, warnings = try_to_mark(settings, done.plan, done.merge, done.trace, report)
    return replace(done, marks=marks, warnings=(*done.warnings, *warnings))
