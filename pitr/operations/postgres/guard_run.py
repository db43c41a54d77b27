"""guard run on PostgreSQL: a stamp on the command's commits, and what their transactions did."""

from __future__ import annotations

import os
from contextlib import closing
from functools import partial

from pitr.archive.archive import Mark
from pitr.archive.store import Store
from pitr.config import Settings
from pitr.operations.guard_run import BY_WINDOW, BY_XID, Watch, WatchedCommand
from pitr.operations.history import LogRequest
from pitr.operations.opening import open_archive_store
from pitr.operations.postgres.bases import nearest_base
from pitr.operations.postgres.history import log_transactions
from pitr.operations.postgres.reading import open_reading
from pitr.postgres.base.archive import BaseArchive
from pitr.postgres.catalog.catalog_reader import CatalogReader
from pitr.postgres.index.ends import TransactionEnd
from pitr.postgres.live.connection import Connection, connect
from pitr.postgres.log.stamp import OPTION, stamped_ends, why_unusable
from pitr.postgres.replay.replay import StopPoint
from pitr.postgres.tables.columns import TableColumns, dropped_columns, dropping_xids, read_columns
from pitr.vocabulary.position import Lsn

_PROGRAM = "pitr guard"


def watch_command(settings: Settings, *, by_window: bool) -> Watch:
    """Prepare for a command on the source. Raises as `mark` does; nothing is written."""
    store = open_archive_store(settings)
    with closing(_connect(settings)) as connection:
        reason = "It was asked for." if by_window else why_unusable(connection)
        tables = read_columns(connection)
    _read_catalog(settings, store)
    environment = {}
    if reason is None:
        # The last word on a setting counts, so ours comes last.
        environment["PGOPTIONS"] = f"{os.environ.get('PGOPTIONS', '')} {OPTION}".strip()
    return Watch(environment, partial(_finish, settings, store, tables, reason, by_window))


def require_recoverable(settings: Settings, target: str) -> None:
    """Raise ArchiveLacks when the archive has no base that leads to a target."""
    reading = open_reading(settings)
    found = reading.resolve(target)
    stop = StopPoint(found.timeline, found.stop)
    nearest_base(reading, BaseArchive(reading.store), stop)


def _connect(settings: Settings, database: str | None = None) -> Connection:
    chosen = database or settings.database
    return connect(settings.needed_source().location, database=chosen, program=_PROGRAM)


def _read_catalog(settings: Settings, store: Store) -> None:
    """Bring the archive's knowledge of tables up to now: a capture does so in its own time."""
    CatalogReader(store, partial(_connect, settings)).refresh()


def _finish(
    settings: Settings,
    store: Store,
    tables: dict[int, TableColumns],
    reason: str | None,
    by_window: bool,  # noqa: FBT001 - given by `partial` alone
    before: Mark,
    after: Mark,
) -> WatchedCommand:
    with closing(_connect(settings)) as connection:
        now = read_columns(connection)
    _read_catalog(settings, store)
    request = LogRequest((), f"name:{before.name}", f"name:{after.name}", limit=None)
    found = log_transactions(settings, request)
    xids = {one.xid for one in found if one.xid is not None}
    altering = dropping_xids(tables, now)
    ends = _stamped(settings, before, after, xids | altering) if reason is None else []
    own = {end.xid for end in ends}
    is_told = bool(ends) or not (found or altering)
    if not is_told:
        own = xids
    with_subxids = own.union(*(end.subxids for end in ends))
    transactions = [one for one in found if one.xid in own]
    return WatchedCommand(
        transactions=transactions,
        changes=[change for one in transactions for change in one.tables],
        others=[one for one in found if one.xid not in own],
        by=BY_XID if is_told else BY_WINDOW,
        doubt=None if is_told or by_window else reason or _NOT_STAMPED,
        columns=dropped_columns(tables, now, with_subxids if is_told else None),
        empty=_empty(tables),
    )


_NOT_STAMPED = (
    "None of them carries the stamp: the command's driver does not read PGOPTIONS, or it wrote "
    "nothing."
)


def _stamped(
    settings: Settings, before: Mark, after: Mark, wanted: set[int]
) -> list[TransactionEnd]:
    reading = open_reading(settings)
    begin, end = (Lsn.of_position(one.position) for one in (before, after))
    return stamped_ends(reading.index, reading.wal, reading.timeline, begin, end, wanted)


def _empty(tables: dict[int, TableColumns]) -> frozenset[str]:
    return frozenset(str(one.table) for one in tables.values() if one.is_empty)
