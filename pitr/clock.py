"""The machine's clock: targets count from it, commits and leases are stamped by it."""

from __future__ import annotations

import time


def now_us() -> int:
    """Return the machine's time in microseconds since the epoch, UTC."""
    return time.time_ns() // 1000
