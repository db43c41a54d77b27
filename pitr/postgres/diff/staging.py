"""Bring the rows that may differ into temporary tables of the live session."""

from __future__ import annotations

from collections.abc import Iterable

from pitr.postgres.diff.alignment import AFTER, BEFORE, AlignedTable
from pitr.postgres.diff.candidates import Buckets
from pitr.postgres.diff.copying import copy_in, copy_out
from pitr.postgres.diff.states import States
from pitr.postgres.tables.session import Connection, run


def stage(states: States, table: AlignedTable, buckets: Buckets | None) -> None:
    """Copy rows of before, and of after where it is known, over to live.

    A condition chooses among the rows of before; those of after are all needed, since the damage
    may have changed what the condition asks. Raises psycopg.Error.
    """
    assert states.before is not None
    make_staged(states.live, table)
    _fill(states.before, states.live, table, BEFORE, buckets, states.where)
    if states.after is not None and AFTER in table.sides:
        _fill(states.after, states.live, table, AFTER, buckets, None)
    analyze_staged(states.live, table)


def make_staged(live: Connection, table: AlignedTable) -> None:
    """Make the empty temporary tables."""
    columns = ", ".join(f"{name} {kind}" for name, kind in table.staged_columns())
    for state in (BEFORE, AFTER):
        run(live, f"DROP TABLE IF EXISTS {table.staged(state)}")
        run(live, f"CREATE TEMP TABLE {table.staged(state).partition('.')[2]} ({columns})"
            " ON COMMIT DROP")  # fmt: skip


def analyze_staged(live: Connection, table: AlignedTable) -> None:
    """Count what is in them: nobody else ever does, and plans for guessed sizes are bad ones.

    Rows are joined by their keys; of other columns nothing has to be known.
    """
    keys = ", ".join(f"k{at}" for at in range(len(table.key)))
    for state in (BEFORE, AFTER):
        run(live, f"ANALYZE {table.staged(state)}{f' ({keys})' if keys else ''}")


def fill_staged(live: Connection, table: AlignedTable, state: str, pieces: Iterable[bytes]) -> None:
    """Write pieces of binary COPY into the temporary table of a state."""
    names = ", ".join(name for name, _ in table.staged_columns())
    copy_in(live, table.staged(state), names, pieces)


def _fill(
    source: Connection,
    live: Connection,
    table: AlignedTable,
    state: str,
    buckets: Buckets | None,
    where: str | None,
) -> None:
    conditions = [buckets.condition(table, state)] if buckets else []
    body = table.rows_in(state)
    if where is not None:
        # The condition names the columns of the table alone, and may name the table itself.
        body = f"FROM (SELECT * FROM {table.sides[state].source} WHERE {where}) AS t"
    taken = table.taken(state)
    ending = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    select = f"SELECT {', '.join(taken)} {body}{ending}"
    if not table.key:
        groups = ", ".join(map(str, range(1, len(taken) + 1)))
        select = f"SELECT {', '.join(taken)}, count(*) {body}{ending} GROUP BY {groups}"
    fill_staged(live, table, state, copy_out(source, select))
