"""The transactions of an archive, newest to oldest, with what they did to the tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from pitr.errors import CorruptDatabase
from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.pagelog.history import PageArchive, PageHistory
from pitr.sqlite.pagelog.images import AHEAD_BYTES_MAX, Place
from pitr.sqlite.pagelog.segment import CommitKind, CommitRecord
from pitr.sqlite.rows.changes import Stepper, TableDelta
from pitr.sqlite.rows.watch import Watch
from pitr.vocabulary.change import TableChange, Transaction
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
    for visits in _newest_first(archive, first, last):
        if stepper is None:
            stepper = Stepper(watch, visits[0].here)
        if archive.images.is_remote:  # much of it may not be read after all
            archive.images.prefetch(_places(visits, stepper))
        for visit in visits:
            yield CommitDelta(visit.record, tuple(_step(stepper, visit)))
    watch.refuse_unseen()


def net_changes(archive: PageArchive, first: int, last: int) -> list[TableChange]:
    """Return what all that was committed after `first` and up to `last` came to, by table.

    As if it had been one transaction: a row that was deleted and put in again the same is in no
    count, and a table that was made anew under its old name was rewritten, not dropped. Raises
    ArchiveGap, OutsideWindow, CorruptDatabase, CorruptObject.
    """
    history = archive.window(first, last)
    here, there = Snapshot(history.at(last)), Snapshot(history.at(first))
    later = [record.number for record in history.records if record.number > first]
    changed = frozenset[int]().union(*(history.changed(number) for number in later))
    stepper = Stepper(Watch(None), here)
    return [delta.change for delta in stepper.step(here, there, changed, is_exact=False)]


@dataclass(frozen=True, slots=True)
class _Visit:
    """One commit on the way, and the commit before it; None before the first one held."""

    history: PageHistory
    record: CommitRecord
    previous: CommitRecord | None

    @property
    def here(self) -> Snapshot:
        return Snapshot(self.history.at(self.record.number))

    @property
    def changed(self) -> frozenset[int]:
        return self.history.changed(self.record.number)


def _step(stepper: Stepper, visit: _Visit) -> list[TableDelta]:
    if visit.previous is None:
        return []
    there = Snapshot(visit.history.at(visit.previous.number))
    is_exact = visit.record.kind is CommitKind.COMMIT and visit.record.wal is not None
    try:
        return stepper.step(visit.here, there, visit.changed, is_exact=is_exact)
    except CorruptDatabase as error:
        raise _located(error, visit.previous, visit.record) from error


def _places(visits: list[_Visit], stepper: Stepper) -> Iterator[Place]:
    """Yield where the pages lie that the steps will read, to be fetched together."""
    for visit in visits:
        numbers = [record.number for record in (visit.record, visit.previous) if record]
        wanted = [page for page in visit.changed if stepper.may_read(page)]
        for page, number in product(wanted, numbers):
            place = visit.history.place(page, number)
            if place is not None:
                yield place


def _newest_first(
    archive: PageArchive, first: int | None, last: int | None
) -> Iterator[list[_Visit]]:
    """Yield the commits, newest first, in groups whose pages can be fetched together."""
    oldest = archive.catalog.first_commit
    lowest = max(oldest, first if first is not None else oldest)
    newest = archive.last_commit() if last is None else archive.record_of(last)
    commits = _WINDOW_COMMITS_FIRST
    while newest.number >= lowest:
        begin = max(oldest, lowest - 1, newest.first_covered - commits)
        history = archive.window(begin, newest.number)
        records = history.records
        visits = [_Visit(history, record, previous) for previous, record in pairwise(records)]
        newest = records[0]
        if newest.first_covered <= oldest and newest.number >= lowest:
            visits.insert(0, _Visit(history, newest, None))
        # Each page is read twice: as the commit left it and as it was before.
        pages_max = AHEAD_BYTES_MAX // (2 * history.page_size_of(records[-1].number))
        yield from _groups(reversed(visits), pages_max)
        if newest.first_covered <= oldest:
            return
        commits = min(2 * commits, _WINDOW_COMMITS_MAX)


def _groups(visits: Iterable[_Visit], pages_max: int) -> Iterator[list[_Visit]]:
    group: list[_Visit] = []
    pages = 0
    for visit in visits:
        written = 0 if visit.previous is None else len(visit.changed)
        if group and pages + written > pages_max:
            yield group
            group, pages = [], 0
        group.append(visit)
        pages += written
    if group:
        yield group


def _located(
    error: CorruptDatabase, previous: CommitRecord, record: CommitRecord
) -> CorruptDatabase:
    """Return the error with the commits between which it was found."""
    where = f"Found between commit:{previous.number} and commit:{record.number}."
    detail = f"{error.detail} {where}" if error.detail else where
    return CorruptDatabase(error.message, detail=detail, hint=error.hint)
