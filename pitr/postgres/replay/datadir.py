"""A sparse data directory: of a base backup only what the wanted relations need, and our settings.

What the source's own configuration says is never used: not postgresql.conf, postgresql.auto.conf,
pg_hba.conf, not its replication slots, not the links of its tablespaces. So the server that runs
here can reach nothing of the source, also on the source's own machine.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pitr.errors import PreconditionFailed
from pitr.postgres.base.contents import Base, whole_files
from pitr.postgres.base.control import CONTROL_PATH, ControlFile
from pitr.postgres.replay.server import STANDBY_SIGNAL, ServerFolder
from pitr.postgres.wal.distill import DistilledSegment
from pitr.postgres.wal.segment_name import SegmentName, history_name
from pitr.postgres.wal.wanted import WantedFiles

# Everything about transactions that is not in the relations themselves.
_SHARED_STATE = re.compile(r"(?:pg_xact|pg_multixact|pg_commit_ts|pg_twophase)/.*|PG_VERSION")
# Free space maps (_fsm) are left out: nobody looks for space, and redo makes those that it needs.
_RELATION = re.compile(
    r"(?:global|base/(?P<database>\d+)|pg_tblspc/(?P<tablespace>\d+)/PG_\w+/(?P<elsewhere>\d+))/"
    r"(?:(?P<number>\d+)(?:_(?:vm|init))?(?:\.\d+)?|PG_VERSION|pg_filenode\.map)"
)
_FOLDERS = (
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal/archive_status",
    "pg_xact",
)
# CLOG has two bits a transaction, in pages of 8 KiB and files of 32 pages.
_XIDS_A_PAGE, _XIDS_A_FILE, _XACT_FILES = 1 << 15, 1 << 20, 1 << 12
_OPEN_MAX = 64
# Left free on the file system: sort files of an index, the log, what others write meanwhile.
_SPARE_BYTES = 64 << 20


def needed_paths(base: Base, wanted: WantedFiles) -> list[str]:
    """Return the files of a base backup that a data directory for these relations is made of."""
    return [
        path
        for path, file in base.files().items()
        if not file.is_folder and (path == CONTROL_PATH or _is_needed(path, wanted))
    ]


def _is_needed(path: str, wanted: WantedFiles) -> bool:
    if _SHARED_STATE.fullmatch(path):
        return True
    match = _RELATION.fullmatch(path)
    if match is None:
        return False
    if path.startswith("global/"):
        return wanted.has_shared
    database = int(match["database"] or match["elsewhere"])
    if match["number"] is None:
        return wanted.has_shared and database in wanted.databases
    tablespace = int(match["tablespace"]) if match["tablespace"] else None
    return wanted.has_file(tablespace, database, int(match["number"]))


def build(
    server: ServerFolder,
    base: Base,
    wanted: WantedFiles,
    *,
    tablespaces: Iterable[int],
    settings: Mapping[str, str],
) -> None:
    """Make the data directory of a server; its folder must exist and have no files of the base yet.

    Raises PreconditionFailed when there is not enough space, and what reading the backup raises.
    """
    paths = needed_paths(base, wanted)
    require_space(server.folder, sum(base.files()[path].size for path in paths))
    _make_folders(server, paths, tablespaces)
    # The control file comes last: without it no server takes the folder for a cluster.
    _copy(server, base, [path for path in paths if path != CONTROL_PATH])
    write(server, "backup_label", base.backup_label)
    write(server, "postgresql.conf", _settings_text(settings).encode())
    write(server, "pg_hba.conf", b"local all all trust\n")
    write(server, "pg_ident.conf", b"")
    write(server, STANDBY_SIGNAL, b"")
    _copy(server, base, [CONTROL_PATH])


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raise PreconditionFailed when a file system has less free space than is needed."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes + _SPARE_BYTES:
        raise _no_space(
            f"{folder} has {free_bytes >> 20} MiB free, and {needed_bytes >> 20} MiB of "
            "the base backup are needed, and some for WAL."
        )


@contextlib.contextmanager
def space_reported(folder: Path) -> Iterator[None]:
    """Raise PreconditionFailed where what is written in the block finds the file system full."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(f"{folder} became full while files were written to it.") from None
        raise


