"""Say when a table was there that is not there at a target, as far as the archive tells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pitr.config import Settings
from pitr.errors import PitrError, TableUnknown
from pitr.operations.history import LogRequest
from pitr.target_text import format_time
from pitr.vocabulary.change import Transaction
from pitr.vocabulary.position import Lsn


@contextmanager
def absence_explained(settings: Settings, stop: Lsn, *, has_archive: bool) -> Iterator[None]:
    """Run the block; a TableUnknown of it leaves with when the table came or went.

    Without an archive there is nothing that knows.
    """
    try:
        yield
    except TableUnknown as unknown:
        seen = _seen(settings, stop, unknown.table) if has_archive and unknown.table else None
        if seen is None:
            raise
        raise TableUnknown(
            unknown.message,
            table=unknown.table,
            detail=f"{seen} {unknown.detail}",
            hint="Choose that target, or another name.",
        ) from None


def _seen(settings: Settings, stop: Lsn, table: str) -> str | None:
    """Return a sentence on the last drop before the target, or the first creation after it."""
    from pitr.operations.postgres.history import log_transactions

    try:
        request = LogRequest(tables=(table,), since=None, until=None, limit=None)
        found = log_transactions(settings, request)
    except PitrError:  # never heard of, or not to be read: the error at hand says enough
        return None
    dropped = [
        one
        for one in found
        if Lsn.of_position(one.position) <= stop and any(change.dropped for change in one.tables)
    ]
    if dropped:
        return (
            f"Transaction {dropped[-1].xid} dropped it, {_place(dropped[-1])}: "
            f"'before:xid:{dropped[-1].xid}' still has it."
        )
    for one in found:
        if Lsn.of_position(one.position) > stop and any(change.created for change in one.tables):
            return f"It is there from xid:{one.xid} on, {_place(one)}; this target is earlier."
    return None


def _place(transaction: Transaction) -> str:
    return f"{transaction.position} at {format_time(transaction.time_us)}"
