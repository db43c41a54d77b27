"""guard check on SQLite: the texts on an empty copy of the schema, in memory."""

from __future__ import annotations

from collections.abc import Sequence

from pitr.config import Settings
from pitr.operations.guard_check import in_file
from pitr.sqlite.guard.checking import check
from pitr.sqlite.guard.schema import read_schema
from pitr.vocabulary.statement_finding import SqlText, StatementFinding


def check_statements(
    settings: Settings, texts: Sequence[SqlText], *, engine: str | None
) -> list[list[StatementFinding]]:
    """Return the findings of each text, in the order of its statements."""
    schema = None if engine is not None else read_schema(settings.needed_source().path)
    return [_checked(text, schema) for text in texts]


def _checked(text: SqlText, schema: list[str] | None) -> list[StatementFinding]:
    with in_file(text):
        return check(text.sql, schema)
