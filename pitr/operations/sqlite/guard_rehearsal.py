"""guard check --rehearse on SQLite: the texts on a copy of the newest commit, in a file of ours."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from pitr.clock import now_us
from pitr.config import Settings
from pitr.errors import PitrError, PreconditionFailed, UsageError
from pitr.operations.guard_check import in_file
from pitr.operations.guard_current import not_current
from pitr.operations.guard_losses import losses_of
from pitr.operations.guard_rehearsal import NOT_REHEARSED, OnTarget, RehearsedTexts
from pitr.operations.sqlite.capture import bring_up_to_now
from pitr.operations.sqlite.reading import Reading, open_reading
from pitr.recovery.folder import new_recovery
from pitr.sqlite.file.pages import PageSource
from pitr.sqlite.guard.rehearsal import refuse_commands, rehearse
from pitr.sqlite.past.target import ResolvedCommit
from pitr.vocabulary.event import OnEvent
from pitr.vocabulary.position import CommitNumber
from pitr.vocabulary.statement_finding import SqlText

_FOREIGN_KEYS = (
    "foreign_keys was on, as if the application had set it; a file that sets it has its way."
)
# What is copied, and as much again for what the script writes.
_SPACE_FACTOR = 2


def rehearse_texts(
    settings: Settings,
    texts: Sequence[SqlText],
    on_event: OnEvent,
    on_target: OnTarget,
    *,
    role: str | None = None,
    wait_seconds: float = 60,
) -> RehearsedTexts:
    """Run the texts on a copy of the newest commit, which goes away."""
    if role is not None:
        raise UsageError("SQLite has no roles", hint="Leave out --role.")
    for text in texts:
        with in_file(text):
            refuse_commands(text.sql)
    reading, found = _now(settings, on_event, wait_seconds)
    on_target(found.target)
    source = reading.pages.at(found.record.number)
    with new_recovery(settings.state, label="rehearsal", now_us=now_us()) as new:
        _require_space(settings, source)
        try:
            rehearsed = rehearse(source, [text.sql for text in texts], new.folder / "rehearsal.db")
        except OSError as error:
            raise PreconditionFailed(
                "the copy for the rehearsal cannot be written", detail=f"{error.strerror}."
            ) from None
        return RehearsedTexts(
            target=found.target,
            findings=rehearsed.findings,
            statements=rehearsed.statements,
            tables=losses_of(rehearsed.changes, rehearsed.columns),
            notes=(_FOREIGN_KEYS,),
            script_seconds=rehearsed.seconds,
        )


def _now(
    settings: Settings, on_event: OnEvent, wait_seconds: float
) -> tuple[Reading, ResolvedCommit]:
    """Return the archive once it holds all that was committed before, and its newest commit."""
    try:
        _, pages = bring_up_to_now(settings, on_event, wait_seconds=wait_seconds)
    except PitrError as error:
        raise not_current(error, NOT_REHEARSED) from error
    reading = open_reading(settings)
    return reading, reading.resolve(str(CommitNumber(pages.last_commit().number)))


def _require_space(settings: Settings, source: PageSource) -> None:
    needed = _SPACE_FACTOR * source.page_size * source.page_count
    free = shutil.disk_usage(settings.state).free
    if free < needed:
        raise PreconditionFailed(
            "there is not enough space for the rehearsal",
            detail=f"{settings.state} has {free >> 20} MiB free; {needed >> 20} MiB are needed.",
            hint="Free some space, or choose another state folder with PITR_STATE.",
        )
