"""A whole archive read again: its objects, then where each base leads on each timeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pitr.archive.archive import open_archive
from pitr.archive.lease import read_newest_lease
from pitr.archive.store import Store
from pitr.errors import CorruptObject, ObjectMissing
from pitr.postgres.base.contents import BaseInfo
from pitr.postgres.base.leading import end_of, is_of
from pitr.postgres.base.object import chunk_seed
from pitr.postgres.capture.gap import WalGap
from pitr.postgres.index.fingerprint import Fingerprint
from pitr.postgres.index.verification import CheckedIndex, verify_index
from pitr.postgres.prune.note import pruned_before
from pitr.postgres.verification.base import verify_bases
from pitr.postgres.verification.documents import (
    verify_backup_histories,
    verify_catalog,
    verify_gaps,
    verify_histories,
    verify_rest,
)
from pitr.postgres.verification.findings import Findings, MissingWal, Reach
from pitr.postgres.verification.loss import Losses
from pitr.postgres.verification.wal import VerifiedWal, verify_wal
from pitr.postgres.wal_store.spans import WalSpans
from pitr.vocabulary.damage import Damage
from pitr.vocabulary.position import Lsn


@dataclass(frozen=True, slots=True)
class Report:
    """What was read, what is damaged and lost, what is missing, and what can be gone back to."""

    objects: int
    bytes: int
    damaged: tuple[Damage, ...]
    missing: tuple[MissingWal, ...]
    reaches: tuple[Reach, ...]
    leftovers: tuple[str, ...]


def verify_archive(store: Store) -> Report:
    """Read everything that a store holds of one archive of PostgreSQL.

    Runs beside capture, backup and compaction: what they add or replace meanwhile is no fault.
    Raises NotConfigured, StoreUnusable, PreconditionFailed for objects of a later format, and
    CorruptObject for a damaged identity: without it nothing says whose archive this is.
    """
    identity = open_archive(store)
    found = Findings()
    stored = _stored_until(store)
    histories = verify_histories(store, found)
    gaps = verify_gaps(store, found)
    wal = verify_wal(store, identity.source["system_identifier"], histories, found)
    dropped = pruned_before(store)
    for checked in verify_index(store):
        _judge_index(checked, wal, found, dropped)
    bases = verify_bases(store, chunk_seed(identity.archive_id), found)
    verify_catalog(store, found)
    verify_backup_histories(store, found)
    verify_rest(store, found)
    spans = WalSpans(wal.spans(), histories)
    missing = tuple(m for m in _missing(wal, spans, gaps, stored) if m.end > dropped)
    infos = sorted(bases.infos, key=lambda info: info.start)
    reaches = tuple(_reaches(infos, spans))
    losses = Losses(store, bases, missing, reaches)
    return Report(
        found.objects,
        found.size,
        tuple(Damage(key, why, losses.of(key)) for key, why in sorted(found.damaged.items())),
        missing,
        reaches,
        tuple(sorted(found.leftovers)),
    )


def _stored_until(store: Store) -> int:
    """Return up to where the newest lease says that the archive has WAL."""
    try:
        lease = read_newest_lease(store)
    except (CorruptObject, ObjectMissing):
        return 0  # that it is damaged will be found with all other objects
    return lease.head_commit if lease else 0


def _judge_index(checked: CheckedIndex, wal: VerifiedWal, found: Findings, dropped: Lsn) -> None:
    """Hold an object of the index against the WAL, where all of that is known."""
    item = checked.object
    found.count(item.size)
    if checked.fault is not None:
        found.damage(item.key, checked.fault)
        return
    begins_at = {begin for begin, _ in wal.ranges.get(item.timeline, ())}
    if item.begin <= dropped.value and item.begin in begins_at:
        return  # a record that ends in it began in WAL that a prune dropped
    begins = range(item.begin, item.end, wal.segment_bytes or item.end - item.begin)
    of_wal = [wal.fingerprints.get((item.timeline, begin)) for begin in begins]
    total = Fingerprint()
    for fingerprint in of_wal:
        if fingerprint is None:
            return
        total = total.plus(fingerprint)
    if total != checked.fingerprint:
        rows = f"It has {checked.fingerprint.rows} rows, the WAL gives {total.rows}"
        found.damage(item.key, f"It contradicts the WAL. {rows}.")


def _missing(
    wal: VerifiedWal, spans: WalSpans, gaps: Sequence[WalGap], stored: int
) -> Iterator[MissingWal]:
    """Yield what lies between the stretches of a history, and what the lease says was there."""
    notes = [(Lsn.parse(gap.begin), Lsn.parse(gap.end)) for gap in gaps]
    size = wal.segment_bytes
    told: set[tuple[Lsn, Lsn]] = set()
    for timeline in spans.timelines():
        for (_, begin), (end, _) in pairwise(spans.ranges(timeline)):
            if (begin, end) not in told:
                told.add((begin, end))
                is_known = any(low <= begin and end <= high for low, high in notes)
                yield MissingWal(timeline, begin, end, is_known, size)
    ends = {timeline: ranges[-1][1] for timeline, ranges in wal.ranges.items() if ranges}
    if ends and stored > max(ends.values()):
        newest = max(ends)
        yield MissingWal(newest, Lsn(ends[newest]), Lsn(stored), known=False, segment_bytes=size)


def _reaches(infos: Sequence[BaseInfo], spans: WalSpans) -> Iterator[Reach]:
    """Yield where each base leads, on its own timeline and on those that come from it."""
    for info in infos:
        end = end_of(info)
        for timeline in spans.timelines() or [info.timeline]:
            if not is_of(spans, info, timeline):
                continue
            last = next(
                (high for low, high in spans.ranges(timeline) if low <= info.start <= high), None
            )
            if last is not None and last >= end:
                yield Reach(info.id, timeline, end, last)
            else:
                yield Reach(info.id, timeline, None, None)
