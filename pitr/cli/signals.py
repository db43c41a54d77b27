"""Turn the signals that end a process into a clean stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pitr.vocabulary.event import Event, Level, OnEvent

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_STOPPING = Event(Level.INFO, "stopping", "Archiving what is committed; once more ends at once.")


@contextmanager
def stopped_by_signals(on_event: OnEvent) -> Iterator[threading.Event]:
    """Yield an event that the first SIGTERM or SIGINT sets; the second one interrupts.

    For the main thread. The handler itself takes no lock: the thread that it interrupts may hold
    it, and would wait for itself for ever. So it writes to a pipe, and another thread does the
    rest.
    """
    stop = threading.Event()
    asked, ask = os.pipe()
    was_asked = False

    def on_signal(_number: int, _frame: object) -> None:
        nonlocal was_asked
        if was_asked:
            raise KeyboardInterrupt
        was_asked = True
        os.write(ask, b"!")

    def watch() -> None:
        if os.read(asked, 1):
            stop.set()
            on_event(_STOPPING)

    watcher = threading.Thread(target=watch, name="pitr-signals", daemon=True)
    watcher.start()
    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(ask)
        watcher.join()
        os.close(asked)
