"""detach on PostgreSQL: drop the replication slot, so that the server keeps no WAL for us."""

from __future__ import annotations

from contextlib import closing

from pitr.archive.archive import open_archive
from pitr.config import Settings
from pitr.errors import DatabaseRefused, PreconditionFailed
from pitr.operations.detach import Detached
from pitr.operations.opening import open_archive_store
from pitr.postgres.capture.cluster import require_same_cluster
from pitr.postgres.capture.watch import read_system_identifier
from pitr.postgres.live.connection import connect
from pitr.postgres.live.slot import drop_slot


def detach(settings: Settings) -> Detached:
    """Drop the slot.

    Raises IdentityMismatch for another cluster than the archive's, PreconditionFailed while another
    process streams from the slot; SourceUnreachable, PrivilegeMissing.
    """
    store = open_archive_store(settings)
    identity = open_archive(store)
    with closing(connect(settings.needed_source().location, program="pitr detach")) as connection:
        # Else the slot of the right cluster would stay, and keep its WAL, unnoticed.
        require_same_cluster(store, identity, read_system_identifier(connection))
        try:
            was_there = drop_slot(connection, settings.slot)
        except DatabaseRefused as error:
            raise PreconditionFailed(
                f"the replication slot {settings.slot} cannot be dropped",
                detail=error.detail,
                hint="Stop what streams from it (pg_stat_replication), then run 'pitr detach "
                "--yes' again.",
            ) from None
    return Detached(f"replication slot {settings.slot}" if was_there else None)
