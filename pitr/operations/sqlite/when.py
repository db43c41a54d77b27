"""when: the transaction in which a row vanished or changed, from the archive alone."""

from __future__ import annotations

from collections.abc import Callable

from pitr.config import Settings
from pitr.operations.sqlite.reading import open_reading
from pitr.sqlite.rows.when import find_row as find_in_archive
from pitr.vocabulary.change import WhenOutcome


def find_row(
    settings: Settings,
    table: str,
    where: str,
    *,
    gone: bool,
    on_progress: Callable[[str], None],
) -> WhenOutcome:
    """Return what became of the newest row that met `where`. Raises what reading raises."""
    return find_in_archive(open_reading(settings).pages, table, where, gone=gone)
