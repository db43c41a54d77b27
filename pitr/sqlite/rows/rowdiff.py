"""Which rows of one table differ between two commits, from the pages that differ.

Rows are known by their key: the rowid, in a WITHOUT ROWID table the primary key. A row counts as
updated when SELECT gives other values; one that was merely stored elsewhere or anew does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from pitr.sqlite.file import page as pages
from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.file.page import Cell, Value, damaged
from pitr.sqlite.past.definition import TableDefinition, default_value
from pitr.sqlite.past.schema import SchemaEntry
from pitr.sqlite.past.tables import folded

Key = int | tuple[Value, ...]


@dataclass(frozen=True)
class TableSide:
    """One table at one commit, with the row-carrying pages that have to be compared."""

    snapshot: Snapshot
    entry: SchemaEntry
    pages: frozenset[int]
    is_index: bool

    @cached_property
    def definition(self) -> TableDefinition:
        """Return what the table's statement says at this commit. Raises CorruptDatabase."""
        return self.entry.definition

    @property
    def is_empty(self) -> bool:
        """Return whether there is no row to compare, as after a DELETE of all rows."""
        if len(self.pages) > 1:
            return False
        return not any(self.snapshot.cell_count(page_number) for page_number in self.pages)

    @property
    def has_no_rows(self) -> bool:
        """Return whether the table holds no row at all."""
        root = self.entry.root
        return pages.is_leaf(self.snapshot.page(root), root) and not self.snapshot.cell_count(root)

    def count(self) -> int:
        """Return the rows on the pages."""
        return sum(self.snapshot.cell_count(page_number) for page_number in self.pages)

    def extents(self) -> dict[bytes, int]:
        """Return the cells on the pages, each with its page."""
        return {
            extent: page_number
            for page_number in self.pages
            for extent in self.snapshot.extents(page_number, is_index=self.is_index)
        }

    def cells(self) -> Iterator[tuple[Cell, int]]:
        """Yield (cell, page) of every row on the pages."""
        for page_number in sorted(self.pages):
            for extent in self.snapshot.extents(page_number, is_index=self.is_index):
                yield self.cell(extent, page_number), page_number

    def cell(self, extent: bytes, page_number: int) -> Cell:
        """Decode a cell of the table."""
        return self.snapshot.cell(extent, page_number, is_index=self.is_index)

    def record(self, cell: Cell, *, errors: str = "replace") -> list[Value]:
        """Return the stored fields of a row."""
        payload = self.snapshot.payload(cell)
        root, encoding = self.entry.root, self.snapshot.header.encoding
        return pages.decode_record(payload, root, encoding, errors=errors)

    def values(self, cell: Cell) -> list[Value]:
        """Return the value of every column; see TableDefinition.values."""
        return self.definition.values(self.record(cell), cell.rowid)

    def key(self, cell: Cell) -> Key:
        """Return what the row is known by; keys that SQLite holds for equal are equal."""
        if cell.rowid is not None:
            return cell.rowid
        utf8 = self.snapshot.header.encoding == "utf-8"
        record = self.record(cell, errors="surrogateescape" if utf8 else "replace")
        key = self.definition.key
        if len(record) < len(key):
            raise damaged(self.entry.root, "A row of its b-tree lacks a part of the key.")
        return tuple(_collated(record[part.field], part.collation) for part in key)


def _collated(value: Value, collation: str) -> Value:
    if isinstance(value, str):
        if collation.upper() == "NOCASE":
            return folded(value)
        if collation.upper() == "RTRIM":
            return value.rstrip(" ")
    return value


@dataclass(frozen=True, slots=True)
class RowChange:
    """One row before and after; None where it was not there."""

    before: Cell | None
    after: Cell | None


