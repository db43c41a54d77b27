"""wal-push: archive one file of pg_wal, for PostgreSQL's archive_command."""

from __future__ import annotations

from pathlib import Path

from pitr.archive.archive import open_archive
from pitr.config import Settings
from pitr.errors import PreconditionFailed
from pitr.operations.opening import open_archive_store
from pitr.postgres.capture.push import push_file


def wal_push(settings: Settings, path: Path) -> str:
    """Archive a file durably; return its key. See push_file for what it raises."""
    store = open_archive_store(settings)
    identity = open_archive(store)
    if identity.engine != "postgres":
        raise PreconditionFailed(
            f"the archive at {store.location} holds no PostgreSQL cluster",
            detail=f"It holds {identity.engine}.",
            hint="Name the archive of this cluster with --config, or with --archive LOCATION.",
        )
    return push_file(store, identity, path)
