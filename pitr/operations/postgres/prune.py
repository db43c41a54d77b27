"""prune on PostgreSQL: bases, WAL, index, catalog and packs that no kept target needs."""

from __future__ import annotations

from pitr.archive.archive import Mark, delete_mark, open_archive, read_marks
from pitr.archive.claim import ClaimKind, claimed, refuse_others
from pitr.archive.store import Store
from pitr.clock import now_us
from pitr.config import Settings
from pitr.operations.opening import open_archive_store
from pitr.operations.prune import PruneOutcome, PruneWish, by_kind, kept_from_us
from pitr.postgres.base.archive import BaseArchive
from pitr.postgres.prune.needs import CLOCKS_US
from pitr.postgres.prune.plan import PrunePlan, plan_prune
from pitr.postgres.prune.run import run_prune
from pitr.vocabulary.position import Lsn


def prune(settings: Settings, wish: PruneWish, *, is_confirmed: bool) -> PruneOutcome:
    """Return what the policy drops; with `is_confirmed` drop it."""
    store = open_archive_store(settings)
    open_archive(store)
    marks = read_marks(store)
    if not is_confirmed:
        from_us = _from_us(store, wish)
        return _outcome(_plan(store, wish, marks, from_us), marks, wish, from_us)
    with claimed(store, ClaimKind.PRUNE) as claim:
        refuse_others(store, ClaimKind.PRUNE, claim)
        # Of bases that were there before the claim, and of none that comes: backups wait.
        from_us = _from_us(store, wish)
        plan = _plan(store, wish, marks, from_us)
        outcome = _outcome(plan, marks, wish, from_us)
        for name in outcome.dropped_marks:
            delete_mark(store, name)
        notes = run_prune(store, plan, claim, from_us=from_us, now_us=now_us())
    return _outcome(plan, marks, wish, from_us, notes=notes, done=True)


def _from_us(store: Store, wish: PruneWish) -> int:
    # A base itself is what its first target needs: the reserve for clocks is not its.
    return kept_from_us(
        wish, lambda: [base.time_us + CLOCKS_US for base in BaseArchive(store).bases()]
    )


def _plan(store: Store, wish: PruneWish, marks: list[Mark], from_us: int) -> PrunePlan:
    kept = [Lsn.of_position(mark.position) for mark in marks] if wish.keep_marks else []
    return plan_prune(store, from_us=from_us, marks=kept, now_us=now_us())


def _outcome(
    plan: PrunePlan,
    marks: list[Mark],
    wish: PruneWish,
    from_us: int,
    *,
    notes: tuple[str, ...] = (),
    done: bool = False,
) -> PruneOutcome:
    horizon = plan.needs.horizon
    first = horizon.end if horizon else None
    names = tuple(
        mark.name for mark in marks if first is not None and Lsn.of_position(mark.position) < first
    )
    deleted = plan.deleted
    if notes:  # the packs stayed
        deleted = tuple(item for item in deleted if item not in plan.packs)
    return PruneOutcome(
        from_us=from_us,
        position=f"lsn:{first}" if first is not None else None,
        kept_marks=names if wish.keep_marks else (),
        dropped_marks=() if wish.keep_marks else names,
        dropped=by_kind(deleted),
        written_bytes=0,
        done=done,
        notes=notes,
    )
