"""Which rows can be in question at all, from the pages that differ between two archived states.

A row that the damage left alone is `unrelated` whatever it is now, so with the state after the
damage known the pages between before and after say which rows to look at. Without it, the pages
between before and live do, as far as live is proven to be an archived state. Only pages that
differ, and the interior pages above them, are read.

The outcome is a temporary table with at least every row in question, or None: then the whole
tables are to be joined. That is cheaper as soon as more than a small part differs, since SQLite
compares a row in a third of the time that finding one on a page takes here; and it is the way
where pages tell too little: the table has another name or root, other columns before the last
ones, is virtual or missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pitr.errors import ArchiveLacks, Corrupt, StoreUnusable
from pitr.sqlite.diff.alignment import AlignedTable
from pitr.sqlite.diff.span import Span
from pitr.sqlite.diff.states import AFTER, BEFORE, LIVE, States
from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.file.page import Cell, Value
from pitr.sqlite.file.tree import Forest, PageDelta
from pitr.sqlite.past.schema import Schema
from pitr.sqlite.past.tables import folded
from pitr.sqlite.rows.changes import Stepper, TableDelta
from pitr.sqlite.rows.rowdiff import RowChange, TableSide
from pitr.sqlite.rows.watch import Watch


@dataclass(frozen=True, slots=True)
class Limits:
    """When pages are worth reading: the part of the tables that differs, and what is held.

    A sidecar of fewer bytes than `sidecar_bytes_min` is joined whole in milliseconds. Of more
    pages or cells than these, the whole join is cheaper, and holds less in memory.
    """

    sidecar_bytes_min: int = 8 << 20
    changed_pages_max: int = 1 << 17  # of the whole database
    table_bytes_max: int = 8 << 20
    table_cells_max: int = 300_000


def find_candidates(
    states: States, tables: Sequence[AlignedTable], limits: Limits
) -> dict[int, str]:
    """Fill temp.pitr_candidates_<i> for the tables whose rows can be narrowed down.

    Return the names, by place in `tables`. With a key such a table has the columns `k0`, `k1`, …;
    without one it has the rows that differ in content, as `classified` counts them.
    """
    if states.span is None or states.sources.sidecar.stat().st_size < limits.sidecar_bytes_min:
        return {}
    finder = _Finder(states, states.span, tables, limits)
    found = {}
    try:
        for number, changes in finder.find().items():
            found[number] = _load(states, number, tables[number], changes)
    except (ArchiveLacks, Corrupt, StoreUnusable, UnicodeError):
        return {}  # what the archive cannot tell, the tables themselves can
    return found


@dataclass(frozen=True, slots=True)
class _Changed:
    """A row that differs between before and another state, on one of the two sides."""

    schema: str  # the other state
    is_before: bool
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class _Ends:
    """Two states, the earlier there and the later here, and the pages that may differ."""

    there: Snapshot
    here: Snapshot
    changed: frozenset[int]

    def pages_max(self) -> int:
        """Return how many pages the trees of all tables together can differ in, at most.

        A page that left a tree is free now, was cut off with the end of the file, or has changed.
        """
        cut_off = max(0, self.there.page_count - self.here.page_count)
        return 2 * len(self.changed) + self.here.header.freelist_count + cut_off


class _Finder:
    def __init__(
        self, states: States, span: Span, tables: Sequence[AlignedTable], limits: Limits
    ) -> None:
        self._states = states
        self._span = span
        self._tables = tables
        self._limits = limits

    def find(self) -> dict[int, list[_Changed]]:
        """Return the rows in question of each table for which they could be found."""
        commits = {AFTER: self._states.sources.after_commit, LIVE: self._states.live_commit}
        needed = {number: _needed(table) for number, table in enumerate(self._tables)}
        found: dict[int, list[_Changed]] = {number: [] for number in needed}
        for schema, commit in commits.items():
            asked = [number for number in found if schema in needed[number]]
            told = self._compare(schema, commit, asked) if asked and commit else {}
            for number in asked:
                if number in told:
                    found[number] += told[number]
                else:
                    del found[number]
        return found

    def _compare(
        self, schema: str, commit: int, numbers: Sequence[int]
    ) -> dict[int, list[_Changed]]:
        """Return what differs between before and another state, of the tables where pages tell."""
        changed = self._span.changed(commit, pages_max=self._limits.changed_pages_max)
        there, here = self._span.snapshot(self._span.first), self._span.snapshot(commit)
        same_size = there.source.page_size == here.source.page_size
        if changed is None or not (same_size and there.page_count and here.page_count):
            return {}
        ends = _Ends(there, here, changed)
        chosen = {
            number: self._tables[number].sides[schema].table.name
            for number in self._telling(schema, numbers, ends)
        }
        if not chosen:
            return {}
        stepper = Stepper(Watch(chosen.values()), here)
        deltas = stepper.step(here, there, changed, is_exact=False)
        by_name = {folded(delta.pair.name): delta for delta in deltas}
        return {
            number: list(self._changes(schema, self._tables[number], by_name.get(folded(name))))
            for number, name in chosen.items()
        }

    def _telling(self, schema: str, numbers: Sequence[int], ends: _Ends) -> list[int]:
        """Return the tables for which it is worth while to compare pages."""
        before, now = Schema.read(ends.there), Schema.read(ends.here)
        roots = {
            number: root
            for number in numbers
            if (root := _common_root(self._tables[number], schema, before, now))
            and ends.here.is_index(root) == ends.there.is_index(root)
        }
        if self._fits(ends, ends.pages_max()):
            return list(roots)
        forest = Forest()
        for root in roots.values():
            forest.plant(root, ends.here)
        deltas, _ = forest.step(ends.changed, ends.here, ends.there)
        return [
            number
            for number, root in roots.items()
            if root not in deltas or self._is_small(deltas[root], ends)
        ]

    def _is_small(self, delta: PageDelta, ends: _Ends) -> bool:
        untouched = (delta.left & delta.entered) - ends.changed
        left, entered = delta.left - untouched, delta.entered - untouched
        if not self._fits(ends, len(left) + len(entered)):
            return False
        ends.here.source.prefetch(left)
        ends.there.source.prefetch(entered)
        cells = sum(map(ends.here.cell_count, left)) + sum(map(ends.there.cell_count, entered))
        return cells <= self._limits.table_cells_max

    def _fits(self, ends: _Ends, pages: int) -> bool:
        return pages * ends.here.source.page_size <= self._limits.table_bytes_max

    def _changes(
        self, schema: str, table: AlignedTable, delta: TableDelta | None
    ) -> Iterator[_Changed]:
        if delta is None or delta.diff is None:
            return
        columns = table.key or table.columns
        for change in delta.diff.changes():
            for side, cell, is_before in _sides(delta, change):
                if table.key and table.has_integer_key:
                    yield _Changed(schema, is_before, (cell.rowid,))
                    continue
                names = [column.names[BEFORE if is_before else schema] for column in columns]
                yield _Changed(schema, is_before, row_values(side, cell, names))


def _needed(table: AlignedTable) -> frozenset[str]:
    """Return the states that must be compared with before."""
    if not table.after_known:
        return frozenset({LIVE})
    return frozenset({AFTER}) if table.key else frozenset({AFTER, LIVE})


def _common_root(table: AlignedTable, schema: str, before: Schema, now: Schema) -> int:
    """Return the root page of a table that both states have in the same place, 0 for any other."""
    side = table.sides.get(schema)
    name = folded(table.before.name)
    if side is None or side.table.virtual or folded(side.table.name) != name:
        return 0
    old, new = before.tables.get(name), now.tables.get(name)
    if old is None or new is None or old.root != new.root or old.module or new.module:
        return 0
    # Other columns in front of the last ones: places and names could mislead the comparison.
    names_before = [folded(column.name) for column in old.definition.columns]
    names_now = [folded(column.name) for column in new.definition.columns]
    return old.root if names_now[: len(names_before)] == names_before else 0


def _sides(delta: TableDelta, change: RowChange) -> Iterator[tuple[TableSide, Cell, bool]]:
    assert delta.diff is not None
    if delta.diff.before is not None and change.before is not None:
        yield delta.diff.before, change.before, True
    if delta.diff.after is not None and change.after is not None:
        yield delta.diff.after, change.after, False


def row_values(side: TableSide, cell: Cell, names: Sequence[str]) -> tuple[Value, ...]:
    """Return some columns of a row as SELECT gives them.

    Raises UnicodeDecodeError for a row with text that is not valid, KeyError for an unknown name.
    """
    places = {column.name: at for at, column in enumerate(side.definition.columns)}
    values = side.definition.values(side.record(cell, errors="strict"), cell.rowid)
    return tuple(values[places[name]] for name in names)


# --- the temporary tables ------------------------------------------------------------------------


def _load(states: States, number: int, table: AlignedTable, changes: Sequence[_Changed]) -> str:
    name = f"temp.pitr_candidates_{number}"
    execute = states.connection.execute
    execute(f"DROP TABLE IF EXISTS {name}")
    if not table.key:
        columns = [f"c{at}" for at in range(len(table.columns))]
        execute(f"CREATE TABLE {name} (gone_after, gone_live, {', '.join(columns)})")
        marks = ", ?" * len(columns)
        states.connection.executemany(
            f"INSERT INTO {name} VALUES (?, ?{marks})",
            ((*_weights(change), *change.values) for change in changes),
        )
        return name
    execute(f"CREATE TABLE {name} {table.keyed_columns('k')}")
    marks = ", ".join("?" * len(table.key))
    states.connection.executemany(
        f"INSERT INTO {name} VALUES ({marks}) ON CONFLICT DO NOTHING",
        (change.values for change in changes),
    )
    return name


def _weights(change: _Changed) -> tuple[int, int]:
    """Return what a row of content adds to the copies gone after the damage, and gone in live."""
    weight = 1 if change.is_before else -1
    return (weight, 0) if change.schema == AFTER else (0, weight)