class RowDiff:
    """The rows of one table that differ between two states.

    First it is told which rows may differ, by key; then `settle` finds those that do. Where one
    side has no rows, the other side's are counted and not told one by one.
    """

    def __init__(self, before: TableSide | None, after: TableSide | None) -> None:
        self.before = before
        self.after = after
        self.inserted = self.updated = self.deleted = 0
        self.kept = 0  # rows on the compared pages that are on both sides and equal
        self.rewritten = 0  # those among them whose bytes are not the same
        self._is_one_sided = False
        self._old: dict[Key, Cell] = {}
        self._new: dict[Key, Cell] = {}
        self._suspected: set[Key] = set()  # may differ on overflow pages with equal cells

    def compare(self) -> None:
        """Find the rows whose cells differ. Raises CorruptDatabase."""
        before, after = self.before, self.after
        for side in (before, after):
            if side:
                side.snapshot.source.prefetch(side.pages)
        if before is None or before.is_empty or after is None or after.is_empty:
            self._is_one_sided = True
            self.inserted = after.count() if after else 0
            self.deleted = before.count() if before else 0
            return
        old, new = before.extents(), after.extents()
        self._old = _rows(before, old, other=new)
        self._new = _rows(after, new, other=old)
        self.kept = len(old) - len(self._old)

    def suspect(self, cell: Cell) -> None:
        """Add a row of the state before that may have changed on overflow pages alone.

        Unless it is known already, its cell is the same on both sides; not so its key, which in a
        WITHOUT ROWID table may itself lie on overflow pages.
        """
        if self.before is None or self.after is None or self.after.has_no_rows:
            return
        self._tell_one_by_one()
        key = self.before.key(cell)
        if key not in self._old:
            self._old[key] = cell
            self._new[self.after.key(cell)] = cell
        self._suspected.add(key)

    def _tell_one_by_one(self) -> None:
        if self._is_one_sided and self.before and self.after:
            self._is_one_sided = False
            self._old = {self.before.key(cell): cell for cell, _ in self.before.cells()}
            self._new = {self.after.key(cell): cell for cell, _ in self.after.cells()}

    def pair_moved_rows(self) -> None:
        """Leave out rows that only got another rowid, as VACUUM may renumber them.

        Rows of equal values are the same; which of several equal ones is which does not matter.
        """
        if self._is_one_sided or self.before is None or self.after is None:
            return
        departed: dict[tuple[tuple[type, Value], ...], list[Key]] = {}
        for key, cell in self._old.items():
            departed.setdefault(_typed(self.before.values(cell)), []).append(key)
        for key, cell in list(self._new.items()):
            twins = departed.get(_typed(self.after.values(cell)))
            if twins:
                del self._old[twins.pop()], self._new[key]
                self.kept += 1
                self.rewritten += 1

    def settle(self) -> None:
        """Count, and forget the rows that turn out to be the same."""
        before, after = self.before, self.after
        if self._is_one_sided or before is None or after is None:
            return
        for key in self._old.keys() & self._new.keys():
            old, new = self._old[key], self._new[key]
            if _is_same(before, old, after, new, looks_at_overflow=key in self._suspected):
                self.kept += 1
                self.rewritten += old != new
                del self._old[key], self._new[key]
        self.updated = len(self._old.keys() & self._new.keys())
        self.deleted = len(self._old) - self.updated
        self.inserted = len(self._new) - self.updated

    def changes(self) -> Iterator[RowChange]:
        """Yield every row that differs. Those of a whole table are decoded one by one."""
        if self._is_one_sided:
            if self.before:
                yield from (RowChange(cell, None) for cell, _ in self.before.cells())
            if self.after:
                yield from (RowChange(None, cell) for cell, _ in self.after.cells())
            return
        for key, cell in self._old.items():
            yield RowChange(cell, self._new.get(key))
        for key, cell in self._new.items():
            if key not in self._old:
                yield RowChange(None, cell)


def _rows(side: TableSide, extents: dict[bytes, int], other: dict[bytes, int]) -> dict[Key, Cell]:
    """Return the rows whose cells are not on the other side as they are, by key."""
    rows: dict[Key, Cell] = {}
    for extent in extents.keys() - other.keys():
        cell = side.cell(extent, extents[extent])
        rows[side.key(cell)] = cell
    return rows


def _is_same(
    before: TableSide, old: Cell, after: TableSide, new: Cell, *, looks_at_overflow: bool
) -> bool:
    """Return whether a row has the same values, wherever and however it is stored."""
    if before.entry.sql == after.entry.sql:
        if old.payload_size == new.payload_size and old.local == new.local:
            if old.overflow == new.overflow and not looks_at_overflow:
                return True
            return before.snapshot.payload(old) == after.snapshot.payload(new)
        if _have_other_fields(before, old, after, new):
            return False
    return _has_same_values(before, old, after, new)


def _have_other_fields(before: TableSide, old: Cell, after: TableSide, new: Cell) -> bool:
    """Return whether two unequal records must hold other values, by their headers alone.

    The same number may be stored in several ways (REINDEX stores some anew); all else may not.
    """
    root = before.entry.root
    old_types = pages.serial_types(before.snapshot.record_header(old, root), root)
    new_types = pages.serial_types(after.snapshot.record_header(new, root), root)
    if old_types == new_types:
        return True
    return len(old_types) == len(new_types) and any(
        a != b and not (pages.is_number(a) and pages.is_number(b))
        for a, b in zip(old_types, new_types, strict=True)
    )


def _has_same_values(before: TableSide, old: Cell, after: TableSide, new: Cell) -> bool:
    """Compare values by column: by place when no column came or went, else by name.

    A column that came later has had its default before; one that went is not compared.
    """
    old_columns, new_columns = before.definition.columns, after.definition.columns
    old_values, new_values = before.values(old), after.values(new)
    if len(old_columns) == len(new_columns):
        return _typed(old_values) == _typed(new_values)
    found = {
        folded(column.name): value for column, value in zip(old_columns, old_values, strict=True)
    }
    for column, value in zip(new_columns, new_values, strict=True):
        if not column.is_stored:
            continue
        name = folded(column.name)
        previous = found[name] if name in found else default_value(column)
        if type(previous) is not type(value) or previous != value:
            return False
    return True


def _typed(values: Sequence[Value]) -> tuple[tuple[type, Value], ...]:
    """Return values so that 1 and 1.0, which Python takes for equal, are not."""
    return tuple((type(value), value) for value in values)
