"""export: a base of the archive, and its WAL, in PostgreSQL's own layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pitr.archive.archive import open_archive
from pitr.config import Settings
from pitr.errors import ArchiveGap, ArchiveLacks, PreconditionFailed
from pitr.operations.opening import open_archive_store
from pitr.postgres.base.archive import BaseArchive
from pitr.postgres.base.contents import BaseInfo
from pitr.postgres.base.export import export_base, export_wal
from pitr.postgres.base.leading import end_of, is_of
from pitr.postgres.wal_store.archive import WalArchive
from pitr.vocabulary.event import OnEvent
from pitr.vocabulary.position import Lsn


@dataclass(frozen=True, slots=True)
class ExportWish:
    """What to write where.

    `folder` becomes the data directory, `tablespaces` the folder of its tablespaces. `base` is the
    id of a base, None: the newest that ends before `until`. `timeline` is the one that the WAL
    leads to, None: the newest that goes on from the base. `until` is where the WAL ends, None: all
    that follows the base without a gap.
    """

    folder: Path
    tablespaces: Path
    base: str | None = None
    until: Lsn | None = None
    timeline: int | None = None


@dataclass(frozen=True, slots=True)
class ExportOutcome:
    """What was written: from which base, how many bytes of files, up to where the WAL goes.

    A server started on it comes up on `timeline` when that is the base's, and else on one of its
    own that begins there.
    """

    base: str
    folder: Path
    bytes: int
    segments: int
    until: Lsn
    timeline: int


def export(settings: Settings, wish: ExportWish, on_event: OnEvent) -> ExportOutcome:
    """Write a base and its WAL into folders that are absent or empty.

    The WAL is that of the base's timeline and of those that go on from it. Raises
    PreconditionFailed for an archive of another engine and for folders that are not empty,
    ArchiveLacks when there is no such base, ArchiveGap when its WAL is not whole, CorruptObject,
    StoreUnusable.
    """
    store = open_archive_store(settings)
    if open_archive(store).engine != "postgres":
        raise PreconditionFailed(
            f"the archive at {store.location} holds no PostgreSQL cluster",
            hint="A SQLite database comes back with 'pitr restore'.",
        )
    bases = BaseArchive(store)
    wal = WalArchive(store)
    info = _chosen(wal, bases.bases(), wish)
    timeline = wish.timeline or _newest_timeline(wal, info, wish.until)
    until = _wal_end(wal, info, timeline, wish.until)
    size = export_base(bases.open(info.id), wish.folder, wish.tablespaces, on_event)
    segments = export_wal(
        wal, wish.folder, timeline, info.start, until, base_timeline=info.timeline
    )
    return ExportOutcome(info.id, wish.folder.absolute(), size, segments, until, timeline)


def _newest_timeline(wal: WalArchive, info: BaseInfo, until: Lsn | None) -> int:
    """Return the newest timeline that goes on from a base, and has WAL up to `until`.

    It counts only where no gap lies before its own begin.
    """
    fitting = [
        timeline
        for timeline in wal.timelines()
        if is_of(wal, info, timeline)
        and _reach(wal, info, timeline) >= (until or _begin(wal, timeline))
    ]
    return max([info.timeline, *fitting])


def _begin(wal: WalArchive, timeline: int) -> Lsn:
    history = wal.history(timeline)
    return history[-1].switch if history else Lsn(0)


def _chosen(wal: WalArchive, bases: list[BaseInfo], wish: ExportWish) -> BaseInfo:
    fitting = [
        info
        for info in bases
        if wish.base in (None, info.id)
        and (wish.until is None or info.end is None or info.end <= wish.until)
        and (wish.timeline is None or is_of(wal, info, wish.timeline))
    ]
    if fitting:
        return fitting[-1]
    wanted = f"{wish.base} " if wish.base else ""
    before = f" that ends before {wish.until}" if wish.until else ""
    before += f" on the way to timeline {wish.timeline}" if wish.timeline else ""
    raise ArchiveLacks(
        f"the archive has no base {wanted}{before}".rstrip(),
        detail=f"It has {len(bases)} bases.",
        hint="'pitr status' lists them; 'pitr backup' takes one.",
    )


def _reach(wal: WalArchive, info: BaseInfo, timeline: int) -> Lsn:
    """Return up to where the WAL of a timeline follows the begin of a base without a gap."""
    ranges = wal.ranges(timeline)
    return next((end for begin, end in ranges if begin <= info.start < end), info.start)


def _wal_end(wal: WalArchive, info: BaseInfo, timeline: int, until: Lsn | None) -> Lsn:
    """Return where the WAL of a base ends, which has to be after the base itself."""
    reaches = _reach(wal, info, timeline)
    needed = until or end_of(info)
    if reaches < needed:
        raise ArchiveGap(
            f"the archive lacks WAL that the base {info.id} needs",
            detail=f"It has it from {info.start} to {reaches}, and needs it to {needed}.",
            hint="Run 'pitr capture --once' while the server still has it.",
        )
    return until or reaches
