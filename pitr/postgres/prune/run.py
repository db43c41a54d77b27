"""Drop what a plan says: first what leads to content, then the content.

Without its manifest a base does not exist, without index and readings WAL is only found more
slowly; so whatever the moment of a kill, what is still named is still whole. What was left is found
by the next plan, for it names whatever nothing kept needs.
"""

from __future__ import annotations

from collections.abc import Sequence

from pitr.archive.claim import Claim, ClaimKind, others
from pitr.archive.store import Store
from pitr.postgres.base.object import BASE_PREFIX
from pitr.postgres.prune.note import PruneNote, note_keys, write_note
from pitr.postgres.prune.plan import PrunePlan, packs_of


def run_prune(
    store: Store, plan: PrunePlan, claim: Claim, *, from_us: int, now_us: int
) -> tuple[str, ...]:
    """Drop it; return what was put off, and why.

    Packs stay while a backup runs, which may refer to any of them. Raises PreconditionFailed when
    this process stood still for so long that others may take its claim for dead; StoreUnusable.
    """
    if plan.needs.horizon is not None and plan.deleted:
        before = plan.needs.horizon.start_lsn
        newest = write_note(store, PruneNote(before=before, from_us=from_us, time_us=now_us))
        for key in note_keys(store):
            if key < newest:
                store.delete(key)
    for part in (plan.bases, plan.index, plan.catalog, plan.gaps, plan.wal):
        _delete(store, [key for key, _ in part], claim)
    if not plan.packs:
        return ()
    running = others(store, ClaimKind.BACKUP, claim)
    if running:
        return (f"a backup runs ({running[0].holder}): packs stay until the next prune",)
    # Bases that came since, by whoever does not know of claims.
    new = [info for info in store.list(BASE_PREFIX) if info.key not in plan.known_bases]
    used = packs_of(store, new)
    _delete(store, [key for key, _ in plan.packs if key not in used], claim)
    return ()


def _delete(store: Store, keys: Sequence[str], claim: Claim) -> None:
    for key in keys:
        claim.require_fresh()
        store.delete(key)
