"""Rows of many columns: each state is carried through the joins as one value, a row of a row type.

A tuple has at most 1664 columns (MaxTupleAttributeNumber, src/include/access/htup_details.h), and a
join of three states of a table of 600 has 1800; planning it takes seconds long before. So a state
is `w`, of the row type of the staged rows: one column of any tuple that the server forms on its
way. At the end, row by row, `w` becomes columns again, which nothing keeps: those of b are bw.c0,
bw.c1 …. OFFSET 0 keeps the server from doing that earlier. Live is looked up by its key, row by
row. Narrow tables go without all this.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pitr.diff.sql import POSTGRES, Dialect
from pitr.errors import SourceUnusable
from pitr.postgres.diff.alignment import ALIASES, BEFORE, LIVE, AlignedTable
from pitr.postgres.tables.name import quoted

_TABLE_COLUMNS_MAX = 1600  # MaxHeapAttributeNumber, src/include/access/htup_details.h
# Beside the content that names rows without a key: number, class, mask, reason, copies.
_OWN_COLUMNS = 5


def check_width(table: AlignedTable) -> None:
    """Raise SourceUnusable for more columns than a temporary table can have, or none."""
    if not table.key and not table.columns:
        raise SourceUnusable(
            f"{table.name} has no column that tells its rows apart",
            detail="None is in every state of it, or values of none can be compared.",
            hint="The sidecar has its rows: ask it with 'pitr recoveries sql' or psql.",
        )
    width = len(table.staged_columns()) - (not table.key)
    most = _TABLE_COLUMNS_MAX - (0 if table.key else _OWN_COLUMNS)
    if width > most:
        raise SourceUnusable(
            f"{table.name} has too many columns to be compared: {width}",
            detail=f"Its rows are compared in temporary tables, of {most} columns at most here.",
            hint="The sidecar has its rows: ask it with 'pitr recoveries sql' or psql.",
        )


WIDE: Dialect = replace(
    POSTGRES,
    quote=lambda name: f"{name}w" if name in ALIASES.values() else quoted(name),
)


def wide_columns(aliases: Iterable[str]) -> str:
    """Return the joins that make columns of the rows of states; they go behind all others."""
    parts = [f" CROSS JOIN LATERAL (SELECT ({one}.w).* OFFSET 0) AS {one}w" for one in aliases]
    return "".join(parts)


def wide_column(alias: str, at: int) -> str:
    """Return a compared column of a state."""
    return f"{alias}w.c{at}"


def wide_source(table: AlignedTable, state: str) -> str:
    """Return what to put behind FROM or JOIN for a staged state: its key, and `w`."""
    staged = table.staged(state if state in table.sides else BEFORE)
    none = "" if state in table.sides else " WHERE FALSE"
    keys = [f"{table.typed_key(at, f't.k{at}')} AS k{at}" for at in range(len(table.key))]
    return f"(SELECT {', '.join(keys)}, t AS w FROM {staged} AS t{none} OFFSET 0) AS {_of(state)}"


def wide_live(table: AlignedTable, keys: Sequence[str]) -> str:
    """Return the same for the live row of a key; it goes behind LATERAL, whatever the join."""
    row_type = table.staged(BEFORE)
    if table.live is None:
        names = [f"{key} AS k{at}" for at, key in enumerate(keys)]
        return f"(SELECT {', '.join(names)}, NULL::{row_type} AS w WHERE FALSE) AS {_of(LIVE)}"
    named = [f"t.{quoted(column.sides[LIVE].name)}" for column in table.key]
    taken = [f"{name} AS k{at}" for at, name in enumerate(named)]
    same = table.agree(named, [f"({key})" for key in keys])
    row = f"ROW({', '.join(table.taken(LIVE))})::{row_type}"
    return (
        f"(SELECT {', '.join(taken)}, {row} AS w {table.rows_in(LIVE)} WHERE {same} OFFSET 0)"
        f" AS {_of(LIVE)}"
    )


def _of(state: str) -> str:
    return ALIASES[state]
