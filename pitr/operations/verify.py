"""verify: read every archived object again."""

from __future__ import annotations

from pitr.archive.archive import open_archive
from pitr.archive.location import open_store
from pitr.config import Settings
from pitr.sqlite.pagelog.verify import VerifyReport, verify_archive


def verify(settings: Settings) -> VerifyReport:
    """Return what is damaged or missing in the archive. Reads the archive only."""
    store = open_store(settings.needed_archive())
    open_archive(store)
    return verify_archive(store)
