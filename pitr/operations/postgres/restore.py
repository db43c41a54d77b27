"""restore on PostgreSQL: surgical replay of chosen tables into a sidecar server that is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pitr.config import Settings
from pitr.errors import ArchiveGap, UsageError
from pitr.operations.clock import now_us
from pitr.operations.postgres.sidecar import keep_server, new_sidecar
from pitr.operations.restore import RestoreOutcome, RestoreRequest, TableOutcome
from pitr.postgres.base_folder import BaseFolder
from pitr.postgres.replay import (
    Replay,
    ReplayedTables,
    ReplaySource,
    ServerTools,
    StopPoint,
    open_source,
)
from pitr.postgres.server import find_binaries, server_account
from pitr.postgres.target_tables import split_name
from pitr.postgres.wal_folder import WalFolder
from pitr.postgres.wal_selection import WalWindow
from pitr.postgres.wal_target import FoundTarget, WalTargets
from pitr.recovery.folder import RecoveredTable, Recovery, new_recovery
from pitr.source_text import POSTGRES
from pitr.target_text import parse_target
from pitr.vocabulary.target import ResolvedTarget

_DATABASE = "postgres"


def restore(
    settings: Settings, request: RestoreRequest, *, on_target: Callable[[ResolvedTarget], None]
) -> RestoreOutcome:
    """Restore tables into a server of their own, which is stopped again. Live is not compared.

    `on_target` hears the resolved target before any work. Raises what resolving a target, reading
    base and WAL, and recovering raise; then there is no recovery, and no server is left.
    """
    now = now_us()
    database, names = _names(settings, request)
    source, wal = _source(request)
    tools = ServerTools(
        find_binaries(source.control.major, chosen=settings.pg_bindir),
        server_account(settings.sidecar_user),
    )
    found, stop = _resolve(source, request.target, now)
    on_target(found.target)
    with new_recovery(settings.state, label=names[0], now_us=now) as new:
        began = time.monotonic()
        folder = new_sidecar(settings, new, tools.account)
        replay = Replay(source, stop, tools, folder)
        catalogs = replay.find_tables(database, names, with_parents=request.with_parents)
        replayed = replay.recover(catalogs, folder / "sidecar")
        keep_server(new, replayed)
        recovery = Recovery(
            id=new.id,
            engine=POSTGRES,
            source=settings.source.location if settings.source else None,
            archive=str(wal),
            created_us=now,
            target=request.target,
            resolved=found.target,
            sidecar=str(replayed.server.folder),
            tables=_recovered(replayed),
            where=None,
            seconds=round(time.monotonic() - began, 3),
            bytes_read=source.bytes_read,
        )
        new.finish(recovery)
    return RestoreOutcome(recovery, tuple(_outcome(table) for table in recovery.tables))


def _names(settings: Settings, request: RestoreRequest) -> tuple[str, list[str]]:
    """Return the database and the names of the tables in it. Raises UsageError."""
    for option, value in (
        ("--until", request.until),
        ("--where", request.where),
        ("--to", request.destination),
    ):
        if value is not None:
            raise UsageError(
                f"PostgreSQL sources do not have this in this version: {option}",
                hint="Leave it out: the sidecar has the whole tables.",
            )
    parts = [split_name(name) for name in request.tables]
    named = {part[0] for part in parts if len(part) == 3}
    chosen = request.database or settings.database
    if len(named | ({chosen} if chosen else set())) > 1:
        raise UsageError(
            "the tables are of several databases",
            detail=f"Named are {', '.join(sorted(named | ({chosen} if chosen else set())))}.",
            hint="Restore those of one database at a time.",
        )
    return next(iter(named), None) or chosen or _DATABASE, list(request.tables)


def _source(request: RestoreRequest) -> tuple[ReplaySource, Path]:
    if request.backup is None or request.wal is None:
        raise UsageError(
            "restoring from an archive of PostgreSQL is not in this version",
            hint="Name a base backup and a folder of WAL: '--from-backup DIR --from-wal DIR'.",
        )
    return open_source(BaseFolder(request.backup), WalFolder(request.wal)), request.wal


def _resolve(source: ReplaySource, text: str, now: int) -> tuple[FoundTarget, StopPoint]:
    """Return what a target comes to on the newest timeline that the backup is of."""
    target = parse_target(text, now_us=now)
    timeline = _timeline(source)
    redo = source.label.redo
    ends = [end for begin, end in source.wal.ranges(timeline) if begin <= redo < end]
    if not ends:
        raise ArchiveGap(
            f"WAL is missing: {redo} of timeline {timeline}, where the base backup begins",
            detail="Recovery begins there.",
            hint="Name the folder with the WAL from the backup on, or a later backup.",
        )
    window = WalWindow(source.wal, timeline, redo.value, ends[0].value, source.control.next_xid)
    begin = source.base.info.end or source.label.checkpoint
    found = WalTargets(window, begin=begin).resolve(target, now_us=now)
    return found, StopPoint(timeline, found.stop)


def _timeline(source: ReplaySource) -> int:
    """Return the newest timeline on which the base backup lies."""
    label = source.label
    for timeline in sorted(source.wal.timelines(), reverse=True):
        history = source.wal.history(timeline)
        if timeline == label.timeline or any(
            entry.timeline == label.timeline and entry.switch >= label.redo for entry in history
        ):
            return timeline
    return label.timeline


def _recovered(replayed: ReplayedTables) -> tuple[RecoveredTable, ...]:
    return tuple(
        RecoveredTable(table.full_name, replayed.rows[table.oid])
        for table in replayed.catalogs.tables
    )


def _outcome(table: RecoveredTable) -> TableOutcome:
    return TableOutcome(table.table, table.rows, None, None, None, ())
