"""Captures of real servers for tests: run in a thread, waited for, and compared with pg_wal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pitr.archive.archive import Identity, create_or_adopt
from pitr.archive.store import Store
from pitr.postgres.capture.capture import Capture
from pitr.postgres.capture.session import CaptureOptions
from pitr.postgres.wal.segment_name import is_segment_name
from pitr.postgres.wal_store.archive import WalArchive
from pitr.postgres.wal_store.object import WalObject
from pitr.vocabulary.event import Event, Level
from pitr.vocabulary.position import Lsn
from tools.postgres_servers import Server

SLOT = "pitr_test"
FAST = CaptureOptions(flush_seconds=0.05)
DEADLINE_SECONDS = 30


def identity_of(store: Store, server: Server) -> Identity:
    """Make or open the archive of a server."""
    system = server.value("SELECT system_identifier FROM pg_control_system()")
    source = {"system_identifier": str(system % 2**64)}
    return create_or_adopt(store, engine="postgres", identity=source)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Wait for a condition; fail when it does not come about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def make_capture(
    store: Store,
    server: Server,
    spool: Path,
    on_event: Callable[[Event], None],
    *,
    place: str | None = None,
    identity: Identity | None = None,
    options: CaptureOptions = FAST,
) -> Capture:
    """Return a capture of the server, or of whatever answers at `place`."""
    return Capture(
        store,
        identity or identity_of(store, server),
        place or server.url(),
        slot=SLOT,
        spool=spool,
        on_event=on_event,
        options=options,
    )


class Running:
    """A capture that runs in a thread."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.events: list[Event] = []
        self.stop = threading.Event()
        self.failure: BaseException | None = None

    def told(self, text: str, level: Level | None = None) -> bool:
        """Return whether an event with this text came."""
        return any(
            text in f"{event.message} {event.detail}" and level in (None, event.level)
            for event in self.events
        )

    def wait(self, condition: Callable[[], bool], what: str = "capture") -> None:
        """Wait for a condition, while the capture lives."""

        def is_met() -> bool:
            if self.failure is not None:
                raise self.failure
            return condition()

        wait_until(is_met, f"{what}; events: {[event.message for event in self.events]}")

    def wait_for(self, server: Server, timeline: int | None = None) -> Lsn:
        """Wait until the archive has all WAL that the server has flushed by now."""
        end = flushed(server)
        tli = timeline or timeline_of(server)
        self.wait(lambda: archived_end(self.store, tli) >= end, f"WAL up to {end}")
        return end


@contextmanager
def capturing(
    store: Store,
    server: Server,
    spool: Path,
    *,
    place: str | None = None,
    identity: Identity | None = None,
    options: CaptureOptions = FAST,
) -> Iterator[Running]:
    """Capture while the block runs; then stop, and raise what the capture failed with."""
    running = Running(store)
    capture = make_capture(
        store, server, spool, running.events.append, place=place, identity=identity, options=options
    )

    with run_in_thread(running, capture):
        yield running


@contextmanager
def run_in_thread(running: Running, capture: Capture) -> Iterator[None]:
    """Run a capture while the block runs; then stop it, and raise what it failed with."""

    def run() -> None:
        try:
            capture.run(running.stop)
        except BaseException as error:
            running.failure = error

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        running.stop.set()
        thread.join(60)
    assert not thread.is_alive()
    if running.failure is not None:
        raise running.failure


def flushed(server: Server) -> Lsn:
    """Return how far the server's WAL is flushed."""
    return Lsn.parse(server.value("SELECT pg_current_wal_flush_lsn()::text"))


def timeline_of(server: Server) -> int:
    """Return the server's timeline."""
    name = str(server.value("SELECT pg_walfile_name(pg_current_wal_lsn())"))
    return int(name[:8], 16)


def archived_end(store: Store, timeline: int) -> Lsn:
    """Return how far the archive has the history of a timeline."""
    ranges = WalArchive(store).ranges(timeline)
    return ranges[-1][1] if ranges else Lsn(0)


def write(server: Server, rows: int = 1000) -> None:
    """Commit some WAL: about 150 bytes a row."""
    server.query(
        "CREATE TABLE IF NOT EXISTS t (id serial, note text);"
        f"INSERT INTO t (note) SELECT repeat(md5(i::text), 3) FROM generate_series(1, {rows}) i"
    )


def switch(server: Server) -> None:
    """Let the server begin a new segment."""
    server.query("SELECT pg_switch_wal()")


def whole_segments(store: Store) -> dict[str, bytes]:
    """Return the whole segments of the archive by name."""
    found = {}
    for info in store.list("wal/"):
        name = info.key.rpartition("/")[2]
        if is_segment_name(name):
            segment = WalObject(store, info.key, info.size)
            found[name] = segment.read(0, segment.head.segment_bytes)
    return found


def assert_same_as_server(store: Store, server: Server, *, from_name: str = "") -> int:
    """Compare every archived byte with the server's pg_wal; return how many segments.

    Segments that the server has removed or used again meanwhile are passed over, so let it keep
    WAL (wal_keep_size).
    """
    compared = 0
    for name, data in whole_segments(store).items():
        path = server.wal / name
        if name >= from_name and path.exists():
            assert path.read_bytes() == data, f"segment {name} differs"
            compared += 1
    timeline = timeline_of(server)
    wal = WalArchive(store)
    for begin, end in wal.ranges(timeline)[-1:]:
        at = max(begin.value, end.value - end.value % wal.segment_bytes)
        if end.value > at:
            size = end.value - at
            file = server.wal / str(server.value(f"SELECT pg_walfile_name('{Lsn(at + 1)}')"))
            assert wal.read(timeline, Lsn(at), end) == file.read_bytes()[:size]
    return compared
