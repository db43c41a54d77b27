"""revert on PostgreSQL: two sidecars, with the states just before and just after one commit."""

from __future__ import annotations

from collections.abc import Callable

from pitr.config import Settings
from pitr.errors import UsageError
from pitr.operations.history import LogRequest
from pitr.operations.postgres.history import log_transactions
from pitr.operations.postgres.reading import open_reading
from pitr.operations.postgres.restore import make_recovery
from pitr.operations.restore import RestoreRequest
from pitr.operations.revert import RevertOutcome, RevertRequest
from pitr.target_text import parse_target
from pitr.vocabulary.target import LsnTarget, ResolvedTarget, XidTarget


def revert(
    settings: Settings, request: RevertRequest, *, on_target: Callable[[ResolvedTarget], None]
) -> RevertOutcome:
    """Restore the tables that a transaction changed as they were before it, and after it.

    Whatever else ran interleaved with it is not taken for its doing. `on_target` hears both
    states. Raises UsageError for a text that names no transaction, and what `restore` raises.
    """
    xid = _xid(settings, request.transaction)
    before, after = f"before:xid:{xid}", f"xid:{xid}"
    restoring = RestoreRequest(
        tables=request.tables or _changed_tables(settings, xid),
        target=before,
        until=after,
        destination=request.destination,
        load_into=request.load_into,
        compare=request.compare,
        with_parents=request.with_parents,
        with_children=request.with_children,
    )
    outcome = make_recovery(settings, restoring, on_target=on_target, kind="revert")
    return RevertOutcome(outcome, ())


def _xid(settings: Settings, text: str) -> int:
    """Return the xid that a text names: itself, or the position that `log` shows."""
    reading = open_reading(settings)
    target = parse_target(text, now_us=reading.now_us)
    if isinstance(target, XidTarget) and not target.before:
        return target.xid
    if isinstance(target, LsnTarget):
        found = reading.resolve(text).transaction
        if found is not None:
            return found.xid
    raise UsageError(
        f"this names no transaction of a PostgreSQL source: {text!r}",
        detail="A transaction is named by its xid, as in xid:731, or by the position of its end.",
        hint="'pitr log -t TABLE' lists the transactions with their positions.",
    )


def _changed_tables(settings: Settings, xid: int) -> list[str]:
    """Return the tables that a transaction changed and that were there before it."""
    span = LogRequest(tables=(), since=f"before:xid:{xid}", until=f"xid:{xid}", limit=None)
    found = [item for item in log_transactions(settings, span) if item.xid == xid]
    tables = [change.table for item in found for change in item.tables if not change.created]
    if not tables:
        raise UsageError(
            f"transaction {xid} changed no table that is known",
            detail="It made what it wrote to, or wrote to no table.",
            hint="Name the tables with '-t TABLE'.",
        )
    return list(dict.fromkeys(tables))
