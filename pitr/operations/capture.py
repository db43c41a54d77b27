"""capture, mark: what brings the live state into the archive, and names it."""

from __future__ import annotations

import threading

from pitr.archive.archive import Mark, open_archive
from pitr.archive.lease import read_live_lease
from pitr.config import Settings
from pitr.operations.engine import engine_of_source, wired
from pitr.operations.opening import open_archive_store
from pitr.vocabulary.event import OnEvent


def capture(settings: Settings, stop: threading.Event, on_event: OnEvent) -> None:
    """Follow the source until `stop` is set, compacting the archive beside it.

    Raises ArchiveHeld, SourceUnusable, StoreUnusable.
    """
    wired(capture, engine_of_source(settings))(settings, stop, on_event)


def capture_once(settings: Settings, on_event: OnEvent) -> None:
    """Archive everything committed now. Raises as `capture` does."""
    wired(capture_once, engine_of_source(settings))(settings, on_event)


def mark(settings: Settings, name: str, on_event: OnEvent, *, wait_seconds: float = 60) -> Mark:
    """Name the present state; on return it is proven to be archived.

    Raises UsageError, PreconditionFailed for a name that is bad or taken, before anything is done.
    """
    return wired(mark, engine_of_source(settings))(
        settings, name, on_event, wait_seconds=wait_seconds
    )


def is_captured(settings: Settings) -> bool:
    """Return whether a capture follows the source now. Raises StoreUnusable, NotConfigured."""
    store = open_archive_store(settings)
    open_archive(store)
    lease = read_live_lease(store)
    return lease is not None and not lease.brief
