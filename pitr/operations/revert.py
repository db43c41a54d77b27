"""revert: a recovery of exactly what one transaction changed, from before it to after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pitr.config import Settings
from pitr.operations.engine import engine_of_archive, wired
from pitr.operations.restore import RestoreOutcome
from pitr.vocabulary.target import ResolvedTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class RevertRequest:
    """Which transaction to take back, on which of its tables (all when empty).

    `with_parents` and `with_children` are for the merges of the recovery, as in RestoreRequest.
    """

    transaction: str
    tables: Sequence[str] = ()
    destination: Path | None = None
    load_into: str | None = None
    compare: bool = True
    with_parents: bool = False
    with_children: bool = False


@dataclass(frozen=True, slots=True)
class RevertOutcome:
    """The recovery, and what of the transaction it leaves out."""

    restored: RestoreOutcome
    warnings: tuple[str, ...]


def revert(
    settings: Settings, request: RevertRequest, *, on_target: Callable[[ResolvedTarget], None]
) -> RevertOutcome:
    """Restore the tables that a transaction changed as they were before it.

    `on_target` hears the state before it. Raises UsageError for a text that names no transaction
    or a table that it did not change, ArchiveGap for one that is not known by itself, and what
    `restore` raises.
    """
    return wired(revert, engine_of_archive(settings))(settings, request, on_target=on_target)
