"""Count how the live tables differ from a recovery that was just made."""

from __future__ import annotations

from dataclasses import replace

from pitr.config import Settings
from pitr.errors import PreconditionFailed
from pitr.operations.postgres.comparing import open_recovery
from pitr.operations.restore import TableOutcome, uncounted
from pitr.postgres.diff.alignment import LIVE
from pitr.postgres.diff.classified import ClassifiedTable, classify
from pitr.postgres.diff.states import comparing
from pitr.postgres.live.faults import server_faults
from pitr.postgres.tables.session import Connection, value_of
from pitr.recovery.folder import Recovery
from pitr.vocabulary.row_class import RowClass


def counted(settings: Settings, recovery: Recovery) -> tuple[TableOutcome, ...]:
    """Return the tables of a recovery, counted against live; what was damaged is not asked.

    Where live is not to be had, or not wholly to be read, nothing is counted, and a warning says
    why: the recovery is whole without it.
    """
    try:
        with (
            open_recovery(
                settings, recovery.id, with_after=False, program="pitr restore"
            ) as opened,
            server_faults("compare the recovery with the live database"),
            comparing(opened.states),
        ):
            live = opened.states.live
            classified = classify(opened.states)
            return tuple(
                _counted(live, table, restored)
                for table, restored in zip(classified, uncounted(opened.recovery), strict=True)
            )
    except PreconditionFailed as error:
        return uncounted(recovery, f"not compared with live: {error.sentence}")


def _counted(live: Connection, table: ClassifiedTable, restored: TableOutcome) -> TableOutcome:
    if table.aligned.live is None:
        return restored
    missing = table.counts.get(RowClass.LOST, 0)
    differs = table.counts.get(RowClass.DIFFERS, 0)
    if table.where is not None:
        # Which live rows the condition would choose now is another question.
        return replace(restored, missing_in_live=missing, differs=differs)
    rows = int(value_of(live, f"SELECT count(*) {table.aligned.rows_in(LIVE)}"))
    return replace(
        restored,
        missing_in_live=missing,
        differs=differs,
        extra_in_live=rows - (restored.rows - missing),
    )
