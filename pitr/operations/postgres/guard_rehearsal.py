"""guard check --rehearse on PostgreSQL: the texts in a sidecar with the tables that they touch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from pitr.clock import now_us
from pitr.config import Settings
from pitr.errors import PitrError, UsageError
from pitr.operations.guard_check import in_file
from pitr.operations.guard_current import not_current
from pitr.operations.guard_losses import TableLoss, losses_of
from pitr.operations.guard_rehearsal import NOT_REHEARSED, OnTarget, RehearsedTexts
from pitr.operations.postgres.absence import absence_explained
from pitr.operations.postgres.capture import bring_up_to_now
from pitr.operations.postgres.restore import Way, find_way
from pitr.operations.postgres.states import passing_replay
from pitr.operations.restore import RestoreRequest
from pitr.postgres.guard.rehearsal import RehearsalOutcome, read_text, rehearse
from pitr.postgres.guard.session import TextStatements
from pitr.postgres.live.connection import connect
from pitr.postgres.live.faults import server_faults
from pitr.vocabulary.event import OnEvent
from pitr.vocabulary.statement_finding import SqlText


def rehearse_texts(
    settings: Settings,
    texts: Sequence[SqlText],
    on_event: OnEvent,
    on_target: OnTarget,
    *,
    role: str | None = None,
    wait_seconds: float = 60,
) -> RehearsedTexts:
    """Recover the tables that the texts touch, and run them in a sidecar that goes away."""
    scripts = [_read(text) for text in texts]
    database, role = _session(settings, role)
    way = _now(settings, on_event, wait_seconds)
    on_target(way.target)
    replaying = passing_replay(settings, way.source, way.stop, way.index, label="rehearsal")
    with replaying as replay, absence_explained(settings, way.stop.lsn, has_archive=True):
        found = rehearse(replay, scripts, database, role)
    return RehearsedTexts(
        target=way.target,
        findings=found.findings,
        statements=found.statements,
        tables=_losses(found),
        notes=_notes(found, role),
        script_seconds=found.seconds,
    )


def _read(text: SqlText) -> TextStatements:
    with in_file(text):
        return read_text(text.sql)


def _now(settings: Settings, on_event: OnEvent, wait_seconds: float) -> Way:
    """Return the way to the present state, once the archive holds all that was committed before."""
    try:
        bring_up_to_now(settings, on_event, wait_seconds=wait_seconds)
    except PitrError as error:
        raise not_current(error, NOT_REHEARSED) from error
    return find_way(settings, RestoreRequest(tables=(), target="latest"), now_us())


def _session(settings: Settings, role: str | None) -> tuple[str, str]:
    """Return the database, and the role to run as. Raises UsageError when there is no such role."""
    place = settings.needed_source().location
    with (
        closing(connect(place, database=settings.database, program="pitr guard")) as connection,
        server_faults("cannot ask for the session's role"),
    ):
        row = connection.execute(
            "SELECT current_database(), coalesce(%(role)s::text, session_user::text),"
            " %(role)s::text IS NULL OR EXISTS (SELECT FROM pg_roles WHERE rolname = %(role)s)",
            {"role": role},
        ).fetchone()
    assert row is not None
    database, found, is_there = row
    if not is_there:
        raise UsageError(
            f"there is no role {role}",
            hint="Name the role that the migration connects as with --role.",
        )
    return str(database), str(found)


def _losses(found: RehearsalOutcome) -> tuple[TableLoss, ...]:
    """Return the losses, with the rows that went as a whole among those deleted."""
    losses = losses_of(found.tally.changes, found.tally.columns)
    return tuple(
        loss
        if loss.created or loss.table not in found.tally.gone
        else replace(loss, deleted=found.tally.gone[loss.table])
        for loss in losses
    )


def _notes(found: RehearsalOutcome, role: str) -> tuple[str, ...]:
    notes = [f"it ran as {role}, each statement by itself unless BEGIN says otherwise."]
    if found.unlogged:
        names = ", ".join(table.full_name for table in found.unlogged)
        notes.append(f"unlogged tables were empty, their rows are in no archive: {names}.")
    return tuple(notes)
