"""log: the transactions that touched tables, from the archive alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pitr.config import Settings
from pitr.operations.engine import engine_of_archive, wired
from pitr.vocabulary.change import Transaction


@dataclass(frozen=True, slots=True)
class LogRequest:
    """Which transactions: of these tables (all when empty), after and up to these targets.

    `with_aborted` asks for those that were rolled back too, where the engine keeps a trace of them.
    """

    tables: Sequence[str]
    since: str | None
    until: str | None
    limit: int | None
    with_aborted: bool = False


def log_transactions(settings: Settings, request: LogRequest) -> list[Transaction]:
    """Return the transactions, newest last.

    Raises UsageError, TableUnknown, and ArchiveLacks for targets outside of what is archived.
    """
    return wired(log_transactions, engine_of_archive(settings))(settings, request)
