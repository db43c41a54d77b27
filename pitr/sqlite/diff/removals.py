"""The commits that may have removed rows of one table, newest first, from pages.

Only the tree of the table is followed, and of a commit that touched few rows its pages are read: it
is known exactly which rows are gone. Of one that touched many nothing is read; whoever wants to
know asks the state before it. So neither memory nor time grow with the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pitr.sqlite.diff.span import Commit, Span
from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.file.page import Cell
from pitr.sqlite.file.tree import Forest
from pitr.sqlite.pagelog.segment import CommitRecord
from pitr.sqlite.past.schema import Schema, SchemaEntry
from pitr.sqlite.past.tables import folded
from pitr.sqlite.rows.pairing import TablePair, pair_tables
from pitr.sqlite.rows.rowdiff import RowDiff, TableSide
from pitr.vocabulary.diff_row import Row

_PAGES_TOLD_MAX = 256
_CELLS_TOLD_MAX = 20_000

# What a row is known by; to tell 1 from 1.0, the types stand beside the values.
Told = tuple[Row, tuple[type, ...]]


@dataclass(frozen=True, slots=True)
class Removal:
    """A commit that may have removed rows of the table.

    `gone` counts what it removed, by key or content; None when it touched too many rows to be told
    one by one. `earlier` is the commit before it and `entry` the table as it was then.
    """

    record: CommitRecord
    earlier: CommitRecord
    entry: SchemaEntry
    gone: Counter[Told] | None


class RemovalWalk:
    """One table, followed from the last commit of a span to the first, across renames."""

    def __init__(self, span: Span, name: str, told: Callable[[TableSide, Cell], Row]) -> None:
        """`name` is that of the last commit, or the last one the table had."""
        self._span = span
        self._name = folded(name)
        self._told = told
        self._forest = Forest()
        self._entry: SchemaEntry | None = None

    def removals(self) -> Iterator[Removal | CommitRecord]:
        """Yield each removal; between them every commit that was passed, so that time can be kept.

        Raises CorruptDatabase, UnicodeDecodeError.
        """
        last = self._span.snapshot(self._span.last)
        self._stand(Schema.read(last).tables.get(self._name), last)
        for commit in self._span.back():
            if commit.may_change_schema:
                removal = self._step_over_schema(commit)
            else:
                removal = self._step(commit)
            yield removal or commit.record

    def _stand(self, entry: SchemaEntry | None, here: Snapshot) -> None:
        self._forest = Forest()
        self._entry = entry
        if entry is not None:
            self._name = folded(entry.name)
            if entry.root:
                self._forest.plant(entry.root, here)

    def _step(self, commit: Commit) -> Removal | None:
        entry, changed = self._entry, commit.changed
        touched = sum(1 for page_number in changed if self._forest.root_of(page_number))
        if entry is None or not touched:
            return None
        if touched > _PAGES_TOLD_MAX:
            self._stand(entry, commit.there)
            return Removal(commit.record, commit.earlier, entry, None)
        here, there = commit.here, commit.there
        delta = self._forest.step(changed, here, there)[0][entry.root]
        untouched = (delta.left & delta.entered) - changed
        before = TableSide(there, entry, delta.entered - untouched, delta.is_index)
        after = TableSide(here, entry, delta.left - untouched, delta.is_index)
        gone = self._gone(before, after)
        if gone is not None and not gone:
            return None
        return Removal(commit.record, commit.earlier, entry, gone)

    def _step_over_schema(self, commit: Commit) -> Removal | None:
        here, there = commit.here, commit.there
        pairs = pair_tables(Schema.read(there), Schema.read(here), there, here, commit.changed)
        pair = self._pair(pairs)
        before = pair.before if pair else None
        if pair and _stays(pair) and here.source.page_size == there.source.page_size:
            return self._step(commit)  # a gap, or another table's change
        self._stand(before, there)
        if before is None or not before.root:
            return None
        return Removal(commit.record, commit.earlier, before, None)

    def _pair(self, pairs: list[TablePair]) -> TablePair | None:
        """Return what the commit did to the table, by its name on the later side or the earlier."""
        for pair in pairs:
            entry = pair.after if self._entry else pair.before
            if entry is not None and folded(entry.name) == self._name:
                return pair
        return None

    def _gone(self, before: TableSide, after: TableSide) -> Counter[Told] | None:
        if len(before.pages) + len(after.pages) > _PAGES_TOLD_MAX:
            return None
        if before.count() + after.count() > _CELLS_TOLD_MAX:
            return None
        diff = RowDiff(before, after)
        diff.compare()
        diff.settle()
        gone: Counter[Told] = Counter()
        for change in diff.changes():
            if change.before is not None:
                gone[typed(self._told(before, change.before))] += 1
            if change.after is not None:
                gone[typed(self._told(after, change.after))] -= 1
        return +gone


def _stays(pair: TablePair) -> bool:
    """Return whether the table is the same on both sides, and in the same place."""
    if pair.before is None or pair.after is None:
        return False
    return (pair.before.root, pair.before.sql) == (pair.after.root, pair.after.sql)


def typed(row: Row) -> Told:
    """Return a row with its types, as `Removal.gone` counts it."""
    return row, tuple(map(type, row))
