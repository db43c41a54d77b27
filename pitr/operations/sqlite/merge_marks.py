"""merge marks on SQLite: the archived commit that a merge made, and the one before it.

The files of the database are read here, so no connection to it may be open in this process.
"""

from __future__ import annotations

from pathlib import Path

from pitr.archive.archive import open_archive, require_free_name, require_source, write_mark
from pitr.config import Settings
from pitr.errors import ArchiveLacks
from pitr.operations.merge_marks import WAIT_SECONDS, capture_ended, mark_names
from pitr.operations.opening import open_archive_store
from pitr.operations.sqlite.capture import wait_until_archived
from pitr.sqlite.merge.archived import archived_merge
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.segment import CommitRecord
from pitr.vocabulary.plan import CommitTrace, MergeMarks, Plan
from pitr.vocabulary.position import CommitNumber

_NOT_ALONE = "the archive does not tell the merge from commits beside it, which lie between"


def mark_merge(settings: Settings, plan: Plan, merge_id: str, trace: CommitTrace) -> MergeMarks:
    """Name the states around the commit of a merge, once a running capture has archived it.

    Raises IdentityMismatch when the archive is another source's, PreconditionFailed when the
    capture does not get on or ends, or a name is taken, and what reading the archive raises.
    """
    store = open_archive_store(settings)
    path = {"path": plan.source}
    require_source(store, open_archive(store), engine=plan.engine, identity=path)
    names = mark_names(merge_id)
    for name in names:
        require_free_name(store, name)
    if not wait_until_archived(store, Path(plan.source), trace.end_us, WAIT_SECONDS):
        raise capture_ended()
    found = archived_merge(PageArchive(store), trace)
    if found is None:
        raise ArchiveLacks(
            "the archive has no state from before the merge",
            hint="'pitr undo' takes the merge back without it.",
        )
    for name, record in zip(names, (found.before, found.after), strict=True):
        write_mark(store, name, position=_position(record), time_us=record.time_end_us)
    note = None if found.is_exact else _NOT_ALONE
    return MergeMarks(before=names[0], after=names[1], note=note)


def _position(record: CommitRecord) -> str:
    return str(CommitNumber(record.number))
