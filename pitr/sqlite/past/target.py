"""Find the commit that a target means, and say what lies just before and just after it.

"At T" is the state after the last commit whose time is not later than T. A commit's time is the
end of the poll interval in which it was seen, so a commit may be counted up to one interval later
than it happened, never earlier. A moment inside a gap, a fork or a stretch that compaction folded
has no known state: it is refused with the nearest states on either side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from pitr.archive.archive import Mark
from pitr.errors import ArchiveGap, OutsideWindow, UsageError
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.segment import CommitKind, CommitRecord
from pitr.target_text import format_time
from pitr.vocabulary.position import CommitNumber
from pitr.vocabulary.target import (
    CommitTarget,
    LatestTarget,
    LsnTarget,
    NameTarget,
    RelativeTarget,
    ResolvedTarget,
    Target,
    TimeTarget,
    TransactionAt,
    Window,
    XidTarget,
)


@dataclass(frozen=True, slots=True)
class ResolvedCommit:
    """A target and the commit it came to; `next` is the first commit left out."""

    target: ResolvedTarget
    record: CommitRecord
    next: CommitRecord | None


class Resolver:
    """Resolve targets against one archive."""

    def __init__(
        self,
        archive: PageArchive,
        *,
        window_to_us: int,
        now_us: int,
        find_mark: Callable[[str], Mark],
    ) -> None:
        """`window_to_us` is the moment up to which the archive is proven current."""
        self._archive = archive
        self._now_us = now_us
        self._find_mark = find_mark
        first = archive.record_of(archive.catalog.first_commit)
        to_us = max(window_to_us, archive.last_commit().time_end_us)
        self.window = Window(first.time_end_us, to_us)

    def resolve(self, target: Target) -> ResolvedCommit:
        """Return the commit a target means.

        Raises OutsideWindow, ArchiveGap, UsageError for a target of the other engine, and what
        `find_mark` raises for an unknown mark.
        """
        match target:
            case LatestTarget():
                return self._found(self._archive.last_commit(), None)
            case CommitTarget(number, before):
                return self._at_commit(number.value, before=before)
            case TimeTarget(time_us):
                return self._at_time(time_us)
            case RelativeTarget():
                return self._at_time(target.time_us(self._now_us))
            case NameTarget(name):
                position = CommitNumber.parse(self._find_mark(name).position)
                return self._at_commit(position.value, before=False)
            case LsnTarget() | XidTarget():
                raise UsageError(
                    "this target is not for a SQLite source",
                    detail="An LSN or xid belongs to PostgreSQL; SQLite has commit numbers.",
                    hint="Use 'commit:N' or 'before:commit:N'; 'pitr log' lists them.",
                )
            case _:
                assert_never(target)

    def _at_commit(self, number: int, *, before: bool) -> ResolvedCommit:
        record = self._archive.record_of(number)
        if not before:
            if record.number != number:
                raise self._archive.not_addressable(number)
            return self._found(record, None)
        if record.first_covered != number:
            raise self._archive.not_addressable(number)
        if number == self._archive.catalog.first_commit:
            raise OutsideWindow(
                f"archive holds nothing before commit:{number}",
                detail="It is the first commit that was archived.",
                hint=f"Use 'commit:{number}' for the earliest state.",
            )
        return self._found(self._archive.record_of(number - 1), None)

    def _at_time(self, time_us: int) -> ResolvedCommit:
        if not self.window.from_us <= time_us <= self.window.to_us:
            raise self._outside(time_us)
        record = self._archive.commit_at_time(time_us)
        if record is None:
            raise self._outside(time_us)
        found = self._found(record, time_us)
        unknown = found.next is not None and found.next.kind is not CommitKind.COMMIT
        if unknown and found.next is not None and time_us > found.next.time_begin_us:
            raise _unknown_state(time_us, record, found.next)
        return found

    def _found(self, record: CommitRecord, time_us: int | None) -> ResolvedCommit:
        following = None
        if record.number < self._archive.catalog.last_commit:
            following = self._archive.record_of(record.number + 1)
        resolved = ResolvedTarget(
            time_us,
            str(CommitNumber(record.number)),
            transaction_at(record),
            transaction_at(following) if following else None,
        )
        return ResolvedCommit(resolved, record, following)

    def _outside(self, time_us: int) -> OutsideWindow:
        early = time_us < self.window.from_us
        where = "before the archive begins" if early else "after the archive's proven end"
        to_text = format_time(self.window.to_us)
        return OutsideWindow(
            f"target {format_time(time_us)} lies {where}",
            detail=f"The recoverable window is {format_time(self.window.from_us)} to {to_text}.",
            hint="Use a later target."
            if early
            else f"Use a target up to window.to, {to_text}, or 'latest'; "
            "'pitr capture --once' brings the archive up to now.",
        )


def transaction_at(record: CommitRecord) -> TransactionAt:
    """Return a commit as the echo of a target shows it."""
    return TransactionAt(str(CommitNumber(record.number)), record.time_end_us)


def _unknown_state(time_us: int, before: CommitRecord, after: CommitRecord) -> ArchiveGap:
    why = {
        CommitKind.GAP: "nothing was captured",
        CommitKind.FORK: "production fell behind the archive",
        CommitKind.BASE: "the database was laid out anew",
        CommitKind.MERGED: "older commits were merged",
    }.get(after.kind, "nothing is known")
    begin, end = format_time(after.time_begin_us), format_time(after.time_end_us)
    return ArchiveGap(
        f"the state at {format_time(time_us)} is not known",
        detail=f"Between {begin} and {end} {why}.",
        hint=f"The nearest targets are commit:{before.number} and commit:{after.number}.",
    )
