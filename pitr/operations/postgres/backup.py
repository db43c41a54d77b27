"""backup on PostgreSQL: a base backup over the replication protocol, and the WAL that it needs."""

from __future__ import annotations

from contextlib import closing

from pitr.archive.archive import open_archive
from pitr.archive.store import Store
from pitr.clock import now_us
from pitr.config import Settings
from pitr.errors import ArchiveHeld, PitrError, StoreUnusable, UsageError
from pitr.operations.backup import BackupOutcome, BackupWish
from pitr.operations.capture import capture_once
from pitr.operations.opening import open_archive_store
from pitr.postgres.backup.run import BackupOptions, back_up
from pitr.postgres.backup.stream import RATES_KB
from pitr.postgres.catalog.catalog_reader import CatalogReader
from pitr.postgres.index.compaction import compact_index
from pitr.postgres.index.upkeep import complete_index
from pitr.postgres.live.connection import Connection, connect
from pitr.postgres.wal_store.archive import WalArchive
from pitr.vocabulary.event import Event, Level, OnEvent


def backup(
    settings: Settings,
    wish: BackupWish,
    on_event: OnEvent,
    *,
    wait_seconds: float = 60,
) -> BackupOutcome:
    """Take a base backup, and archive the WAL up to its end unless a capture does."""
    options = BackupOptions(fast=wish.is_fast, rate_kb=_rate_kb(wish.rate_bytes))
    place = settings.needed_source().location
    store = open_archive_store(settings)
    identity = open_archive(store)

    def read_catalog() -> None:
        _read_catalog(store, place, on_event)

    with closing(connect(place, program="pitr backup")) as connection:
        info = back_up(
            store, identity, connection, place, options, on_event,
            slot=settings.slot, before_copy=read_catalog,
        )  # fmt: skip
    try:
        capture_once(settings, on_event)
    except ArchiveHeld:
        pass  # a capture runs: it archives the WAL of the base, as all other
    else:
        on_event(
            Event(
                Level.WARNING,
                "no capture runs",
                f"The slot {settings.slot} keeps WAL on the server from now on: 'pitr capture' "
                "archives it, 'pitr detach' gives it up.",
            )
        )
    _complete_index(store, on_event)
    damaged = tuple((item.path, item.begin, item.end) for item in info.damaged)
    return BackupOutcome(info.id, info.time_us, info.bytes, damaged)


def _read_catalog(store: Store, place: str, on_event: OnEvent) -> None:
    """Record the names of all tables as they are before the base; without them it is a base too."""

    def opening(database: str | None) -> Connection:
        return connect(place, database=database, program="pitr backup")

    try:
        CatalogReader(store, opening).refresh()
    except StoreUnusable:
        raise
    except PitrError as fault:
        on_event(Event(Level.WARNING, f"no catalog is recorded: {fault.message}", fault.detail))


def _complete_index(store: Store, on_event: OnEvent) -> None:
    """Index what has none yet: in an archive that only archive_command feeds, nobody else does."""
    try:
        complete_index(store, WalArchive(store))
        compact_index(store, now_us=now_us())
    except StoreUnusable:
        raise
    except PitrError as fault:
        on_event(Event(Level.WARNING, f"the index is put off: {fault.message}", fault.detail))


def _rate_kb(rate_bytes: int | None) -> int | None:
    if rate_bytes is None:
        return None
    rate_kb = rate_bytes // 1024
    if rate_kb not in RATES_KB:
        raise UsageError(
            f"a server cannot send at {rate_bytes} bytes a second",
            detail="PostgreSQL takes rates from 32 kB to 1 GB a second.",
            hint="Write, for example, --max-rate 50MB.",
        )
    return rate_kb
