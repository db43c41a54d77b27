"""when: the transaction in which a row vanished or changed, from the archive alone."""

from __future__ import annotations

from pitr.config import Settings
from pitr.operations.engine import engine_of_archive, wired
from pitr.vocabulary.change import WhenOutcome


def find_row(settings: Settings, table: str, where: str, *, gone: bool) -> WhenOutcome:
    """Return what became of the newest row that met `where`.

    Raises UsageError for a condition that cannot be asked, TableUnknown, ArchiveLacks.
    """
    return wired(find_row, engine_of_archive(settings))(settings, table, where, gone=gone)
