"""detach: stop capturing for good; the archive is kept."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.archive.archive import open_archive
from pitr.archive.lease import read_live_lease
from pitr.config import Settings
from pitr.errors import PreconditionFailed
from pitr.operations.engine import engine_of_source, wired
from pitr.operations.opening import open_archive_store


@dataclass(frozen=True, slots=True)
class Detached:
    """What was taken away from the source: its name, None when nothing was there."""

    removed: str | None


def detach(settings: Settings) -> Detached:
    """Take away from the source what capture has left in it.

    Raises PreconditionFailed while a capture runs; NotConfigured, StoreUnusable.
    """
    engine = engine_of_source(settings)
    store = open_archive_store(settings)
    open_archive(store)
    lease = read_live_lease(store)
    if lease is not None:
        raise PreconditionFailed(
            "a capture is still running",
            detail=f"It runs as {lease.holder}.",
            hint="Stop it with SIGTERM, then run 'pitr detach --yes' again.",
        )
    return wired(detach, engine)(settings)
