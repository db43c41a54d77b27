"""What a verification finds wrong with one object, and what is lost with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Damage:
    """An object of the archive that is damaged or missing: its key, why, and what is lost.

    `lost` are phrases for a person; empty where that is not told.
    """

    key: str
    reason: str
    lost: tuple[str, ...] = ()
