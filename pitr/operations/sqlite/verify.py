"""verify: read every archived object of a SQLite source again."""

from __future__ import annotations

from pitr.archive.archive import open_archive
from pitr.config import Settings
from pitr.operations.opening import open_archive_store
from pitr.operations.verify import VerifyOutcome
from pitr.sqlite.pagelog.verify import verify_archive
from pitr.vocabulary.damage import Damage
from pitr.vocabulary.position import CommitNumber


def verify(settings: Settings) -> VerifyOutcome:
    """Return what is damaged or missing in the archive. Reads the archive only."""
    store = open_archive_store(settings)
    open_archive(store)
    report = verify_archive(store)
    return VerifyOutcome(
        objects=report.objects,
        bytes=report.bytes,
        damaged=tuple(Damage(key, reason) for key, reason in report.damaged),
        holes=tuple(
            (str(CommitNumber(first)), str(CommitNumber(last))) for first, last in report.holes
        ),
        last_good=str(CommitNumber(report.last_good_commit)) if report.last_good_commit else None,
    )
