"""log: the transactions that touched tables, from the archive alone."""

from __future__ import annotations

from pitr.config import Settings
from pitr.operations.history import LogRequest
from pitr.operations.sqlite.reading import open_reading
from pitr.sqlite.rows.log import transactions
from pitr.vocabulary.change import Transaction


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
