"""What an input may cost a decoder: memory that its size does not justify, and time, are faults."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

MEMORY_BYTES = 768 << 20
CPU_SECONDS = 20


class TooSlow(BaseException):
    """Say that one input kept a decoder busy for CPU_SECONDS."""


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Let the process grow by MEMORY_BYTES at most: more is a MemoryError where it is asked for."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))


@contextlib.contextmanager
def alarmed() -> Iterator[None]:
    """Raise TooSlow in the main thread when `rearm` was not called for CPU_SECONDS of CPU time."""

    def ring(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, ring)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def rearm() -> None:
    """Begin to count the CPU time of the next input."""
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
