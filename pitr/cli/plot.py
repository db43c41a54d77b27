"""Draw what was done to tables over time, for `pitr log --plot`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from pitr.cli.render import count_text, styled, time_cell
from pitr.operations.activity import KINDS, Burst, Slices, TableActivity
from pitr.target_text import format_age

_BARS = "▁▂▃▄▅▆▇█"
_NOTHING = "·"
_MARK = "^"
_COLOURS = {"inserted": "green", "updated": "yellow", "deleted": "red"}
_BURSTS_SHOWN = 5


def activity_text(found: Sequence[TableActivity], slices: Slices) -> str:
    """Return a drawing: for each table a row of bars for each kind of change, and what stands out.

    Each row has a scale of its own: heights compare the slices of one kind of change, and the sum
    at its end compares the rows.
    """
    lines = [
        f"from {time_cell(slices.begin_us)} on, {count_text(slices.count, 'column')} of "
        f"{format_age(slices.length_us)}"
    ]
    for activity in found:
        lines += ["", activity.table, *_rows(activity, slices.count), *_told(activity, slices)]
    return "\n".join(lines)


def _rows(activity: TableActivity, count: int) -> Iterator[str]:
    width = max(len(kind) for kind in KINDS)
    for kind in KINDS:
        rows = activity.rows[kind]
        if any(rows):
            bars = styled(_bars(rows), fg=_COLOURS[kind])
            yield f"  {kind.ljust(width)}  {bars}  {sum(rows):,}"
    marked = {burst.slice for burst in activity.bursts}
    if marked:
        marks = "".join(_MARK if at in marked else " " for at in range(count))
        yield f"  {''.ljust(width)}  {marks.rstrip()}"


def _bars(rows: Sequence[int]) -> str:
    """Return one character a slice; what is not nothing is seen, however small."""
    most = max(rows)
    return "".join(_BARS[(n * len(_BARS) - 1) // most] if n else _NOTHING for n in rows)


def _told(activity: TableActivity, slices: Slices) -> Iterator[str]:
    """Yield a line for what stands out, the largest first, with where to look further."""
    bursts = sorted(activity.bursts, key=lambda burst: (burst.kind != "emptied", -burst.rows))
    for burst in bursts[:_BURSTS_SHOWN]:
        yield f"  {_MARK} {time_cell(slices.begin_of(burst.slice))}  {_what(burst)}"
        words = ["pitr", "revert", burst.transaction.position, "-t", activity.table]
        yield f"      {shlex.join(words)}"
    if len(bursts) > _BURSTS_SHOWN:
        yield f"  and {count_text(len(bursts) - _BURSTS_SHOWN, 'time')} more"


def _what(burst: Burst) -> str:
    position = burst.transaction.position
    if burst.kind == "emptied":
        return f"emptied or dropped by {position}"
    return f"{count_text(burst.rows, 'row')} {burst.kind}, most of them by {position}"
