"""capture, mark: what brings the live state into the archive, and names it."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

from pitr.archive.archive import (
    Mark,
    create_or_adopt,
    open_archive,
    require_free_name,
    write_mark,
)
from pitr.archive.lease import LeaseState, is_live, read_live_lease, read_newest_lease
from pitr.archive.store import Store
from pitr.clock import now_us
from pitr.config import Settings
from pitr.errors import ArchiveHeld, PreconditionFailed
from pitr.operations.opening import open_archive_store
from pitr.operations.sqlite.maintenance import maintained
from pitr.sqlite.capture.capture import Capture
from pitr.sqlite.capture.live import is_current
from pitr.sqlite.capture.session import CaptureOptions
from pitr.sqlite.pagelog.history import PageArchive
from pitr.vocabulary.event import OnEvent
from pitr.vocabulary.position import CommitNumber

_POLL_SECONDS = 0.1


def capture(settings: Settings, stop: threading.Event, on_event: OnEvent) -> None:
    """Follow the source until `stop` is set, compacting the archive beside it.

    Raises ArchiveHeld, SourceUnusable, StoreUnusable.
    """
    store = _open(settings)
    with maintained(store, settings.fine_window_us, on_event):
        _capture(settings, store, on_event).run(stop)


def capture_once(settings: Settings, on_event: OnEvent) -> None:
    """Archive everything committed now. Raises as `capture` does."""
    _capture(settings, _open(settings), on_event).once()


def _capture(settings: Settings, store: Store, on_event: OnEvent) -> Capture:
    options = CaptureOptions(
        poll_seconds=settings.poll_us / 1_000_000,
        flush_seconds=settings.flush_us / 1_000_000,
        spool_bytes_max=settings.spool_limit_bytes,
    )
    spool = settings.state / "spool"
    path = settings.needed_source().path
    return Capture(store, path, spool=spool, on_event=on_event, options=options)


def _open(settings: Settings) -> Store:
    """Open the archive to write to it. Raises IdentityMismatch when it is another source's."""
    source = settings.needed_source()
    store = open_archive_store(settings)
    open_archive(store)  # an archive is made by init only
    create_or_adopt(store, engine=source.engine, identity={"path": source.location})
    return store


def mark(settings: Settings, name: str, on_event: OnEvent, *, wait_seconds: float = 60) -> Mark:
    """Name the present state; on return it is proven to be archived.

    Raises UsageError, PreconditionFailed for a name that is bad or taken, before anything is done.
    """
    require_free_name(_open(settings), name)
    store, pages = bring_up_to_now(settings, on_event, wait_seconds=wait_seconds)
    record = pages.last_commit()
    return write_mark(
        store, name, position=str(CommitNumber(record.number)), time_us=record.time_end_us
    )


def bring_up_to_now(
    settings: Settings, on_event: OnEvent, *, wait_seconds: float
) -> tuple[Store, PageArchive]:
    """Return the archive once it holds everything that was committed before the call.

    A live capture is waited for; without one this process captures once itself. Raises as `capture`
    does, and PreconditionFailed when a capture does not get on.
    """
    store = _open(settings)
    path = settings.needed_source().path
    began_us = now_us()
    while read_live_lease(store) is None or not wait_until_archived(
        store, path, began_us, wait_seconds
    ):
        with suppress(ArchiveHeld):  # one began in this moment
            capture_once(settings, on_event)
            break
    return store, PageArchive(store)


def wait_until_archived(store: Store, path: Path, began_us: int, wait_seconds: float) -> bool:
    """Return True once a capture has archived all that was committed before `began_us`.

    False at once when it ended without. Raises PreconditionFailed when it does not get on.
    """
    pages = PageArchive(store)
    deadline = time.monotonic() + wait_seconds
    while True:
        lease = read_newest_lease(store)
        if lease is None:
            return False
        pages.refresh()  # after the lease, so that it shows what the lease proves
        if _holds_everything(pages, path, lease, began_us):
            return True
        if not is_live(lease, at_us=now_us()):
            return False
        if time.monotonic() > deadline:
            raise PreconditionFailed(
                "the running capture did not archive the present state",
                detail=f"It was waited for {wait_seconds:.0f} s. It runs as {lease.holder}.",
                hint="Run 'pitr status' to see its lag and its last error.",
            )
        time.sleep(_POLL_SECONDS)


def _holds_everything(pages: PageArchive, path: Path, lease: LeaseState, began_us: int) -> bool:
    proven_us = lease.current_until_us
    if not pages.catalog.tiles:
        return False
    last = pages.last_commit()
    # Under steady writes the archive never is at the very end; a commit seen in a poll interval
    # that began after the call proves that everything before the call came before it.
    if max(proven_us, last.time_begin_us) >= began_us:
        return True
    return is_current(path, last, proven_us=proven_us)
