"""Which base backup of an archive leads to a position of its WAL."""

from __future__ import annotations

from pitr.errors import OutsideWindow
from pitr.operations.postgres.reading import Reading
from pitr.postgres.base.archive import BaseArchive
from pitr.postgres.base.contents import BaseInfo
from pitr.postgres.base.leading import end_of, leads_to, newest_leading
from pitr.postgres.replay.replay import StopPoint
from pitr.postgres.target.by_index import Stretch
from pitr.vocabulary.position import Lsn


def nearest_base(reading: Reading, bases: BaseArchive, stop: StopPoint) -> BaseInfo:
    """Return the newest base from which the WAL leads to a stop without a gap.

    Raises OutsideWindow naming the bases that there are. A damaged manifest is passed over.
    """
    known = bases.bases(lambda _: None)
    found = newest_leading(reading.wal, known, stop.timeline, stop.lsn)
    if found is not None:
        return found
    there = ", ".join(f"{info.id} (usable from {info.end})" for info in known)
    raise OutsideWindow(
        "no base backup leads to the target",
        detail=f"The target is {stop.lsn}. The archive has {there or 'no base backup'}.",
        hint=(
            "Choose a later target; 'pitr backup' takes a base for those to come."
            if known
            else "'pitr backup' takes the first one; from its end on there are targets."
        ),
    )


def earliest_state(reading: Reading, bases: BaseArchive, stretch: Stretch) -> Lsn | None:
    """Return the first position of a stretch that can be recovered to; None when there is none."""
    ends = (
        end_of(info)
        for info in bases.bases(lambda _: None)
        if stretch.begin <= info.start
        and leads_to(reading.wal, info, stretch.timeline, stretch.end)
    )
    return min(ends, default=None)
