"""verify: read every archived object again."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.config import Settings
from pitr.operations.engine import engine_of_archive, wired


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOutcome:
    """What was read, what is wrong with it, and up to where everything is right.

    `damaged` has the key and the reason of each damaged object, `holes` the first and the last
    position that no object holds. `last_good` is None when nothing can be relied on.
    """

    objects: int
    bytes: int
    damaged: tuple[tuple[str, str], ...]
    holes: tuple[tuple[str, str], ...]
    last_good: str | None

    @property
    def ok(self) -> bool:
        """Return whether nothing is damaged and nothing is missing."""
        return not self.damaged and not self.holes


def verify(settings: Settings) -> VerifyOutcome:
    """Return what is damaged or missing in the archive. Reads the archive only."""
    return wired(verify, engine_of_archive(settings))(settings)
