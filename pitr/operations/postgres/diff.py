"""diff: what became of the rows of a recovery in the live database, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pitr.config import Settings
from pitr.operations.diff import Diff, DiffRequest, DiffTable
from pitr.operations.postgres.attributing import Attribute, attributing
from pitr.operations.postgres.comparing import OpenRecovery, open_recovery
from pitr.postgres.diff.attribution import Attribution
from pitr.postgres.diff.classified import ClassifiedTable, classify, stream_rows
from pitr.postgres.diff.states import comparing
from pitr.postgres.live.connection import Connection
from pitr.postgres.live.faults import server_faults


@contextmanager
def open_diff(settings: Settings, request: DiffRequest) -> Iterator[Diff]:
    """Compare a recovery with the live database; rows are read inside the block.

    A snapshot of live is held for as long. Raises what `open_recovery` raises, PrivilegeMissing.
    """
    with (
        open_recovery(
            settings, request.recovery_id, tables=request.tables, program="pitr diff"
        ) as opened,
        server_faults("compare the recovery with the live database"),
    ):
        attribute = attributing(settings, opened)
        with comparing(opened.states):
            yield _diff(opened, request, attribute)


def _diff(opened: OpenRecovery, request: DiffRequest, attribute: Attribute) -> Diff:
    live = opened.states.live
    tables = tuple(
        _table(live, table, request, attribute(table)) for table in classify(opened.states)
    )
    return Diff(opened.recovery, None, tables, ())


def _table(
    live: Connection, table: ClassifiedTable, request: DiffRequest, attribution: Attribution
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
        rows=stream_rows(live, table, request.classes or None, request.limit),
    )
