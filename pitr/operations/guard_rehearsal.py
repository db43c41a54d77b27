"""guard check --rehearse: run SQL on a copy of the present state, and count what it did to rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pitr.config import Settings
from pitr.operations.engine import engine_of_source, wired
from pitr.operations.guard_losses import GuardLimits, TableLoss, passed_limits
from pitr.vocabulary.event import OnEvent
from pitr.vocabulary.statement_finding import Severity, SqlText, StatementFinding
from pitr.vocabulary.target import ResolvedTarget

OnTarget = Callable[[ResolvedTarget], None]
NOT_REHEARSED = "nothing was rehearsed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsedTexts:
    """What an engine found when it ran texts, one after the other, on a copy of a state.

    `findings` are by text: statements that failed, were not run, or left their work uncommitted.
    `statements` is how many were run, `script_seconds` how long that took. Counts of `tables` are
    exact, rows of dropped and truncated tables are in `deleted`. `notes` are sentences on what the
    copy cannot show.
    """

    target: ResolvedTarget
    findings: Sequence[Sequence[StatementFinding]]
    statements: int
    tables: Sequence[TableLoss]
    notes: Sequence[str]
    script_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """A rehearsal, the limits that it passed as sentences, and how long it took altogether."""

    found: RehearsedTexts
    passed: Sequence[str]
    seconds: float


def rehearse_texts(
    settings: Settings,
    texts: Sequence[SqlText],
    on_event: OnEvent,
    on_target: OnTarget,
    *,
    role: str | None = None,
    wait_seconds: float = 60,
) -> RehearsedTexts:
    """Bring the archive up to now, and run the texts on a copy of that state, which goes away.

    They run as `role`, or else as the one that the source's sessions have. Nothing is
    written to the source. Raises UsageError for what cannot be rehearsed at all and for a role that
    is not there, and what capturing and recovering raise.
    """
    return wired(rehearse_texts, engine_of_source(settings))(
        settings, texts, on_event, on_target, role=role, wait_seconds=wait_seconds
    )


def rehearse(
    settings: Settings,
    texts: Sequence[SqlText],
    limits: GuardLimits,
    on_event: OnEvent,
    on_target: OnTarget,
    *,
    role: str | None = None,
) -> Rehearsal:
    """Rehearse texts, and judge what they did by limits. Raises as `rehearse_texts` does."""
    began = time.monotonic()
    found = rehearse_texts(settings, texts, on_event, on_target, role=role)
    empty = {loss.table for loss in found.tables if not loss.deleted}
    return Rehearsal(
        found=found,
        passed=passed_limits(found.tables, empty, limits.max_deleted, limits.forbidden),
        seconds=round(time.monotonic() - began, 3),
    )


def severity_of(loss: TableLoss) -> Severity | None:
    """Return how what was done to a table weighs, None when nothing of it can be missed."""
    if not loss.is_loss:
        return None
    if loss.dropped or loss.truncated or loss.columns_dropped:
        return Severity.ERROR
    return Severity.WARNING if loss.deleted or loss.updated else Severity.NOTE
