"""A stretch of archived commits with the state after each: what differs from end to end."""

from __future__ import annotations

from collections.abc import Iterator

from pitr.sqlite.btree import Snapshot
from pitr.sqlite.history import PageArchive
from pitr.sqlite.segment import CommitKind, CommitRecord

# Commits at which a schema may become another one without its cookie counting on.
_JUMPS = frozenset({CommitKind.BASE, CommitKind.GAP, CommitKind.FORK})


class Span:
    """The commits `first` to `last`, both inclusive."""

    def __init__(self, archive: PageArchive, first: int, last: int) -> None:
        """Read the indexes of the stretch. Raises what `PageArchive.window` raises."""
        self.first = first
        self.last = last
        self._history = archive.window(first, last)
        self._cookies: dict[int, int] = {}

    @property
    def records(self) -> list[CommitRecord]:
        """Return the commits, ascending."""
        return self._history.records

    def snapshot(self, number: int) -> Snapshot:
        """Return the state after a commit."""
        return Snapshot(self._history.at(number))

    def changed(self, after: int, last: int, *, pages_max: int) -> frozenset[int] | None:
        """Return the pages that may differ between the states after two commits of the stretch.

        None when they are more than `pages_max`.
        """
        changed: set[int] = set()
        for record in self.records:
            if after < record.number <= last:
                changed |= self._history.changed(record.number)
                if len(changed) > pages_max:
                    return None
        return frozenset(changed)

    def changed_by(self, number: int) -> frozenset[int]:
        """Return the pages that one commit wrote."""
        return self._history.changed(number)

    def schema_changes(self) -> Iterator[tuple[CommitRecord, CommitRecord]]:
        """Yield (the commit before, the commit) of each that may have changed the schema.

        The schema's cookie only counts up from commit to commit, so that few pages are read.
        """
        records = self.records
        low = 0
        for at in range(1, len(records)):
            if records[at].kind in _JUMPS:
                yield from self._between(low, at - 1)
                yield records[at - 1], records[at]
                low = at
        yield from self._between(low, len(records) - 1)

    def _between(self, low: int, high: int) -> Iterator[tuple[CommitRecord, CommitRecord]]:
        if low >= high or self._cookie(low) == self._cookie(high):
            return
        if high == low + 1:
            yield self.records[low], self.records[high]
            return
        middle = (low + high) // 2
        yield from self._between(low, middle)
        yield from self._between(middle, high)

    def _cookie(self, at: int) -> int:
        number = self.records[at].number
        if number not in self._cookies:
            snapshot = self.snapshot(number)
            self._cookies[number] = snapshot.header.schema_cookie if snapshot.page_count else 0
        return self._cookies[number]
