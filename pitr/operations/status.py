"""status: what can be gone back to, how far behind the archive is, and what went wrong last."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.archive.archive import Mark, read_marks
from pitr.archive.lease import is_live
from pitr.config import Settings
from pitr.operations.reading import Reading, open_reading
from pitr.sqlite.segment import CommitKind, CommitRecord
from pitr.sqlite.target import Window
from pitr.vocabulary.position import CommitNumber

_GAP_KINDS = (CommitKind.GAP, CommitKind.FORK)


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch whose interior is not known: between two moments, before a commit.

    `kind` is gap, fork, or missing for commits whose objects are gone from the store.
    """

    kind: str
    from_us: int
    to_us: int
    position: str


@dataclass(frozen=True, slots=True)
class Base:
    """A state that can be read without the commits before it."""

    id: str
    time_us: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Status:
    """What `pitr status` shows. Times in µs since the epoch; None where there is nothing."""

    window: Window | None
    commits: tuple[int, int] | None
    lag_us: int
    capturing: bool
    holder: str | None
    gaps: tuple[Gap, ...]
    archive_bytes: int
    bases: tuple[Base, ...]
    marks: tuple[Mark, ...]
    last_error: str | None
    spooled_bytes: int


def status(settings: Settings) -> Status:
    """Return the state of an archive and its capture. Reads the archive only."""
    reading = open_reading(settings)
    pages, lease = reading.pages, reading.lease
    catalog = pages.catalog
    special = [r for r in pages.commits() if r.kind is not CommitKind.COMMIT]
    live = lease is not None and is_live(lease, at_us=reading.now_us)
    return Status(
        window=reading.window(),
        commits=(catalog.first_commit, catalog.last_commit) if catalog.tiles else None,
        lag_us=_lag_us(reading),
        capturing=live,
        holder=str(lease.holder) if lease and live else None,
        gaps=_gaps(reading, special),
        archive_bytes=catalog.size,
        bases=_bases(reading, special),
        marks=tuple(read_marks(reading.store)),
        last_error=lease.last_error if lease else None,
        spooled_bytes=lease.spooled_bytes if lease else 0,
    )


def _lag_us(reading: Reading) -> int:
    """Return the age of the oldest commit that may not be archived yet, 0 when there is none.

    When the source cannot be asked, or has moved on, that is the time since the archive was last
    proven current.
    """
    if not reading.pages.catalog.tiles or reading.live is None:
        return 0
    until = max(reading.current_until_us(), reading.pages.last_commit().time_end_us)
    return max(0, reading.now_us - until)


def _gaps(reading: Reading, special: list[CommitRecord]) -> tuple[Gap, ...]:
    gaps = [
        Gap(
            record.kind.name.lower(),
            record.time_begin_us,
            record.time_end_us,
            str(CommitNumber(record.number)),
        )
        for record in special
        if record.kind in _GAP_KINDS
    ]
    for first, last in reading.pages.catalog.holes:
        before = reading.pages.record_of(first - 1)
        after = reading.pages.record_of(last + 1)
        position = str(CommitNumber(after.number))
        gaps.append(Gap("missing", before.time_end_us, after.time_end_us, position))
    return tuple(sorted(gaps, key=lambda gap: gap.from_us))


def _bases(reading: Reading, special: list[CommitRecord]) -> tuple[Base, ...]:
    catalog = reading.pages.catalog
    bases = {}
    for record in special:
        tile = catalog.tile_of(record.number)
        if record.kind is CommitKind.BASE and tile:
            bases[record.number] = Base(
                str(CommitNumber(record.number)), record.time_end_us, tile.size
            )
    for item in catalog.maps:
        if item.commit not in bases and catalog.tile_of(item.commit):
            record = reading.pages.record_of(item.commit)
            position = str(CommitNumber(item.commit))
            bases[item.commit] = Base(position, record.time_end_us, item.size)
    return tuple(bases[number] for number in sorted(bases))
