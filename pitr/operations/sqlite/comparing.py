"""Open the states of a recovery, for the verbs that compare it with live: diff, plan, merge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pitr.archive.lease import is_live
from pitr.config import Settings
from pitr.errors import (
    ArchiveLacks,
    Corrupt,
    NotConfigured,
    PreconditionFailed,
    SourceUnusable,
    StoreUnusable,
    UsageError,
)
from pitr.operations.sqlite.reading import Reading, open_reading
from pitr.recovery.folder import Recovery, read_recovery
from pitr.sqlite.diff.states import States, StateSources, open_states
from pitr.sqlite.statement.pattern import TablePattern
from pitr.vocabulary.position import CommitNumber

# A capture that runs is behind by its poll and its flush, and by what storing takes.
_STORING_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class OpenRecovery:
    """A recovery and its states. `warnings` say what could not be used."""

    recovery: Recovery
    states: States
    warnings: tuple[str, ...]


@contextmanager
def open_recovery(
    settings: Settings,
    recovery_id: str | None,
    *,
    tables: Sequence[str] = (),
    writable: bool = False,
) -> Iterator[OpenRecovery]:
    """Open the states of a recovery, or of the newest; of these tables, or of all of its tables.

    See `open_states` for `writable`. Without the archive it goes on, unless the state after the
    damage has to come from there. Raises UsageError for a table or recovery that does not exist,
    PreconditionFailed when sidecar or live database are gone, and what `open_states` raises.
    """
    recovery = read_recovery(settings.state, recovery_id)
    reading, warnings = _reading(settings, recovery)
    sources = StateSources(
        live=_live(recovery, reading),
        sidecar=_sidecar(recovery),
        tables=_chosen(recovery, tables),
        before_commit=_commit(recovery.resolved.position),
        after_commit=_commit(recovery.until.position) if recovery.until else None,
        has_condition=recovery.where is not None,
        columns={one.table: one.columns for one in recovery.tables if one.columns is not None},
        archive=reading.pages if reading else None,
    )
    lease = reading.lease if reading else None
    captures = reading is not None and lease is not None and is_live(lease, at_us=reading.now_us)
    lag_seconds = (settings.poll_us + settings.flush_us) / 1_000_000 + _STORING_SECONDS
    wait_seconds = lag_seconds if captures else 0.0
    with open_states(sources, wait_seconds=wait_seconds, writable=writable) as states:
        yield OpenRecovery(recovery, states, warnings)


def _reading(settings: Settings, recovery: Recovery) -> tuple[Reading | None, tuple[str, ...]]:
    try:
        return open_reading(replace(settings, archive=recovery.archive)), ()
    except (NotConfigured, StoreUnusable, ArchiveLacks, Corrupt) as error:
        if recovery.until is not None:
            raise
        return None, (f"the archive cannot be used: {error.message}",)


def _live(recovery: Recovery, reading: Reading | None) -> Path:
    path = Path(recovery.source) if recovery.source else reading.live if reading else None
    if path is None or not path.is_file():
        raise SourceUnusable(
            "there is no live database to compare with",
            detail=f"The recovery {recovery.id} is of {path or 'a source that is not here'}.",
            hint=f"'pitr recoveries sql {recovery.id}' asks the sidecar by itself.",
        )
    return path


def _sidecar(recovery: Recovery) -> Path:
    path = Path(recovery.sidecar)
    if not path.is_file():
        raise PreconditionFailed(
            f"the sidecar of {recovery.id} is gone",
            detail=f"There is no file {path}.",
            hint=f"Restore again, or drop it with 'pitr recoveries drop {recovery.id}'.",
        )
    return path


def _commit(position: str) -> int:
    return CommitNumber.parse(position).value


def _chosen(recovery: Recovery, names: Sequence[str]) -> tuple[str, ...]:
    """Return the tables that names and patterns mean; all of the recovery's when there are none."""
    known = [table.table for table in recovery.tables]
    chosen: dict[str, None] = {}
    for name in names:
        found = TablePattern.parse(name).chosen(known)
        if not found:
            raise UsageError(
                f"the recovery {recovery.id} has no table {name}",
                hint=f"It has: {', '.join(known)}.",
            )
        chosen |= dict.fromkeys(found)
    return tuple(chosen or known)
