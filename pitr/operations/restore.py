"""restore: chosen tables as they were at a target, in a sidecar, counted against the live ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pitr.config import Settings
from pitr.operations.engine import engine_of_archive, wired
from pitr.recovery.folder import Recovery
from pitr.source_text import POSTGRES
from pitr.vocabulary.target import ResolvedTarget


@dataclass(frozen=True, slots=True)
class TableOutcome:
    """One restored table: its rows, how the live table differs, and what to know about it.

    The three counts are None when nothing was compared. `columns` are those that alone count, None
    for all of them.
    """

    table: str
    rows: int
    missing_in_live: int | None
    differs: int | None
    extra_in_live: int | None
    warnings: tuple[str, ...]
    columns: tuple[str, ...] | None = None


def uncounted(recovery: Recovery, warning: str | None = None) -> tuple[TableOutcome, ...]:
    """Return the tables of a recovery that is not compared, and why."""
    warnings = (warning,) if warning else ()
    return tuple(
        TableOutcome(table.table, table.rows, None, None, None, warnings, table.columns)
        for table in recovery.tables
    )


@dataclass(frozen=True, slots=True)
class RestoreOutcome:
    """A finished recovery and its tables."""

    recovery: Recovery
    tables: tuple[TableOutcome, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRequest:
    """What to restore: tables and rows, the target, and where the sidecar goes.

    `until` is the moment just after the damage. `columns`, as `COLUMN` or `TABLE.COLUMN`, are those
    that alone are to be compared and set back; all of them when it is empty. `with_parents` and
    `with_children` are for the merges of the recovery (PostgreSQL: the tables come along, and only
    rows that foreign keys lead to are taken of them). The rest is PostgreSQL's:
    `load_into` is another database that gets the tables, `database` is where their names are looked
    up; `backup` and `wal` are a base backup and a folder of WAL to recover from, instead of an
    archive.
    """

    tables: Sequence[str]
    target: str
    until: str | None = None
    where: str | None = None
    columns: Sequence[str] = ()
    with_parents: bool = False
    with_children: bool = False
    destination: Path | None = None
    load_into: str | None = None
    compare: bool = True
    database: str | None = None
    backup: Path | None = None
    wal: Path | None = None


def restore(
    settings: Settings, request: RestoreRequest, *, on_target: Callable[[ResolvedTarget], None]
) -> RestoreOutcome:
    """Restore tables into a sidecar. `on_target` hears each resolved target before any work.

    Raises what resolving a target, reading the archive and writing the sidecar raise; then
    there is no recovery and no sidecar.
    """
    engine = POSTGRES if request.backup is not None else engine_of_archive(settings)
    return wired(restore, engine)(settings, request, on_target=on_target)
