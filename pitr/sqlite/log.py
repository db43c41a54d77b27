"""The transactions of an archive, newest to oldest, with what they did to the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pitr.errors import CorruptDatabase
from pitr.sqlite.btree import Snapshot
from pitr.sqlite.changes import Stepper, TableDelta
from pitr.sqlite.history import PageArchive, PageHistory
from pitr.sqlite.segment import CommitKind, CommitRecord
from pitr.sqlite.watch import Watch
from pitr.vocabulary.change import Transaction
from pitr.vocabulary.position import CommitNumber

# The indexes of so many commits are held at once: few for a `--limit 1`, many for a long way.
_WINDOW_COMMITS_FIRST = 64
_WINDOW_COMMITS_MAX = 4096


@dataclass(frozen=True, slots=True)
class CommitDelta:
    """One commit and what it did to the watched tables. The first commit held has no deltas."""

    record: CommitRecord
    deltas: tuple[TableDelta, ...]

    def transaction(self) -> Transaction:
        """Return the commit as `pitr log` shows it."""
        record = self.record
        return Transaction(
            position=str(CommitNumber(record.number)),
            xid=None,
            time_us=record.time_end_us,
            time_width_us=record.time_end_us - record.time_begin_us,
            kind=record.kind.name.lower(),
            tables=tuple(delta.change for delta in self.deltas),
        )


def transactions(
    archive: PageArchive,
    tables: Sequence[str] | None = None,
    *,
    first: int | None = None,
    last: int | None = None,
    limit: int | None = None,
) -> list[Transaction]:
    """Return the transactions first <= commit number <= last that touched the tables, newest last.

    `tables` None means all but SQLite's own and the shadow tables of virtual ones. Where several
    transactions came together (base, gap, fork) the commit is listed in any case: what happened
    inside is not known. With `limit` the newest are returned and the older ones not read. Raises
    TableUnknown for a table that was never there, ArchiveGap, OutsideWindow, CorruptDatabase,
    CorruptObject.
    """
    found: list[Transaction] = []
    for commit in walk(archive, tables, first=first, last=last):
        is_uncertain = commit.record.kind not in (CommitKind.COMMIT, CommitKind.MERGED)
        if commit.deltas or is_uncertain:
            found.append(commit.transaction())
            if limit is not None and len(found) >= limit:
                break
    found.reverse()
    return found


def walk(
    archive: PageArchive,
    tables: Sequence[str] | None = None,
    *,
    first: int | None = None,
    last: int | None = None,
) -> Iterator[CommitDelta]:
    """Yield every commit of an inclusive range, newest first; see `transactions`."""
    watch = Watch(tables)
    stepper: Stepper | None = None
    for history, record, previous in _newest_first(archive, first, last):
        here = Snapshot(history.at(record.number))
        if stepper is None:
            stepper = Stepper(watch, here)
        if previous is None:
            yield CommitDelta(record, ())
            continue
        there = Snapshot(history.at(previous.number))
        changed = history.changed(record.number)
        is_exact = record.kind is CommitKind.COMMIT and record.wal is not None
        try:
            deltas = stepper.step(here, there, changed, is_exact=is_exact)
        except CorruptDatabase as error:
            raise _located(error, previous, record) from error
        yield CommitDelta(record, tuple(deltas))
    if stepper is not None:
        watch.refuse_unseen(stepper.schema)


def _newest_first(
    archive: PageArchive, first: int | None, last: int | None
) -> Iterator[tuple[PageHistory, CommitRecord, CommitRecord | None]]:
    """Yield (window, commit, the commit before it or None for the first one held)."""
    oldest = archive.catalog.first_commit
    lowest = max(oldest, first if first is not None else oldest)
    newest = archive.last_commit() if last is None else archive.record_of(last)
    commits = _WINDOW_COMMITS_FIRST
    while newest.number >= lowest:
        begin = max(oldest, lowest - 1, newest.first_covered - commits)
        history = archive.window(begin, newest.number)
        records = history.records
        for at in range(len(records) - 1, 0, -1):
            yield history, records[at], records[at - 1]
        newest = records[0]
        if newest.first_covered <= oldest:
            if newest.number >= lowest:
                yield history, newest, None
            return
        commits = min(2 * commits, _WINDOW_COMMITS_MAX)


def _located(
    error: CorruptDatabase, previous: CommitRecord, record: CommitRecord
) -> CorruptDatabase:
    """Return the error with the commits between which it was found."""
    where = f"Found between commit:{previous.number} and commit:{record.number}."
    detail = f"{error.detail} {where}" if error.detail else where
    return CorruptDatabase(error.message, detail=detail, hint=error.hint)
