"""guard run on SQLite: the commits between the marks, and the columns that went with them."""

from __future__ import annotations

from functools import partial

from pitr.archive.archive import Mark
from pitr.config import Settings
from pitr.operations.guard_run import BY_WINDOW, Watch, WatchedCommand
from pitr.operations.sqlite.reading import Reading, open_reading
from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.past.schema import Schema
from pitr.sqlite.past.tables import folded
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
        columns=_dropped_columns(_columns(reading, first), _columns(reading, last)),
        doubt=doubt,
    )


def _columns(reading: Reading, number: int) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the name and the columns of every table but virtual ones then, by folded name."""
    schema = Schema.read(Snapshot(reading.pages.at(number)))
    return {
        key: (entry.name, tuple(column.name for column in entry.definition.columns))
        for key, entry in schema.tables.items()
        if entry.module is None
    }


def _dropped_columns(
    before: dict[str, tuple[str, tuple[str, ...]]], after: dict[str, tuple[str, tuple[str, ...]]]
) -> dict[str, tuple[str, ...]]:
    """Return, by table, the columns that it had and has not; nothing of tables that are gone."""
    found = {}
    for key, (name, columns) in before.items():
        kept = {folded(column) for column in after[key][1]} if key in after else None
        gone = tuple(one for one in columns if kept is not None and folded(one) not in kept)
        if gone:
            found[name] = gone
    return found
