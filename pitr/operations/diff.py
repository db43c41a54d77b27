"""diff: what became of the rows of a recovery in the live database, row by row."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pitr.config import Settings
from pitr.operations.engine import wired
from pitr.recovery.folder import Recovery, read_recovery
from pitr.vocabulary.diff_row import DiffRow
from pitr.vocabulary.drift import SchemaDrift
from pitr.vocabulary.lost_by import LostBy
from pitr.vocabulary.row_class import RowClass


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffRequest:
    """Which rows to show: of a recovery (the newest when None), its tables, classes (all when
    empty), at most `limit` a table.
    """

    recovery_id: str | None = None
    tables: Sequence[str] = ()
    classes: Collection[RowClass] = ()
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffTable:
    """One table of a diff. `rows` is read once, inside the block of `open_diff`.

    `counts` are of all its rows, whatever is shown, `chosen` is how many are of the classes asked
    for. `key` and `columns` name the values of a
    row's key and of its states. `lost_by` is empty where the state after the damage is known.
    """

    table: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    keyless: bool
    counts: dict[RowClass, int]
    chosen: int
    drift: SchemaDrift
    lost_by: tuple[LostBy, ...]
    warnings: tuple[str, ...]
    rows: Iterator[DiffRow]


@dataclass(frozen=True, slots=True)
class Diff:
    """The recovery and its tables.

    `live_position` is the archived commit that the live database was proven to be at.
    """

    recovery: Recovery
    live_position: str | None
    tables: tuple[DiffTable, ...]
    warnings: tuple[str, ...]


def open_diff(settings: Settings, request: DiffRequest) -> AbstractContextManager[Diff]:
    """Compare a recovery with the live database; rows are read inside the block.

    Raises UsageError for a table or a recovery that does not exist, PreconditionFailed when
    sidecar or live database are gone, ArchiveLacks when the state after the damage is not there.
    """
    engine = read_recovery(settings.state, request.recovery_id).engine
    return wired(open_diff, engine)(settings, request)
