"""check: what there is to say about a SQLite file before it is captured."""

from __future__ import annotations

from pitr.config import Settings
from pitr.operations.check import Examination
from pitr.sqlite.capture.capability import check_source


def examine(settings: Settings) -> Examination:
    """Look at the file. Its identity is its path."""
    source = settings.needed_source()
    return Examination(tuple(check_source(source.path)), {"path": source.location})
