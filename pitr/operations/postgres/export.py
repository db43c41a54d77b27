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
from pitr.postgres.wal_store.archive import WalArchive
from pitr.vocabulary.event import OnEvent
from pitr.vocabulary.position import Lsn


@dataclass(frozen=True, slots=True)
class ExportWish:
    """What to write where.

    `folder` becomes the data directory, `tablespaces` the folder of its tablespaces. `base` is the
    id of a base, None: the newest that ends before `until`. `until` is where the WAL ends, None:
    all that follows the base without a gap.
    """

    folder: Path
    tablespaces: Path
    base: str | None = None
    until: Lsn | None = None


@dataclass(frozen=True, slots=True)
class ExportOutcome:
    """What was written: from which base, how many bytes of files, up to where the WAL goes."""

    base: str
    folder: Path
    bytes: int
    segments: int
    until: Lsn


def export(settings: Settings, wish: ExportWish, on_event: OnEvent) -> ExportOutcome:
    """Write a base and its WAL into folders that are absent or empty.

    The WAL is that of the base's own timeline. Raises PreconditionFailed for an archive of another
    engine and for folders that are not empty, ArchiveLacks when there is no such base, ArchiveGap
    when its WAL is not whole, CorruptObject, StoreUnusable.
    """
    store = open_archive_store(settings)
    if open_archive(store).engine != "postgres":
        raise PreconditionFailed(
            f"the archive at {store.location} holds no PostgreSQL cluster",
            hint="A SQLite database comes back with 'pitr restore'.",
        )
    bases = BaseArchive(store)
    info = _chosen(bases.bases(), wish)
    wal = WalArchive(store)
    until = _wal_end(wal, info, wish.until)
    size = export_base(bases.open(info.id), wish.folder, wish.tablespaces, on_event)
    segments = export_wal(wal, wish.folder, info.timeline, info.start, until)
    return ExportOutcome(info.id, wish.folder.absolute(), size, segments, until)


def _chosen(bases: list[BaseInfo], wish: ExportWish) -> BaseInfo:
    fitting = [
        info
        for info in bases
        if wish.base in (None, info.id)
        and (wish.until is None or info.end is None or info.end <= wish.until)
    ]
    if fitting:
        return fitting[-1]
    wanted = f"{wish.base} " if wish.base else ""
    before = f" that ends before {wish.until}" if wish.until else ""
    raise ArchiveLacks(
        f"the archive has no base {wanted}{before}".rstrip(),
        detail=f"It has {len(bases)} bases.",
        hint="'pitr status' lists them; 'pitr backup' takes one.",
    )


def _wal_end(wal: WalArchive, info: BaseInfo, until: Lsn | None) -> Lsn:
    """Return where the WAL of a base ends, which has to be after the base itself."""
    reaches = next(
        (end for begin, end in wal.ranges(info.timeline) if begin <= info.start < end), info.start
    )
    needed = until or info.end or info.start
    if reaches < needed:
        raise ArchiveGap(
            f"the archive lacks WAL that the base {info.id} needs",
            detail=f"It has it from {info.start} to {reaches}, and needs it to {needed}.",
            hint="Run 'pitr capture --once' while the server still has it.",
        )
    return until or reaches
