"""Who removed the rows that are lost: one line of a diff, alike for both engines."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LostBy:
    """Lost rows of one table that one transaction removed.

    `position` and `time_us` are None for rows of which it is not known. `kind` is that of
    `vocabulary.change.Transaction`; `since` is the position of the state before.
    """

    position: str | None
    time_us: int | None
    kind: str | None
    since: str | None
    rows: int

    def isolating_command(self, table: str) -> str | None:
        """Return the command that makes a recovery of what this transaction alone removed."""
        if self.position is None:
            return None
        name = shlex.quote(table)
        if self.kind == "commit":
            return f"pitr revert {self.position} -t {name}"
        return f"pitr restore -t {name} --at {self.since} --until {self.position}"
