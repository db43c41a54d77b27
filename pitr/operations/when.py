"""when: the transaction in which a row vanished or changed, from the archive alone."""

from __future__ import annotations

from collections.abc import Callable

from pitr.config import Settings
from pitr.operations.engine import engine_of_archive, wired
from pitr.vocabulary.change import WhenOutcome


def find_row(
    settings: Settings,
    table: str,
    where: str,
    *,
    gone: bool,
    on_progress: Callable[[str], None],
) -> WhenOutcome:
    """Return what became of the newest row that met `where`; `on_progress` hears about long work.

    Raises UsageError for a condition that cannot be asked, TableUnknown, ArchiveLacks.
    """
    verb = wired(find_row, engine_of_archive(settings))
    return verb(settings, table, where, gone=gone, on_progress=on_progress)
