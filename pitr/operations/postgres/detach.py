"""detach on PostgreSQL: drop the replication slot, so that the server keeps no WAL for us."""

from __future__ import annotations

from contextlib import closing

from pitr.config import Settings
from pitr.errors import DatabaseRefused, PreconditionFailed
from pitr.operations.detach import Detached
from pitr.postgres.connection import connect
from pitr.postgres.slot import drop_slot


def detach(settings: Settings) -> Detached:
    """Drop the slot.

    Raises PreconditionFailed while another process streams from it; SourceUnreachable,
    PrivilegeMissing.
    """
    with closing(connect(settings.needed_source().location, program="pitr detach")) as connection:
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
