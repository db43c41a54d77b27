"""log: the transactions that touched tables, from the archive alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pitr.config import Settings
from pitr.operations.reading import open_reading
from pitr.sqlite.rows.log import transactions
from pitr.vocabulary.change import Transaction


@dataclass(frozen=True, slots=True)
class LogRequest:
    """Which transactions: of these tables (all when empty), after and up to these targets."""

    tables: Sequence[str]
    since: str | None
    until: str | None
    limit: int | None


def log_transactions(settings: Settings, request: LogRequest) -> list[Transaction]:
    """Return the transactions, newest last. Raises what targets and `transactions` raise."""
    reading = open_reading(settings)
    first = last = None
    if request.since is not None:
        first = reading.resolve(request.since).record.number + 1
    if request.until is not None:
        last = reading.resolve(request.until).record.number
    newest = reading.pages.last_commit().number
    if first is not None and first > (newest if last is None else last):
        return []
    return transactions(
        reading.pages, request.tables or None, first=first, last=last, limit=request.limit
    )
