"""What a running capture tells whoever started it. Capture itself prints and logs nothing."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass


class Level(enum.StrEnum):
    """How much an event matters."""

    PROGRESS = "progress"  # a counter moved; the next one replaces it
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `done` and `total` count `unit`s, of PROGRESS events only."""

    level: Level
    message: str
    detail: str | None = None
    done: int = 0
    total: int = 0
    unit: str = "pages"


OnEvent = Callable[[Event], None]
