"""guard check: what SQL would destroy, seen before it runs; nothing of it is run on the source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pitr.config import Settings
from pitr.errors import UsageError
from pitr.operations.engine import engine_of_source, wired
from pitr.vocabulary.statement_finding import SqlText, StatementFinding

ENGINES = ("postgres", "sqlite")


def check_statements(
    settings: Settings, texts: Sequence[SqlText], *, engine: str | None
) -> list[list[StatementFinding]]:
    """Return the findings of each text, in the order of its statements.

    With `engine` the texts alone are looked at; else the source's engine is taken, and its schema
    is read. Raises UsageError for what is no SQL, SourceUnusable, NotConfigured.
    """
    chosen = engine or engine_of_source(settings)
    return wired(check_statements, chosen)(settings, texts, engine=engine)


@contextmanager
def in_file(text: SqlText) -> Iterator[None]:
    """Let what is wrong with a text in the block be told with the name of its file."""
    try:
        yield
    except UsageError as error:
        message = f"{text.name}: {error.message}"
        raise UsageError(message, detail=error.detail, hint=error.hint) from None
