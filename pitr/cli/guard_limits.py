"""What both guards share: the limits as options, and the table of what was done to tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from pitr.cli.render import table_text
from pitr.errors import UsageError
from pitr.operations.guard_losses import FORBIDDABLE, GuardLimits, TableLoss

F = TypeVar("F", bound=Callable[..., Any])

_FLAGS = ("truncated", "rewritten", "dropped", "created")


def limit_options(function: F) -> F:
    """Add --max-deleted and --forbid."""
    function = click.option(
        "--forbid",
        metavar="WORD,…",
        help=f"End with 1 when this happened to a table: {', '.join(FORBIDDABLE)}.",
    )(function)
    return click.option(
        "--max-deleted",
        type=click.IntRange(min=0),
        metavar="N",
        help="End with 1 when more rows were deleted; rows of truncated and dropped tables count.",
    )(function)


def limits_of(max_deleted: int | None, forbid: str | None) -> GuardLimits:
    """Return the limits that the options say. Raises UsageError for a word that is none."""
    words = tuple(word.strip() for word in forbid.split(",")) if forbid is not None else ()
    unknown = [word for word in words if word not in FORBIDDABLE]
    if unknown:
        raise UsageError(
            f"--forbid does not know this: {unknown[0]!r}",
            hint=f"It knows {', '.join(FORBIDDABLE)}; several are separated by commas.",
        )
    return GuardLimits(max_deleted, words)


def losses_text(tables: Sequence[TableLoss]) -> str:
    """Return what was done to tables as text for a terminal."""
    if not tables:
        return "no table was changed"
    return table_text(
        ["table", "inserted", "updated", "deleted", "note"], [_row(loss) for loss in tables]
    )


def _row(loss: TableLoss) -> list[object]:
    words = [word for word in _FLAGS if getattr(loss, word)]
    if loss.columns_dropped:
        words.append(f"columns dropped: {', '.join(loss.columns_dropped)}")
    return [loss.table, loss.inserted, loss.updated, loss.deleted, ", ".join(words)]
