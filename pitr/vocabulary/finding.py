"""What `check` finds: one point each, how it weighs, and what mends it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Level(enum.Enum):
    """How a finding weighs: `fail` means that capture cannot run."""

    OK = "ok"
    WARNING = "warning"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One point of the check; `remedy` is empty when there is nothing to be done."""

    level: Level
    subject: str
    detail: str
    remedy: str = ""
