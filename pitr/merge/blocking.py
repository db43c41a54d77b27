"""What is said of blockers, alike for both engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pitr.vocabulary.plan import Blocker, BlockerKind, MergeOptions, Resolution, TablePlan
from pitr.vocabulary.row_class import Action

KEYS_SHOWN = 20
CONFLICTS = {
    BlockerKind.KEY_REUSED: "another row has taken the key",
    BlockerKind.TOUCHED_SINCE: "a column that was changed has been written again since",
    BlockerKind.BOGUS_TOUCHED: "the row was put in, and has been written again since",
}


def combined(blockers: Sequence[Blocker]) -> tuple[Blocker, ...]:
    """Return the blockers, those of the same thing as one."""
    found: dict[tuple[BlockerKind, str, str], Blocker] = {}
    for one in blockers:
        place = (one.kind, one.table, one.detail)
        known = found.get(place)
        if known is not None:
            one = replace(
                one,
                rows=known.rows + one.rows,
                keys=(known.keys + one.keys)[:KEYS_SHOWN],
                held_by=(known.held_by + one.held_by)[:KEYS_SHOWN],
            )
        found[place] = one
    return tuple(found.values())


def find_refused(find: Callable[[], list[Blocker]], resolution: Resolution) -> list[Blocker]:
    """Return the blockers of rows that other rows keep out, which `find` leaves out as it goes.

    A row that is left out stays as it is, holds what it holds and is no parent to others: so again,
    until nothing new is found; once is enough where the first already blocks.
    """
    blockers: list[Blocker] = []
    while found := find():
        blockers += found
        if resolution is Resolution.BLOCKS:
            break
    return blockers


def too_many_rows(options: MergeOptions, tables: Sequence[TablePlan]) -> list[Blocker]:
    """Return the blocker of a plan that would write more rows than the user allowed, if it does.

    It stands with the table that has most of them, and is not resolved by any policy.
    """
    if options.max_rows is None or not tables:
        return []
    rows = [_rows_written(table) for table in tables]
    if sum(rows) <= options.max_rows:
        return []
    return [
        Blocker(
            kind=BlockerKind.TOO_MANY_ROWS,
            table=tables[rows.index(max(rows))].table,
            rows=max(rows),
            detail=f"the plan writes {sum(rows)} rows, and --max-rows allows {options.max_rows}",
            resolution=Resolution.BLOCKS,
        )
    ]


def _rows_written(table: TablePlan) -> int:
    writing = (Action.INSERT, Action.UPDATE, Action.DELETE)
    return sum(table.actions.get(action, 0) for action in writing)
