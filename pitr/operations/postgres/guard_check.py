"""guard check on PostgreSQL: the texts by its parser, and what they reach by the live catalog."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from pitr.config import Settings
from pitr.operations.guard_check import in_file
from pitr.postgres.guard.cascade import Cascades
from pitr.postgres.guard.checking import check
from pitr.postgres.live.connection import connect
from pitr.vocabulary.statement_finding import SqlText, StatementFinding


def check_statements(
    settings: Settings, texts: Sequence[SqlText], *, engine: str | None
) -> list[list[StatementFinding]]:
    """Return the findings of each text, in the order of its statements."""
    if engine is not None:
        return [_checked(text, None) for text in texts]
    place = settings.needed_source().location
    with closing(connect(place, database=settings.database, program="pitr guard")) as connection:
        cascades = Cascades(connection)
        return [_checked(text, cascades) for text in texts]


def _checked(text: SqlText, cascades: Cascades | None) -> list[StatementFinding]:
    with in_file(text):
        return check(text.sql, cascades)
