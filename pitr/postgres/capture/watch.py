"""A look at the server beside the stream: how far its WAL goes at which time, and its slot."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

from pitr.errors import PitrError
from pitr.postgres.live.connection import Connection, connect
from pitr.postgres.live.faults import server_faults
from pitr.postgres.live.slot import Slot, read_slot
from pitr.vocabulary.position import Lsn

_SQL = files("pitr.sql").joinpath("postgres/capture_watch.sql")
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found.

    What was committed up to `settled_us`, by the server's clock, lies before `flushed`. A commit
    with synchronous_commit off is flushed within three times wal_writer_delay of its return, so
    `settled_us` lies behind the clock by that, `unsettled_us`; on a standby nothing is said of
    its primary's commits, and it is 0. `slot` is None when there is none. `slot_limit_bytes` is
    max_slot_wal_keep_size, None without a limit.
    """

    flushed: Lsn
    settled_us: int
    unsettled_us: int
    segment_bytes: int
    slot: Slot | None
    slot_limit_bytes: int | None
    system_identifier: str


def look(connection: Connection, slot: str) -> Look:
    """Ask the server. Raises SourceUnreachable, DatabaseRefused."""
    with server_faults("cannot ask the server how far its WAL goes"):
        row = connection.execute(_SQL.read_text()).fetchone()
    assert row is not None
    clock_us, flushed, is_standby, unflushed_ms, segment_bytes, limit, system = row
    settled_us = 0 if is_standby else clock_us - unflushed_ms * 1000
    return Look(
        Lsn.parse(flushed),
        settled_us,
        unflushed_ms * 1000,
        segment_bytes,
        read_slot(connection, slot),
        limit,
        str(system % (1 << 64)),
    )


def read_system_identifier(connection: Connection) -> str:
    """Return the number of the cluster behind a connection, as IDENTIFY_SYSTEM gives it.

    Any role may ask. Raises SourceUnreachable.
    """
    with server_faults("cannot identify the server"):
        row = connection.execute("SELECT system_identifier FROM pg_control_system()").fetchone()
    assert row is not None
    return str(row[0] % (1 << 64))  # SQL has no unsigned number of 64 bits


class Watch:
    """Look once a second in a thread of its own, so that a server that hangs hangs nothing here."""

    def __init__(self, place: str, slot: str, on_look: Callable[[Look], None]) -> None:
        """Begin. `on_look` is called in the thread. Failures to look are the stream's to report."""
        self._place = place
        self._slot = slot
        self._on_look = on_look
        self._stop = threading.Event()
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._run, name="pitr-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking. A look that hangs is left behind."""
        self._stop.set()
        connection = self._connection
        self._thread.join(timeout=2 * _LOOK_SECONDS)
        if self._thread.is_alive() and connection is not None:
            connection.pgconn.get_cancel().cancel()
            self._thread.join(timeout=2 * _LOOK_SECONDS)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    if self._connection is None:
                        self._connection = connect(self._place, program="pitr capture")
                    self._on_look(look(self._connection, self._slot))
                except PitrError:
                    self._let_go()
                self._stop.wait(_LOOK_SECONDS)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
