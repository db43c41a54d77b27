"""undo: take a merge back, by the same rules; and find out what became of one that was cut off."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.config import Settings
from pitr.errors import PreconditionFailed
from pitr.operations.engine import wired
from pitr.operations.merge import LOCK_SECONDS, Confirm, MergeResult, marked, unheard
from pitr.recovery.merges import KeptMerge, list_merges, read_merge
from pitr.vocabulary.event import OnEvent
from pitr.vocabulary.plan import MergeOutcome, OnStep
from pitr.vocabulary.row_class import ConflictPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoWish:
    """Which merge to take back, and how; see MergeWish."""

    merge_id: str
    on_conflict: ConflictPolicy = ConflictPolicy.ABORT
    is_agreed: bool = False
    lock_seconds: float = LOCK_SECONDS
    statement_seconds: float = 0.0
    report: OnEvent = unheard


@dataclass(frozen=True, slots=True)
class Settled:
    """A merge that had been cut off, and what became of it; `error` when that was not found out."""

    merge: str
    outcome: MergeOutcome | None
    error: str | None = None


def undo(settings: Settings, wish: UndoWish, *, confirm: Confirm, on_step: OnStep) -> MergeResult:
    """Take a merge back: all of it, or nothing. Raises as `merge` does, and UsageError.

    The undo is a merge itself, with a record of its own, and can be taken back in turn. One that
    did not happen is not: its rows, where they are there, are of another merge.
    """
    kept = read_merge(settings.state, wish.merge_id)
    if kept.outcome is MergeOutcome.DID_NOT_HAPPEN:
        raise PreconditionFailed(
            f"the merge {kept.record.id} did not happen",
            detail="It was cut off before its COMMIT, so there is nothing to take back.",
            hint="List the recoveries and their merges with 'pitr recoveries'.",
        )
    done = wired(undo, kept.record.engine)(settings, wish, confirm=confirm, on_step=on_step)
    return marked(settings, done, wish.report)


def settle(settings: Settings) -> list[Settled]:
    """Find out what became of merges that were cut off around their COMMIT, and note it."""
    return [
        settle_merge(kept)
        for kept in list_merges(settings.state)
        if kept.outcome is None and not kept.is_running
    ]


def settle_merge(kept: KeptMerge) -> Settled:
    """Find out what became of one merge, and note it in its record."""
    return wired(settle_merge, kept.record.engine)(kept)