def _no_space(detail: str) -> PreconditionFailed:
    return PreconditionFailed(
        "there is not enough space for the sidecar",
        detail=detail,
        hint="Free some space, or choose another place with PITR_SIDECAR_FOLDER.",
    )


def write(server: ServerFolder, path: str, data: bytes) -> None:
    """Write one small file of the data directory, owned by the server's account."""
    target = server.data / path
    target.write_bytes(data)
    target.chmod(0o600)
    server.account.own(target)


def write_wal(server: ServerFolder, segments: Iterable[DistilledSegment], size: int) -> int:
    """Write segments into pg_wal; return the bytes written. What follows in a segment is a hole.

    A segment that is there, of a recovery of the same stretch, is written over.
    """
    written = 0
    for segment in segments:
        name = SegmentName(segment.timeline, segment.number, size)
        descriptor = _create(server, f"pg_wal/{name}")
        try:
            os.ftruncate(descriptor, len(segment.data))
            _write_at(descriptor, segment.data, 0)
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)
        written += len(segment.data)
    return written


def extend_commit_log(server: ServerFolder, next_xid: int, zero_pages: int) -> None:
    """Give pg_xact all pages that the records say that were added to it while redo runs.

    Those records are left out. `next_xid` is about the one at which redo begins, so that as many
    pages before it and behind it, and one more, are enough.
    """
    reach = (zero_pages + 1) * _XIDS_A_PAGE
    number, last = max(next_xid - reach, 0) // _XIDS_A_FILE, (next_xid + reach) // _XIDS_A_FILE
    for file in range(number, last + 1):
        descriptor = _create(server, f"pg_xact/{file % _XACT_FILES:04X}")
        try:
            os.ftruncate(descriptor, max(os.fstat(descriptor).st_size, _XIDS_A_FILE // 4))
        finally:
            os.close(descriptor)


def write_history(server: ServerFolder, timeline: int, data: bytes) -> None:
    """Put a timeline's history where recovery looks for it."""
    write(server, f"pg_wal/{history_name(timeline)}", data)


def _make_folders(server: ServerFolder, paths: Iterable[str], tablespaces: Iterable[int]) -> None:
    own = server.account.own
    for folder in _folders_of(server, paths, tablespaces):
        for step in reversed([folder, *folder.parents]):
            if step.is_relative_to(server.folder) and not step.exists():
                step.mkdir(mode=0o700)
                own(step)
    for oid in sorted({*_tablespaces_of(paths), *tablespaces}):
        link = server.data / "pg_tblspc" / str(oid)
        # Relative, so that the folder can be looked at from elsewhere.
        link.symlink_to(Path("..", "..", "tablespaces", str(oid)))
        own(link)


def _folders_of(
    server: ServerFolder, paths: Iterable[str], tablespaces: Iterable[int]
) -> Iterator[Path]:
    yield from (server.data / folder for folder in _FOLDERS)
    yield from (server.folder / "tablespaces" / str(oid) for oid in tablespaces)
    for parent in sorted({path.rpartition("/")[0] for path in paths}):
        yield server.folder / _place(parent)


def _tablespaces_of(paths: Iterable[str]) -> set[int]:
    return {int(path.split("/")[1]) for path in paths if path.startswith("pg_tblspc/")}


def _place(path: str) -> str:
    """Return where in a server's folder a file of the backup goes.

    Tablespaces stand beside the data directory.
    """
    if path.startswith("pg_tblspc/"):
        return "tablespaces/" + path.removeprefix("pg_tblspc/")
    return f"data/{path}"


def _copy(server: ServerFolder, base: Base, paths: Sequence[str]) -> None:
    """Copy files as they come; a base of an archive fetches them side by side."""
    missing = {path: base.files()[path].size for path in paths}
    opened: OrderedDict[str, int] = OrderedDict()
    try:
        for path, size in missing.items():
            if not size:
                os.close(_create(server, path))
        for path, offset, data in base.read_pieces(whole_files(base, paths)):
            descriptor = opened.get(path)
            if descriptor is None:
                if len(opened) >= _OPEN_MAX:
                    os.close(opened.popitem(last=False)[1])
                descriptor = opened[path] = _create(server, path)
            _write_at(descriptor, data, offset)
            missing[path] -= len(data)
            if not missing[path]:
                os.close(opened.pop(path))
    finally:
        for descriptor in opened.values():
            os.close(descriptor)


def _create(server: ServerFolder, path: str) -> int:
    """Open a file to write to it, made where it is not there; return its descriptor."""
    place = f"{server.folder}/{_place(path)}"
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    server.account.own_open(descriptor)
    return descriptor


def _write_at(descriptor: int, data: bytes | bytearray, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


# --- settings ------------------------------------------------------------------------------------


def sidecar_settings(control: ControlFile, *, max_prepared_transactions: int) -> dict[str, str]:
    """Return every setting of the sidecar that is not PostgreSQL's default.

    Nothing here lets the server reach out: no TCP, no archiving, no workers of its own.
    """
    settings = {
        **_QUIET,
        "max_prepared_transactions": str(max_prepared_transactions),
        "max_locks_per_transaction": str(max(control.max_locks_per_transaction, 256)),
        "min_wal_size": f"{2 * control.wal_segment_bytes >> 20}MB",
        "track_commit_timestamp": "on" if control.track_commit_timestamp else "off",
    }
    if control.major >= 15:
        # Relations of a tablespace made in the window get a plain folder in pg_tblspc.
        settings |= {"allow_in_place_tablespaces": "on", "recovery_prefetch": "off"}
    if control.major >= 17:
        settings |= {
            "event_triggers": "off",
            "summarize_wal": "off",
            "sync_replication_slots": "off",
        }
    if control.major >= 18:
        settings |= {"io_method": "sync", "max_active_replication_origins": "1000"}
    return settings


_QUIET = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "20",
    "max_worker_processes": "0",
    "max_parallel_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
    "max_logical_replication_workers": "0",
    "max_wal_senders": "0",
    # Origins of replayed commits need a slot each.
    "max_replication_slots": "1000",
    "wal_level": "minimal",
    "archive_mode": "off",
    "autovacuum": "off",
    # Pages that were only read stay as recovery left them.
    "bgwriter_lru_maxpages": "0",
    "autovacuum_freeze_max_age": "2000000000",
    "autovacuum_multixact_freeze_max_age": "2000000000",
    "shared_preload_libraries": "",
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "hot_standby": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_recycle": "off",
    "max_wal_size": "64GB",
    "checkpoint_timeout": "1d",
    "jit": "off",
    "ssl": "off",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_line_prefix": "%m [%p] ",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "lc_messages": "C",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "update_process_title": "off",
    "cluster_name": "pitr sidecar",
    "dynamic_shared_memory_type": "mmap",
    "huge_pages": "off",
}


def recovery_settings(stop: str, *, timeline: str) -> dict[str, str]:
    """Return the settings of a recovery that ends before the record at `stop` and then promotes.

    All WAL is in pg_wal already. The server is a standby, because without being one it would need a
    restore_command and run that for every segment; so it waits when its WAL ends before the stop,
    until `server.running` tells it not to.
    """
    return {
        "wal_retrieve_retry_interval": "100ms",
        "recovery_target_lsn": stop,
        "recovery_target_inclusive": "off",
        "recovery_target_timeline": timeline,
        "recovery_target_action": "promote",
    }


def settle(server: ServerFolder, settings: Mapping[str, str]) -> None:
    """Write the settings of a server that was recovered, without those of its recovery."""
    write(server, "postgresql.conf", _settings_text(settings).encode())


def _settings_text(settings: Mapping[str, str]) -> str:
    lines = ["# Written by pitr: a private server on recovered files."]
    lines += [f"{key} = '{value}'" for key, value in settings.items()]
    return "\n".join([*lines, ""])
