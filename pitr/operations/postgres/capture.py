"""capture and mark on PostgreSQL: WAL into the archive, and names for positions in it."""

from __future__ import annotations

import threading
import time
from contextlib import closing, suppress

from pitr.archive.archive import Identity, Mark, open_archive, require_free_name, write_mark
from pitr.archive.lease import read_live_lease
from pitr.archive.store import Store
from pitr.config import Settings
from pitr.errors import ArchiveHeld, PreconditionFailed
from pitr.operations.opening import open_archive_store
from pitr.operations.postgres.maintenance import maintained
from pitr.postgres.base.object import BASE_PREFIX
from pitr.postgres.capture.capture import Capture
from pitr.postgres.capture.following import CatalogFollower, index_objects
from pitr.postgres.capture.session import CaptureOptions
from pitr.postgres.live.connection import connect
from pitr.postgres.live.mark import MarkPosition, make_point, settled_point
from pitr.postgres.wal_store.archive import holds_wal
from pitr.vocabulary.event import Event, Level, OnEvent

_POLL_SECONDS = 0.1
# A commit is to be recoverable two seconds after its COMMIT, and the store takes its time too.
_FLUSH_SECONDS_MAX = 1.0
_NO_BASE = Event(
    Level.WARNING,
    "the archive has no base backup yet",
    "Run 'pitr backup' beside this: nothing can be restored that was committed before its end.",
)


def capture(settings: Settings, stop: threading.Event, on_event: OnEvent) -> None:
    """Follow the cluster until `stop` is set. See Capture.run for what it raises."""
    store, identity = _open(settings)
    if next(iter(store.list(BASE_PREFIX)), None) is None:
        on_event(_NO_BASE)
    place = settings.needed_source().location
    with (
        maintained(store, on_event),
        closing(CatalogFollower(store, place, on_event)) as catalog,
    ):
        _capture(settings, store, identity, on_event, catalog).run(stop)


def capture_once(settings: Settings, on_event: OnEvent) -> None:
    """Archive everything committed now. See Capture.once for what it raises."""
    store, identity = _open(settings)
    _capture_once(settings, store, identity, on_event)


def mark(settings: Settings, name: str, on_event: OnEvent, *, wait_seconds: float = 60) -> Mark:
    """Name the present state; on return it is proven to be archived.

    Raises UsageError, PreconditionFailed for a name that is bad or taken, before anything is done;
    SourceUnreachable.
    """
    store, identity = _open(settings)
    require_free_name(store, name)
    with closing(connect(settings.needed_source().location)) as connection:
        point = make_point(connection, name, identity.source["system_identifier"])
    _bring_in(settings, store, identity, point, on_event, wait_seconds)
    return write_mark(store, name, position=f"lsn:{point.end}", time_us=point.time_us)


def bring_up_to_now(settings: Settings, on_event: OnEvent, *, wait_seconds: float) -> None:
    """Return once the archive holds everything that was committed before the call.

    A live capture is waited for; without one this process captures once itself. Nothing is written
    for it. Raises as `mark` does.
    """
    store, identity = _open(settings)
    with closing(connect(settings.needed_source().location)) as connection:
        point = settled_point(connection, identity.source["system_identifier"])
    _bring_in(settings, store, identity, point, on_event, wait_seconds)


def _open(settings: Settings) -> tuple[Store, Identity]:
    store = open_archive_store(settings)
    return store, open_archive(store)  # an archive is made by init only


def _capture_once(settings: Settings, store: Store, identity: Identity, on_event: OnEvent) -> None:
    place = settings.needed_source().location
    with closing(CatalogFollower(store, place, on_event)) as catalog:
        _capture(settings, store, identity, on_event, catalog).once()


def _capture(
    settings: Settings,
    store: Store,
    identity: Identity,
    on_event: OnEvent,
    catalog: CatalogFollower,
) -> Capture:
    return Capture(
        store,
        identity,
        settings.needed_source().location,
        slot=settings.slot,
        spool=settings.state / "spool",
        on_event=on_event,
        on_segment=index_objects,
        on_scan=catalog.see,
        options=CaptureOptions(
            flush_seconds=min(settings.flush_us / 1_000_000, _FLUSH_SECONDS_MAX),
            spool_bytes_max=settings.spool_limit_bytes,
        ),
    )


def _bring_in(
    settings: Settings,
    store: Store,
    identity: Identity,
    point: MarkPosition,
    on_event: OnEvent,
    wait_seconds: float,
) -> None:
    """Return once the archive has the point: a running capture is waited for, else run once."""
    while read_live_lease(store) is None or not wait_until_archived(store, point, wait_seconds):
        with suppress(ArchiveHeld):  # one began in this moment
            _capture_once(settings, store, identity, on_event)
            return


def wait_until_archived(store: Store, point: MarkPosition, wait_seconds: float) -> bool:
    """Return True once a capture has archived a point, False at once when it ended without.

    Raises PreconditionFailed when it does not get on.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        is_captured = read_live_lease(store) is not None  # asked first: what it stored last counts
        if holds_wal(store, point.timeline, point.end, point.segment_bytes):
            return True
        if not is_captured:
            return False
        if time.monotonic() > deadline:
            raise PreconditionFailed(
                "the running capture did not archive the present state",
                detail=f"It was waited for {wait_seconds:.0f} s until {point.end} is archived.",
                hint="Run 'pitr status' to see its lag and its last error.",
            )
        time.sleep(_POLL_SECONDS)
