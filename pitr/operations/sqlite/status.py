"""status: what can be gone back to, how far behind the archive is, and what went wrong last."""

from __future__ import annotations

from pathlib import Path

from pitr.archive.archive import read_marks
from pitr.archive.lease import is_live
from pitr.archive.verification import Proof, last_verification
from pitr.config import Settings
from pitr.errors import SourceUnusable
from pitr.operations.sqlite.reading import Reading, open_reading
from pitr.operations.status import Base, Gap, Status
from pitr.sqlite.capture.live import Standing, last_changed_us, standing
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.segment import CommitKind, CommitRecord
from pitr.vocabulary.position import CommitNumber

_GAP_KINDS = (CommitKind.GAP, CommitKind.FORK)
# A lease is renewed once a minute; later, its capture hangs or its store fails.
_RENEWED_US_MAX = 90_000_000
# How long a store may take for what was just captured.
_STORING_US = 1_000_000


def status(settings: Settings) -> Status:
    """Return the state of an archive, of its capture, and how the source stands to it."""
    reading = open_reading(settings)
    pages, lease = reading.pages, reading.lease
    catalog = pages.catalog
    special = pages.special_commits()
    live = lease is not None and is_live(lease, at_us=reading.now_us)
    return Status(
        window=reading.window(),
        positions=_positions(reading),
        lag_us=_lag_us(settings, reading, capturing=live),
        capturing=live,
        holder=str(lease.holder) if lease and live else None,
        granularity=_granularity(reading),
        gaps=_gaps(reading, special),
        archive_bytes=catalog.size,
        bases=bases_of(pages, special),
        marks=tuple(read_marks(reading.store)),
        last_error=_last_error(reading),
        spooled_bytes=lease.spooled_bytes if lease else 0,
        verified=last_verification(reading.store, Proof.OBJECTS),
        drilled=last_verification(reading.store, Proof.DRILL),
    )


def _positions(reading: Reading) -> tuple[str, str] | None:
    catalog = reading.pages.catalog
    if not catalog.tiles:
        return None
    first = reading.pages.record_of(catalog.first_commit)  # it may stand for several
    return str(CommitNumber(first.number)), str(CommitNumber(catalog.last_commit))


def _last_error(reading: Reading) -> str | None:
    if reading.lease_fault is not None:
        return f"{reading.lease_fault.message}: {reading.lease_fault.detail}"
    return reading.lease.last_error if reading.lease else None


def _granularity(reading: Reading) -> str | None:
    if not reading.pages.catalog.tiles:
        return None
    return "poll" if reading.pages.last_commit().change_counter else "commit"


def _lag_us(settings: Settings, reading: Reading, *, capturing: bool) -> int:
    """Return the age of the oldest commit that is not archived, 0 when there is none.

    As well as can be known. Nothing in a database tells when a commit was made, so what was not
    captured counts from the moment up to which the archive is proven current. A source that
    cannot be asked has no commits but those that its capture has spooled.
    """
    lease, now = reading.lease, reading.now_us
    until_us = reading.identity.created_us
    if reading.pages.catalog.tiles:
        proven_us = lease.current_until_us if lease else 0
        until_us = max(proven_us, reading.pages.last_commit().time_end_us)
    spooled = lease is not None and lease.spooled_bytes > 0
    if reading.live is None:
        return max(0, now - until_us) if spooled else 0
    # A capture that works notes how far it has come once in a while only, but has everything that
    # is older than its own intervals.
    works = capturing and lease is not None and now - lease.renewed_us < _RENEWED_US_MAX
    if works and not spooled:
        until_us = max(until_us, now - settings.poll_us - settings.flush_us - _STORING_US)
    elif lease is not None and lease.released:
        until_us = max(until_us, lease.renewed_us)
    return max(0, now - until_us) if _is_ahead(reading, reading.live, until_us) else 0


def _is_ahead(reading: Reading, live: Path, until_us: int) -> bool:
    """Return whether the source has commits that the archive lacks.

    Where SQLite's own files do not tell, the times of the files do.
    """
    try:
        if not reading.pages.catalog.tiles:
            return live.stat().st_size > 0
        proven_us = reading.lease.current_until_us if reading.lease else 0
        stands = standing(live, reading.pages.last_commit(), proven_us=proven_us)
        if stands is Standing.UNKNOWN:
            return last_changed_us(live) > until_us
        return stands is Standing.AHEAD
    except (OSError, SourceUnusable):
        return False


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


def bases_of(pages: PageArchive, special: list[CommitRecord] | None = None) -> tuple[Base, ...]:
    """Return the bases: what was stored whole, and the state that a prune put at the beginning."""
    catalog = pages.catalog
    found = pages.special_commits() if special is None else special
    bases = [record for record in found if record.kind is CommitKind.BASE]
    if catalog.tiles and not (bases and bases[0].number == catalog.first_commit):
        first = pages.record_of(catalog.first_commit)
        bases = [first, *bases] if first.first_covered == 1 else bases
    return tuple(
        Base(
            str(CommitNumber(record.number)), record.time_end_us, _tile_bytes(pages, record.number)
        )
        for record in bases
    )


def _tile_bytes(pages: PageArchive, number: int) -> int:
    tile = pages.catalog.tile_of(number)
    return tile.size if tile else 0
