"""sql: ask the whole database as it was, without restoring anything; ask a sidecar."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from pitr.config import Settings
from pitr.operations.engine import engine_of_archive, wired
from pitr.recovery.folder import read_recovery
from pitr.vocabulary.query import QueryResult
from pitr.vocabulary.target import ResolvedTarget


def query_past(
    settings: Settings,
    target: str,
    statement: str,
    *,
    database: str | None = None,
    on_target: Callable[[ResolvedTarget], None],
) -> AbstractContextManager[QueryResult]:
    """Run one reading statement on the database as it was; rows are read inside the block.

    `database` is one of a PostgreSQL cluster; without it that of the source. Raises UsageError for
    a statement that would do more, and what resolving the target raises.
    """
    verb = wired(query_past, engine_of_archive(settings))
    return verb(settings, target, statement, database=database, on_target=on_target)


def query_sidecar(
    settings: Settings, recovery_id: str | None, statement: str
) -> AbstractContextManager[QueryResult]:
    """Run one reading statement on a recovery's sidecar; rows are read inside the block.

    Raises UsageError, PreconditionFailed when the sidecar is gone.
    """
    engine = read_recovery(settings.state, recovery_id).engine
    return wired(query_sidecar, engine)(settings, recovery_id, statement)
