"""Find the commit in which a row vanished or changed.

The commits are walked from the newest to the oldest, and the condition is asked of the rows that
each of them changed, as they were before it and after it, and of no other row. It is understood
as of the newest state; where an older table lacks a column that it names, no row of it matches.
"""

from __future__ import annotations

from contextlib import ExitStack, closing, suppress
from itertools import islice

from pitr.errors import UsageError
from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.file.page import Cell, Value
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.past.definition import TableDefinition
from pitr.sqlite.past.replay import open_past
from pitr.sqlite.past.schema import Schema, SchemaEntry
from pitr.sqlite.past.tables import folded
from pitr.sqlite.rows.changes import TableDelta
from pitr.sqlite.rows.evaluation import Evaluator, refuse_other_rows
from pitr.sqlite.rows.log import CommitDelta, walk
from pitr.sqlite.rows.rowdiff import RowChange, TableSide
from pitr.sqlite.statement.faults import sqlite_faults
from pitr.sqlite.statement.tokens import quoted
from pitr.vocabulary.change import WhenOutcome

# Rows asked at once: enough to make the single row cheap, few enough to hold in memory.
_BATCH_ROWS = 1024


def find_row(
    archive: PageArchive,
    table: str,
    condition: str,
    *,
    gone: bool,
    first: int | None = None,
    last: int | None = None,
) -> WhenOutcome:
    """Return the newest commit in which a row that the condition is true for vanished or changed.

    With `gone` the row was deleted, or its key was changed; without it, it was inserted, updated
    or deleted, and the condition was true before or after. Looks at first <= commit <= last.
    Raises UsageError for a condition that cannot be asked of a single row (a subselect) and for
    virtual tables, TableUnknown, and what `log.walk` raises.
    """
    refuse_other_rows(condition, table)
    newest = archive.last_commit().number if last is None else last
    here = Snapshot(archive.at(newest))
    entry = Schema.read(here).tables.get(folded(table))
    with closing(_Search(table, condition, gone=gone)) as search:
        if entry is not None:
            search.check(entry, here)
        for commit in walk(archive, [table], first=first, last=newest):
            for delta in commit.deltas:
                row = search.row_in(delta)
                if row is not None:
                    return _outcome(commit, delta, row)
    is_there = entry is not None and _is_there(archive, newest, table, condition)
    return WhenOutcome.nothing(gone=gone, is_there=is_there)


def _outcome(commit: CommitDelta, delta: TableDelta, row: dict[str, Value]) -> WhenOutcome:
    alone = CommitDelta(commit.record, (delta,))
    before = f"before:commit:{commit.record.first_covered}"
    return WhenOutcome(alone.transaction(), before, row, None)


def _is_there(archive: PageArchive, number: int, table: str, condition: str) -> bool:
    statement = f"SELECT EXISTS (SELECT 1 FROM main.{quoted(table)} WHERE (\n{condition}\n))"
    with (
        open_past(archive.at(number)) as past,
        sqlite_faults("the condition cannot be asked of the newest state"),
    ):
        return bool(past.execute(statement).get)


class _Search:
    """One condition, with the definitions that the table had so far."""

    def __init__(self, table: str, condition: str, *, gone: bool) -> None:
        self._table = table
        self._condition = condition
        self._gone = gone
        self._evaluators: dict[TableDefinition, Evaluator | None] = {}
        self._resources = ExitStack()

    def close(self) -> None:
        """Forget the tables in memory."""
        self._resources.close()

    def check(self, entry: SchemaEntry, here: Snapshot) -> None:
        """Raise UsageError when the condition cannot be asked of the table as it is here."""
        if entry.module is not None:
            raise _virtual_refused(entry)
        self._evaluator(TableSide(here, entry, frozenset(), is_index=False))

    def _evaluator(self, side: TableSide) -> Evaluator | None:
        """Return the evaluator for a definition; the first one must understand the condition."""
        definition = side.definition
        if definition not in self._evaluators:
            encoding = side.snapshot.header.encoding
            try:
                found = Evaluator(definition, self._table, encoding, self._condition)
            except UsageError:
                if not self._evaluators:
                    raise
                self._evaluators[definition] = None
            else:
                self._evaluators[definition] = found
                self._resources.callback(found.close)
        return self._evaluators[definition]

    def row_in(self, delta: TableDelta) -> dict[str, Value] | None:
        """Return the row looked for if a commit deleted it (or changed it at all)."""
        if delta.diff is None:
            return None
        before, after = delta.diff.before, delta.diff.after
        virtual = delta.pair.after or delta.pair.before
        if virtual is not None and virtual.module is not None:
            raise _virtual_refused(virtual)
        if before is not None and (delta.change.truncated or delta.change.dropped):
            with suppress(UnicodeDecodeError):  # text that is none: it is decoded more kindly here
                return self._row_of_whole_table(before)
        changes = delta.diff.changes()
        while batch := list(islice(changes, _BATCH_ROWS)):
            change = self._first_match(batch, before, after)
            if change is not None:
                return self._row(before, change.before) or self._row(after, change.after)
        return None

    def _row_of_whole_table(self, before: TableSide) -> dict[str, Value] | None:
        """Ask the state before, where all rows of the table are still there.

        With its indexes that costs a few pages, where to decode all rows may take minutes.
        """
        evaluator = self._evaluator(before)
        if evaluator is None:
            return None
        with (
            open_past(before.snapshot.source) as past,
            sqlite_faults("the condition cannot be asked of the rows that are gone"),
        ):
            row = past.execute(evaluator.statement(before.entry.name)).fetchone()
            return dict(zip(evaluator.columns, row, strict=True)) if row else None

    def _first_match(
        self, changes: list[RowChange], before: TableSide | None, after: TableSide | None
    ) -> RowChange | None:
        if self._gone:
            return self._match([c for c in changes if c.after is None], before, is_after=False)
        return self._match(changes, before, is_after=False) or self._match(
            changes, after, is_after=True
        )

    def _match(
        self, changes: list[RowChange], side: TableSide | None, *, is_after: bool
    ) -> RowChange | None:
        """Return the first of the changes whose row on one side the condition is true for."""
        images = [(change, change.after if is_after else change.before) for change in changes]
        present = [(change, cell) for change, cell in images if cell is not None]
        evaluator = self._evaluator(side) if side and present else None
        if side is None or evaluator is None:
            return None
        at = evaluator.find(side, [cell for _, cell in present])
        return None if at is None else present[at][0]

    def _row(self, side: TableSide | None, cell: Cell | None) -> dict[str, Value] | None:
        if side is None or cell is None:
            return None
        evaluator = self._evaluator(side)
        return evaluator.row(side, cell) if evaluator else None


def _virtual_refused(entry: SchemaEntry) -> UsageError:
    return UsageError(
        f"rows of the virtual table {entry.name} cannot be looked for",
        detail="They are kept in tables of its own, in a form of its own.",
        hint=f"Look in such a table, as in: -t {entry.name}_content",
    )
