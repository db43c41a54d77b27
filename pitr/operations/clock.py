"""The clock that relative targets count from and that commits are stamped with."""

from __future__ import annotations

import time


def now_us() -> int:
    """Return the machine's time in microseconds since the epoch, UTC."""
    return time.time_ns() // 1000
