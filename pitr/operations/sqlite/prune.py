"""prune on SQLite: fold what is before the horizon, and drop the objects that held it."""

from __future__ import annotations

from pitr.archive.archive import Mark, delete_mark, open_archive, read_marks
from pitr.archive.claim import Claim, ClaimKind, claimed, refuse_others
from pitr.archive.store import Store
from pitr.clock import now_us
from pitr.config import Settings
from pitr.errors import ObjectMissing
from pitr.operations.opening import open_archive_store
from pitr.operations.prune import PruneOutcome, PruneWish, by_kind, kept_from_us
from pitr.operations.sqlite.status import bases_of
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.pruning import PrunePlan, PrunePlanStale, plan_prune, run_prune
from pitr.vocabulary.position import CommitNumber

# A compaction beside it may take objects away that the plan names: then another plan is made.
_ATTEMPTS = 3


def prune(settings: Settings, wish: PruneWish, *, is_confirmed: bool) -> PruneOutcome:
    """Return what the policy drops; with `is_confirmed` drop it."""
    store = open_archive_store(settings)
    open_archive(store)
    from_us = kept_from_us(wish, lambda: [base.time_us for base in bases_of(PageArchive(store))])
    if not is_confirmed:
        return _outcome(_plan(store, wish, from_us), read_marks(store), wish, from_us, done=False)
    with claimed(store, ClaimKind.PRUNE) as claim:
        refuse_others(store, ClaimKind.PRUNE, claim)
        return _pruned(store, wish, from_us, claim)


def _pruned(store: Store, wish: PruneWish, from_us: int, claim: Claim) -> PruneOutcome:
    marks = read_marks(store)
    for attempt in range(_ATTEMPTS):
        try:
            plan = _plan(store, wish, from_us)
            outcome = _outcome(plan, marks, wish, from_us, done=True)
            for name in outcome.dropped_marks:
                delete_mark(store, name)
            run_prune(store, plan, before_each=claim.require_fresh)
        except (PrunePlanStale, ObjectMissing):
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            break
    return outcome


def _plan(store: Store, wish: PruneWish, from_us: int) -> PrunePlan:
    marks = read_marks(store) if wish.keep_marks else []
    numbers = {_number(mark) for mark in marks}
    return plan_prune(store, horizon_us=from_us, marks=numbers, now_us=now_us())


def _outcome(
    plan: PrunePlan, marks: list[Mark], wish: PruneWish, from_us: int, *, done: bool
) -> PruneOutcome:
    before = [mark for mark in marks if plan.horizon and _number(mark) < plan.horizon.number]
    names = tuple(mark.name for mark in before)
    return PruneOutcome(
        from_us=from_us,
        position=str(CommitNumber(plan.horizon.number)) if plan.horizon else None,
        kept_marks=names if wish.keep_marks else (),
        dropped_marks=() if wish.keep_marks else names,
        dropped=by_kind(plan.deleted),
        written_bytes=plan.written_bytes,
        done=done,
    )


def _number(mark: Mark) -> int:
    return CommitNumber.parse(mark.position).value
