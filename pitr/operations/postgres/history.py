"""log on PostgreSQL: the transactions that touched tables, from index and catalog map alone."""

from __future__ import annotations

from pitr.config import Settings
from pitr.operations.history import LogRequest
from pitr.operations.postgres.reading import Reading, open_reading
from pitr.postgres.log.log import LogStretch, transactions
from pitr.vocabulary.change import Transaction
from pitr.vocabulary.position import Lsn


def log_transactions(settings: Settings, request: LogRequest) -> list[Transaction]:
    """Return the transactions, newest last. Raises what targets and `transactions` raise.

    Where the archive has gaps, what was done on both sides of one is listed all the same.
    """
    reading = open_reading(settings)
    begin = reading.resolve(request.since).stop if request.since is not None else Lsn(0)
    end = reading.stretches[-1].end
    if request.until is not None:
        end = reading.resolve(request.until).stop
    found: list[Transaction] = []
    for stretch in reversed(log_stretches(reading, begin, end)):
        left = None if request.limit is None else request.limit - len(found)
        if left is not None and left <= 0:
            break
        found[:0] = transactions(
            reading.index,
            reading.catalog,
            stretch,
            request.tables,
            default_database=reading.database,
            limit=left,
            with_aborted=request.with_aborted,
        )
    return found


def log_stretches(
    reading: Reading, begin: Lsn | None = None, end: Lsn | None = None
) -> list[LogStretch]:
    """Return the stretches of WAL without a gap, oldest first; cut to begin and end if given."""
    least = Lsn(0) if begin is None else begin
    limit = reading.stretches[-1].end if end is None else end
    return [
        LogStretch(
            timeline=stretch.timeline,
            first=stretch.begin,
            begin=max(least, stretch.begin),
            end=min(limit, stretch.end),
            last=stretch.end,
        )
        for stretch in reading.stretches
        if max(least, stretch.begin) < min(limit, stretch.end)
    ]
