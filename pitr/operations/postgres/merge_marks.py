"""merge marks on PostgreSQL: where the WAL ended before the merge's COMMIT, and after it."""

from __future__ import annotations

from contextlib import closing

from pitr.archive.archive import open_archive, require_free_name, write_mark
from pitr.config import Settings
from pitr.operations.merge_marks import WAIT_SECONDS, capture_ended, mark_names
from pitr.operations.opening import open_archive_store
from pitr.operations.postgres.capture import wait_until_archived
from pitr.postgres.live.connection import connect
from pitr.postgres.live.mark import make_point
from pitr.vocabulary.plan import CommitTrace, MergeMarks, Plan


def mark_merge(settings: Settings, plan: Plan, merge_id: str, trace: CommitTrace) -> MergeMarks:
    """Name the states around the commit of a merge, once a running capture has archived it.

    Raises IdentityMismatch when the archive is another source's, PreconditionFailed when the
    capture does not get on or ends, or a name is taken, and what reading the archive raises.
    """
    assert trace.before is not None, "a merge on PostgreSQL noted where the WAL ended"
    store = open_archive_store(settings)
    system_identifier = open_archive(store).source.get("system_identifier", "")
    before, after = mark_names(merge_id)
    for name in (before, after):
        require_free_name(store, name)
    with closing(connect(plan.source, program="pitr merge")) as connection:
        point = make_point(connection, after, system_identifier)
    if not wait_until_archived(store, point, WAIT_SECONDS):
        raise capture_ended()
    write_mark(store, before, position=trace.before, time_us=trace.begin_us)
    write_mark(store, after, position=f"lsn:{point.end}", time_us=point.time_us)
    return MergeMarks(before=before, after=after)
