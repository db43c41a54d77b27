"""The columns by which alone tables are to be compared and set back, from what a user names."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from pitr.errors import UsageError
from pitr.sqlite.diff.row_key import PlacedTable, shared_key
from pitr.sqlite.past.tables import PastTable, folded
from pitr.sqlite.statement.faults import sqlite_faults


def choose_columns(
    past: apsw.Connection, tables: Sequence[PastTable], wanted: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return the columns that were named, by table, in the order of the table.

    `COLUMN` is one of every table, `TABLE.COLUMN` of one; a table of which none is named has no
    entry. Raises UsageError for a column that is not there, that is computed from others, and for
    a table whose rows no key names: there a row is its content, and has no columns by themselves.
    """
    found: dict[str, set[str]] = {}
    for name in wanted:
        owners = [table for table in tables if folded(name).startswith(f"{folded(table.name)}.")]
        for table in owners or tables:
            column = name[len(table.name) + 1 :] if owners else name
            found.setdefault(table.name, set()).add(_column(table, column))
    for table in tables:
        if table.name in found:
            _check_key(past, table)
    return {
        table.name: tuple(name for name in table.plain_columns if name in found[table.name])
        for table in tables
        if table.name in found
    }


def _column(table: PastTable, wanted: str) -> str:
    """Return the column of a table under the name that it is declared with."""
    for column in table.columns:
        if folded(column.name) == folded(wanted):
            if column.is_generated:
                raise UsageError(
                    f"{table.name}.{column.name} cannot be chosen by itself",
                    detail="It is computed from other columns.",
                    hint="Name the columns that it is computed from.",
                )
            if column.hidden == 0:
                return column.name
    raise UsageError(
        f"{table.name} had no column {wanted}",
        detail=f"It had: {', '.join(table.plain_columns)}.",
        hint="Name columns as in '--columns price,status', of one table '--columns orders.price'.",
    )


def _check_key(past: apsw.Connection, table: PastTable) -> None:
    with sqlite_faults("the keys of the table cannot be read"):
        key = shared_key(past, [PlacedTable("main", table)])
    if not key:
        raise UsageError(
            f"no key names the rows of {table.name}",
            detail="They are told apart by all of their content, so no column stands by itself.",
            hint="Restore without --columns, or name columns of other tables, as in TABLE.COLUMN.",
        )
