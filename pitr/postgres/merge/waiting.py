"""Who keeps a merge waiting: asked by a second session while the first one stands still.

Told is what finds the other session and no more: its process, role, program, state and for how
long; never what it runs. A role without pg_read_all_stats sees only process and role of others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import psycopg

from pitr.errors import PitrError
from pitr.postgres.tables.session import Connection, rows_of
from pitr.vocabulary.event import Event, Level, OnEvent

_LOOK_SECONDS = 1.0
_LOOK_SECONDS_MIN = 0.05
_BLOCKERS = (
    "SELECT p.pid, a.usename, a.application_name, a.state,"
    " extract(epoch FROM clock_timestamp() - coalesce(a.query_start, a.backend_start))::float8"
    " FROM unnest(pg_blocking_pids(%s)) AS p (pid) LEFT JOIN pg_stat_activity AS a USING (pid)"
    " ORDER BY 1"
)


class Waiting:
    """What a merge waits for, as it was last seen."""

    def __init__(self) -> None:
        self.seen: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """Return a sentence that names who was last in the way; empty when nobody was seen."""
        return f" It waited for {'; '.join(self.seen)}." if self.seen else ""


@contextmanager
def telling_who_blocks(
    live: Connection, reconnect: Callable[[], Connection], report: OnEvent, lock_seconds: float
) -> Iterator[Waiting]:
    """Run the block; meanwhile look each second whether `live` waits, and report for whom.

    The second session is opened when the first look is due: a short merge has none.
    """
    waiting, is_over = Waiting(), threading.Event()
    pause = max(_LOOK_SECONDS_MIN, min(_LOOK_SECONDS, lock_seconds / 3))
    pid = live.info.backend_pid

    def look() -> None:
        if is_over.wait(pause):
            return
        with suppress(psycopg.Error, PitrError), closing(reconnect()) as other:
            while True:
                found = tuple(_described(*row) for row in rows_of(other, _BLOCKERS, (pid,)))
                if found:
                    waiting.seen = found
                    detail = "; ".join(found)
                    report(Event(Level.INFO, "waiting for other sessions", detail))
                if is_over.wait(pause):
                    return

    thread = threading.Thread(target=look, name="pitr-waiting", daemon=True)
    thread.start()
    try:
        yield waiting
    finally:
        is_over.set()
        thread.join()


def _described(
    pid: int, role: str | None, program: str | None, state: str | None, seconds: float | None
) -> str:
    if pid == 0:
        return "a prepared transaction (pg_prepared_xacts)"
    parts = [f"role {role}"] if role else []
    parts += [program] if program else []
    if state:
        parts.append(state if seconds is None else f"{state} for {seconds:.0f} s")
    return f"process {pid} ({', '.join(parts)})" if parts else f"process {pid}"
