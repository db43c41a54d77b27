"""verify: read every archived object of a PostgreSQL cluster again."""

from __future__ import annotations

from pitr.config import Settings
from pitr.operations.opening import open_archive_store
from pitr.operations.verify import Reachable, VerifyOutcome
from pitr.postgres.verification.findings import Reach
from pitr.postgres.verification.run import Report, verify_archive


def verify(settings: Settings) -> VerifyOutcome:
    """Return what is damaged or missing in the archive. Reads the archive only."""
    report = verify_archive(open_archive_store(settings))
    return VerifyOutcome(
        objects=report.objects,
        bytes=report.bytes,
        damaged=report.damaged,
        holes=tuple((f"lsn:{m.begin}", f"lsn:{m.end}") for m in report.missing if not m.known),
        gaps=tuple((f"lsn:{m.begin}", f"lsn:{m.end}") for m in report.missing if m.known),
        last_good=_last_good(report),
        reachable=tuple(map(_reachable, report.reaches)),
        leftovers=report.leftovers,
    )


def _reachable(reach: Reach) -> Reachable:
    first = f"lsn:{reach.first}" if reach.first is not None else None
    last = f"lsn:{reach.last}" if reach.last is not None else None
    return Reachable(reach.base, reach.timeline, first, last)


def _last_good(report: Report) -> str | None:
    """Return up to where the oldest base of the newest timeline leads."""
    known = [reach for reach in report.reaches if reach.first is not None]
    if not known:
        return None
    newest = max(reach.timeline for reach in known)
    oldest = min(
        (reach for reach in known if reach.timeline == newest), key=lambda reach: str(reach.base)
    )
    return f"lsn:{oldest.last}"
