"""Keep the index whole and small beside a running capture."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pitr.archive.store import Store
from pitr.clock import now_us
from pitr.errors import ArchiveLacks, PitrError
from pitr.postgres.index.compaction import compact_index
from pitr.postgres.index.upkeep import complete_index
from pitr.postgres.wal_store.archive import WalArchive
from pitr.vocabulary.event import Event, Level, OnEvent

# Both list the archive, which may be large; nobody waits for them.
_PAUSE_SECONDS = 600


@contextmanager
def maintained(store: Store, on_event: OnEvent) -> Iterator[None]:
    """Complete and compact the index in a thread of its own while the block runs."""
    stop = threading.Event()
    thread = threading.Thread(target=_run, args=(store, on_event, stop), name="pitr-index")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _run(store: Store, on_event: OnEvent, stop: threading.Event) -> None:
    while not stop.wait(_PAUSE_SECONDS):
        try:
            complete_index(store, WalArchive(store), should_stop=stop.is_set)
            compact_index(store, now_us=now_us(), should_stop=stop.is_set)
        except ArchiveLacks:
            continue  # nothing is archived yet
        except PitrError as error:
            # What could not be done now is done later; the archive is as it was.
            on_event(Event(Level.WARNING, f"the index is put off: {error.message}", error.detail))
