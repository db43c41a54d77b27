"""What became of tables from commit to commit: renamed, altered, dropped, made anew.

Only the commits that changed the schema are looked at. Each is compared with the commit before it,
so that a table that was dropped and made anew is not taken for the one that was there.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace

from pitr.errors import CorruptDatabase
from pitr.sqlite.diff.drift import same_columns
from pitr.sqlite.diff.span import Span, Step
from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.past.schema import Schema, SchemaEntry
from pitr.sqlite.past.tables import folded
from pitr.sqlite.rows.pairing import TablePair, has_same_statements, pair_tables


@dataclass(frozen=True, slots=True)
class TableThen:
    """One table at a commit.

    `entry` is None when it does not exist; `last_entry` is what it was when it last did. `columns`
    says under which name a column of the first state is known, by its folded name there.
    """

    entry: SchemaEntry | None
    last_entry: SchemaEntry | None
    columns: Mapping[str, str] = field(default_factory=dict)
    is_recreated: bool = False


class Lineage:
    """Tables of the first state of a span, followed forward."""

    def __init__(self, span: Span, names: Iterable[str]) -> None:
        """Begin at the first commit of the span. Raises CorruptDatabase."""
        self._span = span
        self._steps = list(span.schema_steps())
        self._done = 0
        schema = Schema.read(span.snapshot(span.first))
        self._tables = {name: _first(schema.tables.get(folded(name))) for name in names}

    def advance_to(self, number: int) -> dict[str, TableThen]:
        """Return the tables at a later commit, by the name they had at first."""
        while self._done < len(self._steps) and self._steps[self._done].later <= number:
            self._take(self._steps[self._done])
            self._done += 1
        return dict(self._tables)

    def _take(self, step: Step) -> None:
        there, here = self._span.snapshot(step.earlier), self._span.snapshot(step.later)
        before, after = Schema.read(there), Schema.read(here)
        pairs = pair_tables(before, after, there, here, step.changed)
        moved = has_same_statements(before, after) or bool(
            here.page_count and here.header.auto_vacuum
        )
        for name, table in self._tables.items():
            pair = _pair_of(table, pairs)
            if pair is None:
                continue
            is_same = table.entry is not None and (moved or _has_same_root(pair))
            kept = is_same and pair.altered and _rows_kept(pair, there, here, step.changed)
            self._tables[name] = _stepped(table, pair, is_same=is_same, rows_kept=kept)


def _first(entry: SchemaEntry | None) -> TableThen:
    names = {folded(name): name for name in _names(entry)}
    return TableThen(entry, entry, names)


def _names(entry: SchemaEntry | None) -> list[str]:
    if entry is None or entry.module is not None:
        return []
    return [column.name for column in entry.definition.columns]


def _pair_of(table: TableThen, pairs: list[TablePair]) -> TablePair | None:
    if table.entry is not None:
        name = folded(table.entry.name)
        return next((p for p in pairs if p.before and folded(p.before.name) == name), None)
    if table.last_entry is None:
        return None
    name = folded(table.last_entry.name)
    return next((p for p in pairs if p.after and folded(p.after.name) == name), None)


def _has_same_root(pair: TablePair) -> bool:
    return bool(pair.before and pair.after and pair.before.root == pair.after.root)


def _rows_kept(
    pair: TablePair, there: Snapshot, here: Snapshot, changed: Container[object]
) -> bool:
    """Return whether some row, or the lack of any, shows that the rows were not written anew."""
    if not (pair.before and pair.after and pair.before.root and pair.after.root):
        return True
    try:
        old = set(there.row_pages(pair.before.root))
        new = set(here.row_pages(pair.after.root))
    except CorruptDatabase:
        return False
    is_empty = old == {pair.before.root} and not there.cell_count(pair.before.root)
    return is_empty or any(page_number not in changed for page_number in old & new)


def _stepped(table: TableThen, pair: TablePair, *, is_same: bool, rows_kept: bool) -> TableThen:
    if pair.after is None:
        return replace(table, entry=None)
    recreated = table.is_recreated or not is_same
    if table.last_entry is None or table.last_entry.sql == pair.after.sql:
        return replace(table, entry=pair.after, last_entry=pair.after, is_recreated=recreated)
    if pair.after.module is not None or table.last_entry.module is not None:
        return TableThen(pair.after, pair.after, {}, recreated)
    moved = same_columns(
        table.last_entry.definition.columns,
        pair.after.definition.columns,
        is_same_table=is_same,
        rows_kept=rows_kept,
    )
    columns = {
        first: moved[folded(name)] for first, name in table.columns.items() if folded(name) in moved
    }
    return TableThen(pair.after, pair.after, columns, recreated)
