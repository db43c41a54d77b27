"""What can be gone back to around a gap in the WAL: the error that names it, and the way out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from pitr.errors import ArchiveGap
from pitr.postgres.base.contents import BaseInfo
from pitr.postgres.base.leading import end_of
from pitr.postgres.target.by_index import Resolver, Stretch
from pitr.target_text import format_time
from pitr.vocabulary.target import LsnTarget, RelativeTarget, Target, TimeTarget


def gap_around(
    target: Target, resolvers: Sequence[tuple[Stretch, Resolver]], now_us: int
) -> tuple[Stretch, Stretch] | None:
    """Return the stretches before and after the gap that a target lies in; None in no gap.

    `resolvers` are of all stretches, oldest first.
    """
    for (older, before), (newer, after) in pairwise(resolvers):
        if isinstance(target, LsnTarget):
            if older.end < target.lsn < newer.begin:
                return older, newer
            continue
        time_us = _time_us(target, now_us)
        if time_us is not None:
            last = before.last_commit(older.end)
            first = next(after.ends_from(newer.begin), None)
            if last and first and last.time_us < time_us < first.time_us:
                return older, newer
    return None


def _time_us(target: Target, now_us: int) -> int | None:
    if isinstance(target, TimeTarget):
        return target.time_us
    return target.time_us(now_us) if isinstance(target, RelativeTarget) else None


def in_gap(
    text: str, older: Stretch, newer: Stretch, bases: Iterable[BaseInfo], first_us: int | None
) -> ArchiveGap:
    """Return the error for a target in the gap between two stretches.

    It names the nearest targets that a base leads to. `first_us` is when the first transaction
    after the gap committed, if there is one.
    """
    usable = [(info.start, end_of(info)) for info in bases]
    before = any(older.begin <= start and end <= older.end for start, end in usable)
    after = min((end for start, end in usable if newer.begin <= start), default=None)
    ways = [f"before it 'lsn:{older.end}'"] if before else []
    ways += [f"after it 'lsn:{after}'"] if after is not None else []
    began = f", which begins again at {format_time(first_us)}" if first_us else ""
    return ArchiveGap(
        f"target {text} lies in a gap of the archive",
        detail=f"WAL is missing from {older.end} to {newer.begin}{began}.",
        hint=f"The nearest that can be gone back to: {', '.join(ways)}."
        if ways
        else "No base backup leads to either side of it; 'pitr backup' takes one.",
    )
