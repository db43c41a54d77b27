"""One row that a diff found, with its three states and what they come to."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.vocabulary.row_class import RowClass

Value = None | int | float | str | bytes
Row = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The class of a row, and the columns concerned: ascending places in the compared rows.

    `repair_columns` can be set back without a loss: those still as the damage left them, and for
    `differs` all that differ. `touched_columns` hold something newer that only `overwrite` may
    replace. Both are empty for a class that is never an update.
    """

    row_class: RowClass
    repair_columns: tuple[int, ...] = ()
    touched_columns: tuple[int, ...] = ()

    @property
    def update_columns(self) -> tuple[int, ...]:
        """Return the columns that an update sets back to before; all others stay as they are."""
        return tuple(sorted(self.repair_columns + self.touched_columns))


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffRow:
    """One row as it streams out of a diff. An absent row is None, and so is an unknown `after`."""

    table: str
    key: Row
    verdict: Verdict
    before: Row | None
    after: Row | None
    live: Row | None

    @property
    def row_class(self) -> RowClass:
        """Return the class alone."""
        return self.verdict.row_class
