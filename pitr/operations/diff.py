"""diff: what became of the rows of a recovery in the live database, row by row."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pitr.config import Settings
from pitr.operations.comparing import open_recovery
from pitr.recovery.folder import Recovery
from pitr.sqlite.diff.attribution import Attribution, LostBy, attribute_lost
from pitr.sqlite.diff.classified import ClassifiedTable, classify, let_go_of_live, stream_rows
from pitr.sqlite.diff.drift import SchemaDrift
from pitr.sqlite.diff.states import States
from pitr.vocabulary.diff_row import DiffRow
from pitr.vocabulary.position import CommitNumber
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


@contextmanager
def open_diff(settings: Settings, request: DiffRequest) -> Iterator[Diff]:
    """Compare a recovery with the live database; rows are read inside the block.

    The live database is let go of before the block begins. Raises what `open_recovery` raises.
    """
    with open_recovery(settings, request.recovery_id, tables=request.tables) as opened:
        states = opened.states
        classified = classify(states)
        let_go_of_live(states, classified)
        tables = tuple(
            _table(states, table, request, attribute_lost(states, table)) for table in classified
        )
        position = str(CommitNumber(states.live_commit)) if states.live_commit else None
        yield Diff(opened.recovery, position, tables, opened.warnings)


def _table(
    states: States, table: ClassifiedTable, request: DiffRequest, attribution: Attribution
) -> DiffTable:
    return DiffTable(
        table=table.name,
        key=() if table.keyless else table.key,
        columns=table.key if table.keyless else table.columns,
        keyless=table.keyless,
        counts=table.counts,
        chosen=sum(
            count
            for row_class, count in table.counts.items()
            if not request.classes or row_class in request.classes
        ),
        drift=table.drift,
        lost_by=attribution.lost_by,
        warnings=(*table.warnings, *attribution.warnings),
        rows=stream_rows(states, table, request.classes or None, request.limit),
    )
