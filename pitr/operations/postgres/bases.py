"""Which base backup of an archive leads to a position of its WAL."""

from __future__ import annotations

from pitr.errors import OutsideWindow
from pitr.operations.postgres.reading import Reading
from pitr.postgres.base.archive import BaseArchive
from pitr.postgres.base.contents import BaseInfo
from pitr.postgres.replay.replay import StopPoint
from pitr.postgres.target.by_index import Stretch
from pitr.vocabulary.position import Lsn


def nearest_base(reading: Reading, bases: BaseArchive, stop: StopPoint) -> BaseInfo:
    """Return the newest base from which the WAL leads to a stop without a gap.

    Raises OutsideWindow naming the bases that there are. A damaged manifest is passed over.
    """
    ranges = reading.wal.ranges(stop.timeline)
    known = bases.bases(lambda _: None)
    for info in sorted(known, key=lambda info: info.start, reverse=True):
        is_before = (info.end or info.start) <= _limit(reading, info, stop)
        if is_before and any(low <= info.start and stop.lsn <= high for low, high in ranges):
            return info
    there = ", ".join(f"{info.id} (usable from {info.end})" for info in known)
    raise OutsideWindow(
        "no base backup leads to the target",
        detail=f"The target is {stop.lsn}. The archive has {there or 'no base backup'}.",
        hint="Choose a later target; 'pitr backup' takes a base for those to come.",
    )


def earliest_state(reading: Reading, stretch: Stretch) -> Lsn:
    """Return the first position of a stretch that can be recovered to. Raises OutsideWindow."""
    bases = BaseArchive(reading.store)
    stop = StopPoint(stretch.timeline, stretch.end)
    usable = [
        info.end or info.start
        for info in bases.bases(lambda _: None)
        if stretch.begin <= info.start and (info.end or info.start) <= _limit(reading, info, stop)
    ]
    if not usable:
        nearest_base(reading, bases, stop)  # says which bases there are
    return min(usable)


def _limit(reading: Reading, info: BaseInfo, stop: StopPoint) -> Lsn:
    """Return up to where a base's own timeline leads towards a stop; 0 when it does not."""
    switches = {entry.timeline: entry.switch for entry in reading.wal.history(stop.timeline)}
    switches[stop.timeline] = stop.lsn
    return min(stop.lsn, switches.get(info.timeline, Lsn(0)))
