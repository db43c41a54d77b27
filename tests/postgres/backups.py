"""Base backups for tests: an archive of a server, and a server on what an archive holds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pitr.archive.archive import Identity, create_or_adopt
from pitr.archive.store import Store
from pitr.postgres.backup.run import BackupOptions, back_up
from pitr.postgres.base.archive import BaseArchive
from pitr.postgres.base.contents import Base, BaseInfo
from pitr.postgres.base.export import export_base
from pitr.postgres.live.connection import connect, connect_replication
from pitr.postgres.live.replication import identify
from pitr.vocabulary.event import Event
from tools.postgres_binaries import server_user
from tools.postgres_servers import Server, scratch_place

PATIENCE_SECONDS = 20.0
SLOT = "pitr_test"


def require_programs(server: Server) -> None:
    """Skip the test where the version has no client programs: 13 comes with three only."""
    if not (server.bin / "pg_verifybackup").exists():
        pytest.skip(f"PostgreSQL {server.major} here has no client programs")


def adopt(store: Store, server: Server) -> Identity:
    """Make the archive of a server, or take up the one that is there."""
    with connect_replication(server.url()) as connection:
        found = identify(connection)
    return create_or_adopt(
        store, engine="postgres", identity={"system_identifier": found.system_identifier}
    )


def take(
    server: Server,
    store: Store,
    *,
    events: list[Event] | None = None,
    rate_kb: int | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
    user: str = "postgres",
) -> BaseInfo:
    """Take a base backup of a server into the archive at a store."""
    options = BackupOptions(fast=True, rate_kb=rate_kb, patience_seconds=patience_seconds)
    place = server.url(user=user)
    told: list[Event] = [] if events is None else events
    with connect(place) as connection:
        identity = adopt(store, server)
        return back_up(store, identity, connection, place, options, told.append, slot=SLOT)


def newest(store: Store) -> Base:
    """Open the newest base of an archive."""
    archive = BaseArchive(store)
    return archive.open(archive.bases()[-1].id)


@contextmanager
def exported(base: Base, wal: Path) -> Iterator[tuple[Path, Path]]:
    """Write a base out, with the WAL segments that lie in a folder; yield it and its tablespaces.

    Both belong to the user that servers run as.
    """
    scratch = Path(tempfile.mkdtemp(prefix="pitr-export-", dir=scratch_place()))
    try:
        scratch.chmod(0o755)
        data, tablespaces = scratch / "data", scratch / "tablespaces"
        export_base(base, data, tablespaces, lambda _: None)
        for segment in wal.iterdir():
            if re.fullmatch("[0-9A-F]{24}", segment.name):
                shutil.copy(segment, data / "pg_wal")
        own(scratch)
        yield data, tablespaces
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def own(folder: Path) -> None:
    """Give a tree to the user that servers run as, links included."""
    user = server_user()
    if user is not None:
        subprocess.run(["chown", "-R", f"{user.pw_uid}:{user.pw_gid}", str(folder)], check=True)


@contextmanager
def started(data: Path, like: Server) -> Iterator[Server]:
    """Start a server on an exported base; it must accept its own pg_verifybackup first."""
    like.run("pg_verifybackup", str(data))
    server = Server(like.major, data=data)
    try:
        server.start()
        yield server
    finally:
        server.discard()


def table_digest(server: Server, table: str, database: str = "postgres") -> object:
    """Return a digest over all rows of a table, and their number."""
    return server.query(
        f"SELECT count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {table} AS t",
        database,
    )


def stored_bytes(folder: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(
        (Path(path) / name).stat().st_size for path, _, names in os.walk(folder) for name in names
    )
