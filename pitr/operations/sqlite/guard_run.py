"""guard run on SQLite: the commits between the marks, and the columns that went with them."""

from __future__ import annotations

from functools import partial

from pitr.archive.archive import Mark
from pitr.config import Settings
from pitr.operations.guard_run import BY_WINDOW, Watch, WatchedCommand
from pitr.operations.sqlite.reading import open_reading
from pitr.sqlite.guard.columns import columns_of, dropped_columns
from pitr.sqlite.rows.log import net_changes, transactions

_DOUBT = "A commit in a SQLite file does not tell who made it."


def watch_command(settings: Settings, *, by_window: bool) -> Watch:
    """Prepare for a command on the source. Raises as `mark` does; nothing is written."""
    return Watch({}, partial(_finish, settings, None if by_window else _DOUBT))


def require_recoverable(settings: Settings, target: str) -> None:
    """Raise ArchiveLacks when the archive has no base that leads to a target."""
    open_reading(settings).resolve(target)


def _finish(settings: Settings, doubt: str | None, before: Mark, after: Mark) -> WatchedCommand:
    marks = (f"name:{before.name}", f"name:{after.name}")
    reading = open_reading(settings)
    first, last = (reading.resolve(target).record.number for target in marks)
    is_changed = first < last
    found = transactions(reading.pages, first=first + 1, last=last) if is_changed else []
    return WatchedCommand(
        transactions=found,
        changes=net_changes(reading.pages, first, last) if is_changed else (),
        others=(),
        by=BY_WINDOW,
        columns=dropped_columns(*(columns_of(reading.pages.at(at)) for at in (first, last))),
        doubt=doubt,
    )
