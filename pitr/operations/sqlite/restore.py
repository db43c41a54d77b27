"""restore: chosen tables as they were at a target, in a sidecar, counted against the live ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pitr.config import Settings
from pitr.errors import UsageError
from pitr.operations.restore import RestoreOutcome, RestoreRequest, TableOutcome
from pitr.operations.sqlite.reading import Reading, open_reading, refuse_database
from pitr.recovery.folder import RecoveredTable, Recovery, new_recovery
from pitr.sqlite.diff.chosen_columns import choose_columns
from pitr.sqlite.diff.compare import Comparison, compare_with_live, compare_with_past
from pitr.sqlite.past.absence import explain_absence
from pitr.sqlite.past.replay import open_past
from pitr.sqlite.past.sidecar import RestoredTable, restore_tables
from pitr.sqlite.past.tables import find_tables
from pitr.sqlite.past.target import ResolvedCommit
from pitr.vocabulary.target import ResolvedTarget


def restore(
    settings: Settings, request: RestoreRequest, *, on_target: Callable[[ResolvedTarget], None]
) -> RestoreOutcome:
    """Restore tables into a sidecar. `on_target` hears each resolved target before any work.

    Raises what resolving a target, reading the archive and writing the sidecar raise; then
    there is no recovery and no sidecar.
    """
    if request.load_into is not None:
        raise no_database(request.load_into)
    refuse_database(request.database)
    reading = open_reading(settings)
    found = reading.resolve(request.target)
    until = reading.resolve(request.until) if request.until is not None else None
    if until is not None and until.record.number < found.record.number:
        raise UsageError(
            "the moment after the damage lies before the target",
            detail=f"--until came to {until.target.position}, --at to {found.target.position}.",
            hint="Give --at the last good moment and --until one just after the damage.",
        )
    on_target(found.target)
    if until is not None:
        on_target(until.target)
    return make_recovery(settings, reading, found, until, request)


def no_database(place: str) -> UsageError:
    """Return the error for tables of SQLite that are to go into a database of PostgreSQL."""
    return UsageError(
        f"this is no place for a sidecar: {place!r}",
        detail="Tables of a SQLite source are restored into a file.",
        hint="Name a file that does not exist yet, as in '--to orders-then.db'.",
    )


def make_recovery(
    settings: Settings,
    reading: Reading,
    found: ResolvedCommit,
    until: ResolvedCommit | None,
    request: RestoreRequest,
    *,
    kind: str = "restore",
) -> RestoreOutcome:
    """Make a recovery of a commit that is resolved already; see `restore` for the errors."""
    label = request.tables[0] if request.tables else "tables"
    with new_recovery(settings.state, label=label, now_us=reading.now_us) as new:
        sidecar = request.destination or new.folder / "sidecar.db"
        began = time.monotonic()
        restored, columns = _write_sidecar(reading, found, request, sidecar)
        recovery = Recovery(
            id=new.id,
            engine=reading.identity.engine,
            source=str(reading.live) if reading.live else None,
            archive=settings.needed_archive(),
            created_us=reading.now_us,
            target=request.target,
            resolved=found.target,
            sidecar=str(sidecar.absolute()),
            tables=tuple(
                RecoveredTable(table.table, table.rows, columns.get(table.table))
                for table in restored
            ),
            where=request.where,
            seconds=round(time.monotonic() - began, 3),
            bytes_read=reading.pages.bytes_read,
            kind=kind,
            until=until.target if until else None,
            with_parents=request.with_parents,
            with_children=request.with_children,
        )
        new.finish(recovery)
    outcomes = tuple(
        _outcome(reading, request, sidecar, table, columns.get(table.table)) for table in restored
    )
    return RestoreOutcome(recovery, outcomes)


def _write_sidecar(
    reading: Reading, found: ResolvedCommit, request: RestoreRequest, sidecar: Path
) -> tuple[list[RestoredTable], dict[str, tuple[str, ...]]]:
    explain = partial(explain_absence, reading.pages, found.record.number)
    with open_past(reading.pages.at(found.record.number)) as past:
        tables = find_tables(past, request.tables, explain_absence=explain)
        columns = choose_columns(past, tables, request.columns)
        restored = restore_tables(
            past, request.tables, sidecar, where=request.where, explain_absence=explain
        )
        return restored, columns


def _outcome(
    reading: Reading,
    request: RestoreRequest,
    sidecar: Path,
    table: RestoredTable,
    columns: tuple[str, ...] | None,
) -> TableOutcome:
    found = Comparison()
    if request.compare and reading.live is not None:
        found = _compare(reading, reading.live, sidecar, table.table, request.where, columns)
    return TableOutcome(
        table.table,
        table.rows,
        found.missing_in_live,
        found.differs,
        found.extra_in_live,
        (*table.warnings, *found.warnings),
        columns,
    )


def _compare(
    reading: Reading,
    live: Path,
    sidecar: Path,
    table: str,
    where: str | None,
    columns: tuple[str, ...] | None,
) -> Comparison:
    found = compare_with_live(live, sidecar, table, where=where, columns=columns)
    if found.missing_in_live is not None or not reading.is_current():
        return found
    # Live could not be read without getting in the way of its writers; the archive is the same.
    with open_past(reading.pages.at(reading.pages.last_commit().number)) as newest:
        return compare_with_past(newest, sidecar, table, where=where, columns=columns)
