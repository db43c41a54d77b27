"""Traps of bringing rows back: tables that share one database and its two copies.

There is one copy from before the damage and one from just after it: each test then does its own
later work and merges its own tables. After each merge every row of every other table is what it
was, and so is every row that the test does not name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pitr.vocabulary.plan import MergeStep, Plan
from tests.postgres.repair_world import Outcome, RepairWorld
from tools.postgres_servers import Server


@dataclass(frozen=True, slots=True)
class Trap:
    """What there is before, and what the damage does."""

    setup: tuple[str, ...]
    damage: tuple[str, ...]


class Traps(list[Trap]):
    """The traps of one module."""

    def __call__(self, *setup: str, damage: str | Sequence[str]) -> None:
        """Register what a test needs from before the damage."""
        self.append(Trap(setup, (damage,) if isinstance(damage, str) else tuple(damage)))


@dataclass(slots=True)
class Lab:
    """The world with its two copies."""

    world: RepairWorld
    before: str
    after: str

    def merge(self, *tables: str, **how: Any) -> tuple[Outcome, dict[str, Any]]:
        """Merge tables; return how it ended, and what has changed in all of the database."""
        image = self.world.image()
        outcome = self.world.merge(self.before, *tables, after=self.after, **how)
        return outcome, self.world.changed_since(image)

    def plan(self, *tables: str, **how: Any) -> Plan:
        """Plan a merge."""
        return self.world.plan(self.before, *tables, after=self.after, **how)

    def back(self, *tables: str, **how: Any) -> dict[str, Any]:
        """Merge tables, which must succeed; return what has changed."""
        outcome, changed = self.merge(*tables, **how)
        assert outcome.code == 0, (outcome.error and outcome.error.detail, outcome.result)
        return changed

    def blocked(self, *tables: str, **how: Any) -> dict[str, list[Any]]:
        """Merge tables, which must be blocked and change nothing; return kinds with their keys."""
        outcome, changed = self.merge(*tables, **how)
        assert outcome.code == 1, outcome
        assert not changed
        return {str(one.kind): list(one.keys) for one in outcome.plan.blocking}

    def fails(self, *tables: str, **how: Any) -> Outcome:
        """Merge tables, which must fail with an error and change nothing."""
        outcome, changed = self.merge(*tables, **how)
        assert outcome.error is not None, outcome
        assert not changed
        return outcome


@contextmanager
def making_lab(traps: Traps, state: Path) -> Iterator[Lab]:
    """Yield a world with the tables of all traps, damaged."""
    with Server(15, settings={"wal_level": "logical"}) as server:
        world = RepairWorld(server, state)
        try:
            for one in traps:
                world.run(*one.setup)
            before = world.mark()
            for one in traps:
                world.run(*one.damage)
            yield Lab(world, before, world.mark())
        finally:
            world.close()


def warned(plan: Plan, *words: str) -> bool:
    """Return whether one warning has all of the words."""
    return any(all(word in warning for word in words) for warning in plan.warnings)


class Stop(Exception):
    """What `stopping` raises."""


def stopping(at: MergeStep) -> Any:
    """Return what raises when a merge comes to a step."""

    def on_step(step: MergeStep) -> None:
        if step is at:
            raise Stop

    return on_step
