"""guard run: run a command between two marks, and say what its transactions did to the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pitr.archive.archive import Mark
from pitr.clock import now_us
from pitr.config import Settings
from pitr.errors import Interrupted, PitrError, PreconditionFailed
from pitr.operations.capture import is_captured, mark
from pitr.operations.engine import engine_of_source, wired
from pitr.operations.guard_current import not_current
from pitr.operations.guard_losses import (
    GuardLimits,
    GuardRepair,
    TableLoss,
    losses_of,
    passed_limits,
    repair_of,
)
from pitr.vocabulary.change import TableChange, Transaction
from pitr.vocabulary.event import Event, Level, OnEvent

BY_XID = "xid"
BY_WINDOW = "window"


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """How the command ended: its exit code, 128 and the number for a signal, and the signal."""

    code: int
    signal: str | None = None


# run(environment): run the command with these variables set, and wait for its end.
RunCommand = Callable[[Mapping[str, str]], CommandEnd]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedCommand:
    """What an engine found in the window between the marks.

    `changes` are what they did to tables, in order. `by` is how the command's transactions were
    told from others: BY_XID, or BY_WINDOW when all are taken for the command's; `others` are the
    transactions that are not. `doubt` says why work of others may be among it, None when it is not
    or the user said so: in doubt nothing is taken back without asking. `columns` are those
    dropped, by table; `empty` are tables that are known to have been empty before.
    """

    transactions: Sequence[Transaction]
    changes: Sequence[TableChange]
    others: Sequence[Transaction]
    by: str
    columns: Mapping[str, Sequence[str]]
    empty: frozenset[str] = frozenset()
    doubt: str | None = None


@dataclass(frozen=True, slots=True)
class Watch:
    """An engine's preparation: variables for the command, and what to ask when it has ended."""

    environment: Mapping[str, str]
    finish: Callable[[Mark, Mark], WatchedCommand]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardOutcome:
    """What became of a guarded command.

    Without `after` the archive could not be proven to hold what the command did: then nothing is
    known of its tables, `fault` says why, and `repair` is None.
    """

    before: Mark
    after: Mark | None
    end: CommandEnd
    tables: tuple[TableLoss, ...] = ()
    by: str | None = None
    others: tuple[Transaction, ...] = ()
    repair: GuardRepair | None = None
    passed: tuple[str, ...] = ()
    doubt: str | None = None
    fault: PitrError | None = None


def watch_command(settings: Settings, *, by_window: bool) -> Watch:
    """Prepare for a command on the source. Raises as `mark` does; nothing is written."""
    return wired(watch_command, engine_of_source(settings))(settings, by_window=by_window)


def require_recoverable(settings: Settings, target: str) -> None:
    """Raise ArchiveLacks when the archive has no base that leads to a target."""
    wired(require_recoverable, engine_of_source(settings))(settings, target)


def guard_run(
    settings: Settings,
    limits: GuardLimits,
    run: RunCommand,
    on_event: OnEvent,
    *,
    by_window: bool = False,
) -> GuardOutcome:
    """Prove the archive current, mark, run the command, mark again, and count what was lost.

    Raises PreconditionFailed when the archive cannot be proven current and recoverable: then the
    command was not run. What fails after it is in the outcome.
    """
    watch, before = _begin(settings, on_event, by_window=by_window)
    end = run(watch.environment)
    try:
        after = mark(settings, before.name.removesuffix("before") + "after", on_event)
        found = watch.finish(before, after)
    except (PitrError, OSError) as error:
        fault = error if isinstance(error, PitrError) else PreconditionFailed(str(error))
        if isinstance(fault, Interrupted):
            raise
        return GuardOutcome(before=before, after=None, end=end, fault=fault)
    tables = losses_of(found.changes, found.columns)
    return GuardOutcome(
        before=before,
        after=after,
        end=end,
        tables=tables,
        by=found.by,
        others=tuple(found.others),
        repair=repair_of(tables, found.transactions, before.name, after.name),
        passed=passed_limits(tables, found.empty, limits.max_deleted, limits.forbidden),
        doubt=found.doubt if found.transactions else None,
    )


def _begin(settings: Settings, on_event: OnEvent, *, by_window: bool) -> tuple[Watch, Mark]:
    """Return the engine's preparation and the mark before the command, proven recoverable."""
    moment = datetime.fromtimestamp(now_us() / 1_000_000, UTC)
    name = f"guard-{moment:%Y%m%d-%H%M%S-%f}-before"
    try:
        if not is_captured(settings):
            on_event(_NO_CAPTURE)
        watch = watch_command(settings, by_window=by_window)
        before = mark(settings, name, on_event)
        require_recoverable(settings, f"name:{before.name}")
    except PitrError as error:
        raise not_current(error, "the command was not run") from error
    return watch, before


_NO_CAPTURE = Event(
    Level.WARNING,
    "no capture is running, and none is started",
    "What is committed before and after the command is archived by this one.",
)
