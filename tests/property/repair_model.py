"""What a repair has to make of rows: a model that knows nothing of classes, plans or SQL.

It sees rows as the application does, before (B), after (D) and live (C) of the damage, each value
as the text that the database writes of it, and says row by row and column by column what comes of
them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Protocol

Row = tuple[str, ...]
Rows = dict[Row, Row]


class Named(Protocol):
    """Whatever has the name of a table."""

    @property
    def name(self) -> str:
        """Return the name."""


@dataclass(slots=True)
class Verdict:
    """Rows that the rules leave aside, and rows that they would have, but that were not written."""

    aside: int
    kept_out: list[tuple[Row | None, Row | None]]


@dataclass(frozen=True, slots=True)
class Story:
    """The rows of all tables: before and after the damage, before and after the repair."""

    before: dict[str, Counter[Row]]
    after: dict[str, Counter[Row]] | None
    live: dict[str, Counter[Row]]
    final: dict[str, Counter[Row]]

    def of(
        self, table: Named
    ) -> tuple[Counter[Row], Counter[Row] | None, Counter[Row], Counter[Row]]:
        """Return the rows of one table."""
        name = table.name
        after = None if self.after is None else self.after[name]
        return self.before[name], after, self.live[name], self.final[name]


def wanted_by_count(
    before: Counter[Row], after: Counter[Row] | None, live: Counter[Row], *, is_undo: bool
) -> Counter[Row]:
    """Return what rows without a key have to become: as many as were lost come back.

    An undo takes as many as the merge put in and as are there beyond those of before.
    """
    if is_undo:
        assert after is not None
        return live - ((after - before) & (live - before))
    lost = before - live
    return live + (lost if after is None else lost & (before - after))


def wanted_of_three(
    was: Row | None, after: Row | None, now: Row | None, how: dict[str, Any]
) -> tuple[Row | None, bool]:
    """Return what a row has to become, and whether the rules leave it aside."""
    overwrites = how["on_conflict"] == "overwrite"
    if was is None:
        if after is None or now is None:
            return now, False
        return (None, False) if how["delete_extra"] and now == after else (now, True)
    if after is None:
        if now is None or overwrites:
            return was, False
        return now, now != was
    damaged = [at for at in range(len(was)) if was[at] != after[at]]
    if not damaged or now is None:
        return now, bool(damaged)
    if any(now[at] not in (was[at], after[at]) for at in damaged) and not overwrites:
        return now, True
    return tuple(was[at] if at in damaged else one for at, one in enumerate(now)), False


def wanted_alone(was: Row | None, now: Row | None, how: dict[str, Any]) -> tuple[Row | None, bool]:
    """Return the same where the state after the damage is not known."""
    if was is None or was == now:
        return now, False
    if now is None or how["update"]:
        return was, False
    return now, True
