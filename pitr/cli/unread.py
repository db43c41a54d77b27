"""End a query when nobody reads its answer any more.

A command that only writes at the end of an endless query does not notice that what started it is
gone. Its standard output, a pipe, does: its reading end is closed.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PATIENCE_SECONDS = 2.0


@contextmanager
def ended_when_unread() -> Iterator[None]:
    """Interrupt this process when the reader of its standard output goes, within the block.

    It is given a moment to find out by writing, as under `| head`, and then another one to clean
    up. Nothing happens where standard output is a file or a terminal: neither is ever unread.
    """
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file of the operating system
        yield
        return
    over, end = os.pipe()

    def watch() -> None:
        poll = select.poll()
        poll.register(output, 0)  # an error alone: the other end of the pipe is closed
        poll.register(over, select.POLLIN)
        if any(descriptor == over for descriptor, _ in poll.poll()):
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            if select.select([over], [], [], _PATIENCE_SECONDS)[0]:
                return
            os.kill(os.getpid(), number)

    watcher = threading.Thread(target=watch, name="pitr-unread", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        os.write(end, b"!")
        watcher.join()
        os.close(over)
        os.close(end)
