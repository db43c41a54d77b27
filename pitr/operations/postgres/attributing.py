"""Ask the archive which transactions removed rows of a recovery's tables since its target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pitr.config import Settings
from pitr.errors import PitrError
from pitr.operations.history import LogRequest
from pitr.operations.postgres.comparing import OpenRecovery
from pitr.operations.postgres.history import log_transactions
from pitr.operations.postgres.reading import open_reading
from pitr.postgres.diff.attribution import Attribution, Removals, attribute_lost, removals_of
from pitr.postgres.diff.classified import ClassifiedTable
from pitr.postgres.live.faults import server_faults
from pitr.postgres.tables.name import TableName
from pitr.postgres.tables.session import value_of
from pitr.vocabulary.position import Lsn

Attribute = Callable[[ClassifiedTable], Attribution]


def attributing(settings: Settings, opened: OpenRecovery) -> Attribute:
    """Return what attributes the lost rows of a table of the recovery; the archive is read now.

    Nothing is attributed where the state after the damage is known. Where the archive cannot be
    asked, the reason is in the warnings.
    """
    states, recovery = opened.states, opened.recovery
    if states.after is not None:
        return lambda _table: Attribution()
    settings = replace(settings, archive=recovery.archive)
    since = recovery.resolved.position
    try:
        late = _behind(settings, opened)
    except PitrError as error:
        late = error.message
    known = {name: _removals(settings, name, since, late) for name in states.tables}

    def attribute(table: ClassifiedTable) -> Attribution:
        name = table.aligned.before.name
        found = known.get(name) or _removals(settings, name, since, late)
        return attribute_lost(table, found)

    return attribute


def _removals(settings: Settings, name: TableName, since: str, late: str | None) -> Removals:
    request = LogRequest(tables=(str(name),), since=since, until=None, limit=None)
    try:
        return removals_of(log_transactions(settings, request), late)
    except PitrError as error:
        return Removals(reason=f"the archive cannot be asked: {error.message}")


def _behind(settings: Settings, opened: OpenRecovery) -> str | None:
    """Return what is to be said when the archive does not reach up to now."""
    end = open_reading(settings).stretches[-1].end
    with server_faults("ask where the WAL is"):
        flushed = Lsn.parse(
            str(value_of(opened.states.live, "SELECT pg_catalog.pg_current_wal_flush_lsn()"))
        )
    return None if flushed <= end else f"what was done after {end} is not archived yet"
