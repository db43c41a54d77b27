"""Capture a server in a process of its own, which tests kill: PLACE ARCHIVE SPOOL SLOT [once]."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from pitr.archive.archive import open_archive
from pitr.archive.local import LocalStore
from pitr.postgres.capture.capture import Capture
from pitr.postgres.capture.session import CaptureOptions


def main(place: str, archive: str, spool: str, slot: str, *mode: str) -> None:
    """Run until killed, or once."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    store = LocalStore(Path(archive))
    capture = Capture(
        store,
        open_archive(store),
        place,
        slot=slot,
        spool=Path(spool),
        on_event=lambda event: print(event.level, event.message, event.detail, flush=True),
        options=CaptureOptions(flush_seconds=0.05),
    )
    if mode == ("once",):
        capture.once()
    else:
        capture.run(stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
