"""Reach a target with a base backup and WAL that lie about, without an archive of ours."""

from __future__ import annotations

from pathlib import Path

from pitr.errors import ArchiveGap
from pitr.postgres.base.folder import BaseFolder
from pitr.postgres.replay.replay import ReplaySource, StopPoint, open_source
from pitr.postgres.selection.by_wal import WalWindow
from pitr.postgres.target.by_wal import FoundTarget, WalTargets
from pitr.postgres.wal_store.folder import WalFolder
from pitr.target_text import parse_target


def find_in_files(
    backup: Path, wal: Path, target: str, now_us: int
) -> tuple[ReplaySource, FoundTarget, StopPoint]:
    """Return the source that both folders make, and what a target comes to in it.

    Raises IdentityMismatch, ArchiveGap, and what reading both and resolving the target raise.
    """
    source = open_source(BaseFolder(backup), WalFolder(wal))
    found, stop = _resolve(source, target, now_us)
    return source, found, stop


def _resolve(source: ReplaySource, text: str, now: int) -> tuple[FoundTarget, StopPoint]:
    """Return what a target comes to on the newest timeline that the backup is of."""
    target = parse_target(text, now_us=now)
    timeline = _timeline(source)
    redo = source.label.redo
    ranges = source.wal.ranges(timeline)
    ends = [end for begin, end in ranges if begin <= redo < end]
    if not ends:
        raise ArchiveGap(
            f"WAL is missing: {redo} of timeline {timeline}, where the base backup begins",
            detail="Recovery begins there.",
            hint="Name the folder with the WAL from the backup on, or a later backup.",
        )
    window = WalWindow(source.wal, timeline, redo.value, ends[0].value, source.control.next_xid)
    begin = source.base.info.end or source.label.checkpoint
    behind = min((begin for begin, _ in ranges if begin > ends[0]), default=None)
    missing = (ends[0], behind) if behind is not None else None
    found = WalTargets(window, begin=begin, missing=missing).resolve(target, now_us=now)
    return found, StopPoint(timeline, found.stop)


def _timeline(source: ReplaySource) -> int:
    """Return the newest timeline on which the base backup lies."""
    label = source.label
    for timeline in sorted(source.wal.timelines(), reverse=True):
        history = source.wal.history(timeline)
        if timeline == label.timeline or any(
            entry.timeline == label.timeline and entry.switch >= label.redo for entry in history
        ):
            return timeline
    return label.timeline
