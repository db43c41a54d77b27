"""Which bases and which WAL the kept targets need. No I/O.

Every target of a timeline needs a base before it and all WAL from that base's start on. So from a
time on everything stays recoverable when the newest base before that time stays, and all after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pitr.postgres.base.contents import BaseInfo
from pitr.postgres.base.leading import end_of, leads_to, newest_leading
from pitr.postgres.wal_store.spans import WalSpans
from pitr.vocabulary.position import Lsn

# A base has the time of the host that took it, commits have the server's: clocks may differ by so
# much. The store's times of objects are compared with the same reserve.
CLOCKS_US = 600_000_000


@dataclass(frozen=True, slots=True)
class Need:
    """WAL of a timeline and its ancestors that is needed, to the end when `end` is None."""

    timelines: frozenset[int]
    begin: int
    end: int | None


@dataclass(frozen=True, slots=True)
class Needs:
    """What stays: ids of bases, stretches of WAL, and the horizon of the newest timeline.

    `horizon` is the base from which on everything stays; None when the policy keeps all there is.
    """

    bases: frozenset[str]
    stretches: tuple[Need, ...]
    horizon: BaseInfo | None
    segment_bytes: int

    def covers(self, timeline: int, begin: int, end: int) -> bool:
        """Return whether any byte of WAL [begin, end) is needed.

        Whole segments count, and one more on either side: readers look at what is before a record
        and after a stop.
        """
        size = self.segment_bytes
        for need in self.stretches:
            low = need.begin - need.begin % size - size
            high = None if need.end is None else -(-need.end // size) * size + size
            if timeline in need.timelines and end > low and (high is None or begin < high):
                return True
        return False

    @property
    def first(self) -> int:
        """Return the first LSN that is needed of any timeline."""
        return min((need.begin for need in self.stretches), default=0)


def find_needs(
    wal: WalSpans,
    bases: Sequence[BaseInfo],
    *,
    segment_bytes: int,
    from_us: int,
    marks: Iterable[Lsn],
) -> Needs:
    """Return what has to stay so that every target from a time on, and each mark, stays one."""
    timelines = [timeline for timeline in wal.timelines() if wal.ranges(timeline)]
    limit_us = from_us - CLOCKS_US
    kept: set[str] = set()
    stretches: list[Need] = []
    horizon: BaseInfo | None = None
    for timeline in timelines:
        is_newest = timeline == timelines[-1]
        stored_us = max((span.stored_us for span in wal.of_timeline(timeline)), default=0)
        if not is_newest and stored_us < limit_us:
            continue  # nothing of it is as young as what is kept
        old = [base for base in bases if base.time_us <= limit_us]
        anchor = _newest_whole(wal, old, timeline)
        begin = anchor.start.value if anchor else 0
        stretches.append(Need(_lineage(wal, timeline), begin, None))
        kept |= {base.id for base in bases if anchor is None or base.time_us >= anchor.time_us}
        horizon = anchor if is_newest else horizon
    for base in bases:
        if base.time_us > limit_us:
            kept.add(base.id)
            stretches.append(Need(_lineage(wal, base.timeline), base.start.value, None))
    for mark in marks if timelines else ():
        nearest = newest_leading(wal, bases, timelines[-1], mark)
        if nearest is not None:
            kept.add(nearest.id)
            lineage = _lineage(wal, timelines[-1])
            stretches.append(Need(lineage, nearest.start.value, mark.value))
    return Needs(frozenset(kept), tuple(stretches), horizon, segment_bytes)


def _lineage(wal: WalSpans, timeline: int) -> frozenset[int]:
    return frozenset({timeline, *(entry.timeline for entry in wal.history(timeline))})


def _newest_whole(wal: WalSpans, bases: Sequence[BaseInfo], timeline: int) -> BaseInfo | None:
    """Return the newest base of a timeline that leads to its own end, and so to what follows."""
    whole = (base for base in bases if leads_to(wal, base, timeline, end_of(base)))
    return max(whole, key=lambda base: (base.start, base.time_us), default=None)
