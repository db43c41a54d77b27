"""Which archived commit a merge is: known by when it was made, and by where it ends in the WAL.

A merge holds the write lock from before its COMMIT until after it, but capture knows only to a poll
interval when a commit was made, so commits of others may come into question. In WAL mode the frame
decides among them. With a rollback journal one archived commit may hold several transactions: the
change counter, which each moves by one, tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.segment import CommitRecord
from pitr.vocabulary.plan import CommitTrace

_COMMITS_A_STEP = 256


@dataclass(frozen=True, slots=True)
class ArchivedMerge:
    """The archived states around a merge; unless `is_exact` more lies between than the merge."""

    before: CommitRecord
    after: CommitRecord
    is_exact: bool


def archived_merge(pages: PageArchive, trace: CommitTrace) -> ArchivedMerge | None:
    """Return the states around a merge that is archived, None when none before it is.

    Where it cannot be told which commit it is: the newest that was surely before it, and the newest
    that there is.
    """
    commits = _commits_since(pages, trace.begin_us)
    pairs = [(before, after) for before, after in pairwise(commits) if _may_be(after, trace)]
    if len(pairs) == 1:
        before, after = pairs[0]
        return ArchivedMerge(before, after, _is_alone(before, after))
    earlier = [one for one in commits if one.time_end_us < trace.begin_us]
    return ArchivedMerge(earlier[-1], commits[-1], is_exact=False) if earlier else None


def _commits_since(pages: PageArchive, moment_us: int) -> list[CommitRecord]:
    """Return the commits from the last one that was surely made before a moment, ascending."""
    begin = pages.last_commit().number + 1
    found: list[CommitRecord] = []
    while begin > pages.catalog.first_commit:
        end, begin = begin, max(pages.catalog.first_commit, begin - _COMMITS_A_STEP)
        found = [*pages.commits(begin, end), *found]
        if found and found[0].time_end_us < moment_us:
            break
    return found


def _may_be(record: CommitRecord, trace: CommitTrace) -> bool:
    if record.time_end_us < trace.begin_us or record.time_begin_us > trace.end_us:
        return False
    return trace.frame == (record.wal.frame if record.wal else None)


def _is_alone(before: CommitRecord, after: CommitRecord) -> bool:
    """Return whether a commit is one transaction, and follows the other."""
    if after.first_covered != before.number + 1 or after.first_covered != after.number:
        return False
    return after.wal is not None or after.change_counter == before.change_counter + 1
