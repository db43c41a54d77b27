"""Take a base backup of a running server into the archive.

The order is what makes it safe: chunks first, each durable before it is referred to, and the
manifest last. Killed anywhere, it leaves chunks that the next backup uses, and no base.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

from pitr.archive.archive import Identity
from pitr.archive.claim import ClaimKind, claimed, wait_for_others
from pitr.archive.store import Store
from pitr.clock import now_us
from pitr.errors import IdentityMismatch, PitrError, PreconditionFailed
from pitr.postgres.backup.chunks import ChunkWriter
from pitr.postgres.backup.intake import MANIFEST_CHECKSUMS, Intake, PageLayout
from pitr.postgres.backup.keep import kept_wal
from pitr.postgres.backup.known import read_known_chunks
from pitr.postgres.backup.stream import BackupRequest, base_backup
from pitr.postgres.backup.torn import Block, block_at, blocks_in_wal
from pitr.postgres.backup.upload import PATIENCE_SECONDS, Uploader
from pitr.postgres.base.contents import BaseInfo, DamagedBlocks
from pitr.postgres.base.object import BASE_PREFIX, PACK_PREFIX, chunk_seed, encode_base
from pitr.postgres.live.connection import Connection, connect_replication
from pitr.postgres.live.faults import server_faults
from pitr.postgres.live.replication import identify
from pitr.vocabulary.event import Event, Level, OnEvent

LABEL = "pitr base backup"
# What a sidecar has to match (the first five), and what tells how the data were written.
_SETTINGS = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "wal_level",
    "wal_log_hints",
    "full_page_writes",
    "track_commit_timestamp",
    "max_replication_slots",
    "shared_preload_libraries",
)
_SIZES = ("block_size", "segment_size", "wal_segment_size", "data_checksums")
_BOOTSTRAP_SUPERUSER = 10
_PROGRESS_SECONDS = 0.5
_PRUNE_SECONDS_MAX = 600.0
_SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """How to back up.

    `fast` asks for an immediate checkpoint; otherwise the server spreads it, which is gentle and
    takes minutes. `rate_kb` bounds the stream in kB a second. `patience_seconds` is how long a
    store may take nothing before the backup is given up.
    """

    fast: bool = False
    rate_kb: int | None = None
    patience_seconds: float = PATIENCE_SECONDS


@dataclass(frozen=True, slots=True)
class _Server:
    """What is asked of the server before the copy."""

    version: int
    superuser: str | None
    from_standby: bool
    wal_segment_bytes: int
    layout: PageLayout
    settings: dict[str, str]


def back_up(
    store: Store,
    identity: Identity,
    connection: Connection,
    place: str,
    options: BackupOptions,
    on_event: OnEvent,
    *,
    slot: str,
    before_copy: Callable[[], None] = lambda: None,
) -> BaseInfo:
    """Take a base backup, returning what the archive has of it now.

    `connection` is a normal one, `place` where a replication connection can be made. `slot` is made
    when it is not there, so that the server keeps the WAL from before the base on; the WAL itself
    is not part of a base, whoever captures stores it. `before_copy` is called when it is certain
    that the server is the archive's, and before anything is read. Raises IdentityMismatch for
    another cluster than the archive's, StoreUnusable, SourceUnreachable, PrivilegeMissing,
    DatabaseRefused, Corrupt when what arrived is not what the server says it sent.
    """
    server = _ask(connection)
    uploader = Uploader(store, on_event, patience_seconds=options.patience_seconds)
    try:
        with ExitStack() as stack:
            claim = stack.enter_context(claimed(store, ClaimKind.BACKUP))
            # Any pack may be referred to from here on: nobody may be deleting some.
            wait_for_others(store, ClaimKind.PRUNE, claim, wait_seconds=_PRUNE_SECONDS_MAX)
            # Only closed: the connection's own `with` would send a ROLLBACK into the copy.
            replication = connect_replication(place, program="pitr backup")
            stack.callback(replication.close)
            _check_identity(replication, identity, store)
            stack.enter_context(kept_wal(connection, slot, on_event))
            before_copy()
            known = read_known_chunks(store, on_event)
            chunks = ChunkWriter(known, chunk_seed(identity.archive_id), uploader)
            try:
                intake = Intake(chunks, server.layout)
                started_us = now_us()
                request = BackupRequest(LABEL, options.fast, options.rate_kb, MANIFEST_CHECKSUMS)
                progress = _Progress(on_event)
                for message in base_backup(replication, request):
                    intake.take(message)
                    progress.tell(intake)
                intake.finish()
                chunks.finish()
                damaged = _damaged(intake, server, store, replication, on_event)
                info = _info(intake, server, identity, started_us, chunks, uploader, damaged)
                _publish(store, uploader, info, intake, chunks)
                _tell_damage(info, on_event)
                return info
            finally:
                chunks.close()
    finally:
        uploader.close()


def _check_identity(replication: Connection, identity: Identity, store: Store) -> None:
    found = identify(replication).system_identifier
    wanted = identity.source.get("system_identifier")
    if identity.engine != "postgres" or found != wanted:
        raise IdentityMismatch(
            f"the archive at {store.location} holds another source",
            detail=f"It holds {identity.engine} {wanted}; the server is cluster {found}.",
            hint="Name the archive of this cluster, or run 'pitr init' with a new location.",
        )


def _ask(connection: Connection) -> _Server:
    names = [*_SETTINGS, *_SIZES]
    with server_faults("cannot read the settings of the server"):
        rows = connection.execute(
            "SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY (%s)", [names]
        ).fetchall()
        superuser = connection.execute(
            "SELECT rolname FROM pg_catalog.pg_roles WHERE oid = %s", [_BOOTSTRAP_SUPERUSER]
        ).fetchone()
        standby = connection.execute("SELECT pg_catalog.pg_is_in_recovery()").fetchone()
    found = {str(name): str(setting) for name, setting in rows}
    layout = PageLayout(
        int(found["block_size"]), int(found["segment_size"]), found["data_checksums"] == "on"
    )
    return _Server(
        version=connection.info.server_version,
        superuser=str(superuser[0]) if superuser else None,
        from_standby=bool(standby and standby[0]),
        wal_segment_bytes=int(found["wal_segment_size"]),
        layout=layout,
        settings={name: found[name] for name in _SETTINGS if name in found},
    )


def _damaged(
    intake: Intake, server: _Server, store: Store, replication: Connection, on_event: OnEvent
) -> tuple[DamagedBlocks, ...]:
    """Return what contradicts its checksum, without what was only caught half-written."""
    begun, ended, suspects = intake.begun, intake.ended, intake.suspects()
    if not suspects or begun is None or ended is None:
        return ()
    named = {suspect: block_at(*suspect) for suspect in suspects}
    whole: set[Block] = set()
    try:
        whole = blocks_in_wal(
            store,
            replication,
            named.values(),
            begun.start,
            ended.end,
            timeline=ended.timeline,
            major=server.version // 10000,
            segment_bytes=server.wal_segment_bytes,
        )
    except PitrError as fault:  # no reason to give up a base that is stored already
        message = "damaged pages cannot be told from half-written ones: all are marked"
        on_event(Event(Level.WARNING, message, f"{fault.message}: {fault.detail}"))
    return intake.runs(suspect for suspect, block in named.items() if block not in whole)


def _info(
    intake: Intake,
    server: _Server,
    identity: Identity,
    started_us: int,
    chunks: ChunkWriter,
    uploader: Uploader,
    damaged: tuple[DamagedBlocks, ...],
) -> BaseInfo:
    begun, ended = intake.begun, intake.ended
    assert begun is not None
    assert ended is not None
    ended_us = now_us()
    time_text = datetime.fromtimestamp(ended_us / 1_000_000, UTC).strftime("%Y%m%dT%H%M%SZ")
    return BaseInfo(
        id=f"{time_text}.{ended.timeline:08X}.{ended.end.value:016X}",
        system_identifier=identity.source["system_identifier"],
        server_version=server.version,
        timeline=ended.timeline,
        start_lsn=str(begun.start),
        end_lsn=str(ended.end),
        started_us=started_us,
        time_us=ended_us,
        label=LABEL,
        superuser=server.superuser,
        from_standby=server.from_standby,
        block_size=server.layout.block_size,
        wal_segment_bytes=server.wal_segment_bytes,
        data_checksums=server.layout.data_checksums,
        judged_pages=server.layout.data_checksums,
        settings=server.settings,
        tablespaces=begun.tablespaces,
        damaged=damaged,
        raw_bytes=sum(file.size for file in intake.files),
        stored_bytes=chunks.stored_bytes(),
        bytes=uploader.bytes_stored,
    )


def _publish(
    store: Store, uploader: Uploader, info: BaseInfo, intake: Intake, chunks: ChunkWriter
) -> None:
    """Write the manifest: from this moment on the base exists."""
    packs, table = chunks.used_packs()
    key = BASE_PREFIX + info.id
    data = encode_base(info, intake.files, packs, table)
    uploader.store_last(key, data)
    _require_packs(store, key, packs)
    if store.get(key) != data:
        raise PreconditionFailed(
            f"a base of the name {info.id} was there already",
            detail="Another backup of this cluster ended in the same second, at the same LSN.",
            hint="Run 'pitr backup' again.",
        )


def _require_packs(store: Store, key: str, packs: Sequence[str]) -> None:
    """Make sure that all packs are there, or take the manifest away again."""
    there = {info.key for info in store.list(PACK_PREFIX)}
    gone = [pack for pack in packs if pack not in there]
    if gone:
        store.delete(key)
        raise PreconditionFailed(
            f"packs of this backup were deleted while it ran: {gone[0]}",
            detail=f"{len(gone)} of {len(packs)} are gone. The base was given up.",
            hint="Let nothing but pitr delete objects there, and run 'pitr backup' again.",
        )


def _tell_damage(info: BaseInfo, on_event: OnEvent) -> None:
    if not info.damaged:
        return
    places = [f"{item.path} blocks {item.begin} to {item.end - 1}" for item in info.damaged]
    more = f" and {len(places) - _SHOWN_MAX} more" if len(places) > _SHOWN_MAX else ""
    count = sum(item.end - item.begin for item in info.damaged)
    message = f"{count} damaged pages in the source: the base is kept, and marked"
    on_event(Event(Level.WARNING, message, f"{', '.join(places[:_SHOWN_MAX])}{more}"))


class _Progress:
    """Tell how far a backup is, at what rate, and how long it will take."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._begun = self._told = time.monotonic()

    def tell(self, intake: Intake) -> None:
        """Tell it, if the last time was long enough ago or this is the end."""
        now = time.monotonic()
        if intake.begun is None:
            self._begun = now
        if now - self._told < _PROGRESS_SECONDS and intake.ended is None:
            return
        self._told = now
        done = intake.bytes_taken
        # The server's estimate is of before the copy, and rounded: the end is never passed.
        total = max(done, intake.begun.total_bytes if intake.begun else 0)
        if intake.ended is not None:
            total = done
        rate = done / max(now - self._begun, 1e-3)
        left = (total - done) / rate if rate else 0
        detail = f"{rate / 1e6:.1f} MB/s, {left:.0f} s left"
        self._on_event(
            Event(Level.PROGRESS, "base backup", detail, done=done, total=total, unit="bytes")
        )
