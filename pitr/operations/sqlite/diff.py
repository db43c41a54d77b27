"""diff: what became of the rows of a recovery in the live database, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pitr.config import Settings
from pitr.operations.diff import Diff, DiffRequest, DiffTable
from pitr.operations.sqlite.comparing import open_recovery
from pitr.sqlite.diff.attribution import Attribution, attribute_lost
from pitr.sqlite.diff.classified import ClassifiedTable, classify, let_go_of_live, stream_rows
from pitr.sqlite.diff.states import States
from pitr.vocabulary.position import CommitNumber


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
