"""A stretch of archived commits with the state after each: what differs from end to end.

A short stretch is held in one window. Of a long one only parts are, one after the other, so that
neither a week of commits nor the index of each has to fit into memory.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from itertools import pairwise

from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.pagelog.history import PageArchive, PageHistory
from pitr.sqlite.pagelog.segment import CommitKind, CommitRecord

_WINDOW_COMMITS = 4096
# Beyond these many commits only the two ends are compared.
_COMMITS_MAX = 50_000
# Commits at which a schema may become another one without its cookie counting on.
JUMPS = frozenset({CommitKind.BASE, CommitKind.GAP, CommitKind.FORK})


class _Everything:
    """The pages that may differ where it is not known which do."""

    def __contains__(self, page_number: object) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Step:
    """From one state to a later one; `changed` are the pages that may differ."""

    earlier: int
    later: int
    changed: Container[object]


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of the stretch with the one before it, and their states."""

    record: CommitRecord
    earlier: CommitRecord
    history: PageHistory

    @property
    def here(self) -> Snapshot:
        """Return the state after the commit."""
        return Snapshot(self.history.at(self.record.number))

    @property
    def there(self) -> Snapshot:
        """Return the state before the commit."""
        return Snapshot(self.history.at(self.earlier.number))

    @property
    def changed(self) -> frozenset[int]:
        """Return the pages that it wrote."""
        return self.history.changed(self.record.number)

    @property
    def may_change_schema(self) -> bool:
        """Return whether the schemas before and after have to be compared."""
        if self.record.kind in JUMPS or not (self.record.page_count and self.earlier.page_count):
            return True
        return 1 in self.changed and _cookie(self.here) != _cookie(self.there)


class Span:
    """The states after the commits `first` to `last`, both inclusive."""

    def __init__(self, archive: PageArchive, first: int, last: int) -> None:
        """Raises ArchiveLacks when one of the two is not in the archive."""
        self.first = first
        self.last = last
        self._archive = archive
        self._histories: dict[int, PageHistory] = {}
        self._whole = archive.window(first, last) if last - first < _WINDOW_COMMITS else None
        for number in (first, last):
            self._history_of(number)

    def _history_of(self, number: int) -> PageHistory:
        if self._whole is not None:
            return self._whole
        if number not in self._histories:
            if len(self._histories) > 1:
                del self._histories[next(iter(self._histories))]
            self._histories[number] = self._archive.window(number, number)
        return self._histories[number]

    def snapshot(self, number: int) -> Snapshot:
        """Return the state after a commit."""
        return Snapshot(self._history_of(number).at(number))

    def changed(self, last: int, *, pages_max: int) -> frozenset[int] | None:
        """Return the pages that may differ between the first state and that after a later commit.

        None when they are more than `pages_max`, or the commits too many to look at each.
        """
        if last - self.first > _COMMITS_MAX:
            return None
        changed: set[int] = set()
        for commit in self._back(last):
            changed |= commit.changed
            if len(changed) > pages_max:
                return None
        return frozenset(changed)

    def back(self) -> Iterator[Commit]:
        """Yield the commits, newest first."""
        return self._back(self.last)

    def _back(self, last: int) -> Iterator[Commit]:
        while last > self.first:
            begin = max(self.first, last - _WINDOW_COMMITS)
            history = self._whole or self._archive.window(begin, last)
            records = [record for record in history.records if record.number <= last]
            for later, earlier in pairwise(reversed(records)):
                if later.number > self.first:
                    yield Commit(later, earlier, history)
            last = records[0].number if len(records) > 1 else self.first

    # --- the schema ------------------------------------------------------------------------------

    def schema_steps(self) -> Iterator[Step]:
        """Yield the steps in which the schema may have changed, oldest first.

        The schema's cookie only counts up from commit to commit, so that few pages are read.
        """
        if self.last - self.first > _COMMITS_MAX:
            yield Step(self.first, self.last, _Everything())
            return
        records = self._archive.commits(self.first, self.last + 1)
        low = 0
        for at in range(1, len(records)):
            if records[at].kind in JUMPS:
                yield from self._between(records, low, at - 1)
                yield self._step(records[at - 1], records[at])
                low = at
        yield from self._between(records, low, len(records) - 1)

    def _between(self, records: list[CommitRecord], low: int, high: int) -> Iterator[Step]:
        if low >= high or self._cookie_after(records[low]) == self._cookie_after(records[high]):
            return
        if high == low + 1:
            yield self._step(records[low], records[high])
            return
        middle = (low + high) // 2
        yield from self._between(records, low, middle)
        yield from self._between(records, middle, high)

    def _step(self, earlier: CommitRecord, later: CommitRecord) -> Step:
        history = self._whole or self._archive.window(later.number, later.number)
        return Step(earlier.number, later.number, history.changed(later.number))

    def _cookie_after(self, record: CommitRecord) -> int:
        return _cookie(self.snapshot(record.number)) if record.page_count else 0


def _cookie(snapshot: Snapshot) -> int:
    return snapshot.header.schema_cookie
