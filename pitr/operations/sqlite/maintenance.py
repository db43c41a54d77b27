"""Keep an archive small beside a running capture: merge objects, fold old commits, sweep."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pitr.archive.archive import read_marks
from pitr.archive.store import Store
from pitr.clock import now_us
from pitr.errors import PitrError
from pitr.sqlite.pagelog.compaction import compact
from pitr.vocabulary.event import Event, Level, OnEvent
from pitr.vocabulary.position import CommitNumber

_PAUSE_SECONDS = 60


@contextmanager
def maintained(store: Store, fine_window_us: int, on_event: OnEvent) -> Iterator[None]:
    """Compact in a thread of its own while the block runs; capture never waits for it."""
    stop = threading.Event()
    thread = threading.Thread(
        target=_run, args=(store, fine_window_us, on_event, stop), name="pitr-compaction"
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _run(store: Store, fine_window_us: int, on_event: OnEvent, stop: threading.Event) -> None:
    while not stop.wait(_PAUSE_SECONDS):
        try:
            compact_now(store, fine_window_us, stop)
        except PitrError as error:
            # What compaction could not do now it does later; the archive is as it was.
            on_event(Event(Level.WARNING, f"compaction put off: {error.message}", error.detail))


def compact_now(store: Store, fine_window_us: int, stop: threading.Event) -> None:
    """Run one round of compaction. Commits that marks name stay addressable."""
    keep = [CommitNumber.parse(mark.position).value for mark in read_marks(store)]
    compact(
        store, now_us=now_us(), keep=keep, fine_window_us=fine_window_us, should_stop=stop.is_set
    )
