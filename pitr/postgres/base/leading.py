"""Which base backup leads to a position of the WAL: one rule for restore, export, prune and verify.

What prune keeps and what a restore begins with must never be two opinions. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pitr.postgres.base.contents import BaseInfo
from pitr.postgres.wal.history import HistoryEntry
from pitr.vocabulary.position import Lsn


class WalThere(Protocol):
    """What is to be known of the WAL that follows bases."""

    def history(self, timeline: int) -> tuple[HistoryEntry, ...]:
        """Return the ancestors of a timeline, oldest first."""

    def ranges(self, timeline: int) -> list[tuple[Lsn, Lsn]]:
        """Return the stretches of its WAL, its ancestors' included, that have no gap."""


def end_of(base: BaseInfo) -> Lsn:
    """Return the first position that a base leads to: its start where its end is not known."""
    return base.end or base.start


def is_of(wal: WalThere, base: BaseInfo, timeline: int) -> bool:
    """Return whether a base is of a timeline, or of an ancestor before that was left."""
    return base.timeline == timeline or any(
        entry.timeline == base.timeline and end_of(base) <= entry.switch
        for entry in wal.history(timeline)
    )


def leads_to(wal: WalThere, base: BaseInfo, timeline: int, stop: Lsn) -> bool:
    """Return whether the WAL leads from a base to a stop on a timeline without a gap."""
    return (
        is_of(wal, base, timeline)
        and end_of(base) <= stop
        and any(low <= base.start and stop <= high for low, high in wal.ranges(timeline))
    )


def newest_leading(
    wal: WalThere, bases: Iterable[BaseInfo], timeline: int, stop: Lsn
) -> BaseInfo | None:
    """Return the newest base that leads to a stop, which recovery begins with; None for none."""
    fitting = (base for base in bases if leads_to(wal, base, timeline, stop))
    return max(fitting, key=lambda base: (base.start, base.time_us), default=None)
