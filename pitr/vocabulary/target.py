"""Moments to go back to: as asked for (Target) and as found in the archive (ResolvedTarget)."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.vocabulary.position import CommitNumber, Lsn


@dataclass(frozen=True, slots=True)
class TimeTarget:
    """A moment in time.

    `time_us` is rounded down when the text had finer digits: never later than what was asked.
    `local_zone` names the zone that was assumed for a text without one, so that it can be
    echoed; None when the text named its own.
    """

    time_us: int
    text: str
    local_zone: str | None = None


@dataclass(frozen=True, slots=True)
class RelativeTarget:
    """A moment counted back from the source's clock, which only the engine can read."""

    microseconds_ago: int

    def time_us(self, now_us: int) -> int:
        """Return the moment, given what the source's clock shows now."""
        return now_us - self.microseconds_ago


@dataclass(frozen=True, slots=True)
class NameTarget:
    """A mark set by `pitr mark`."""

    name: str


@dataclass(frozen=True, slots=True)
class LsnTarget:
    """Everything that was committed up to a WAL position (PostgreSQL)."""

    lsn: Lsn


@dataclass(frozen=True, slots=True)
class XidTarget:
    """The state after a transaction (PostgreSQL), or before it."""

    xid: int
    before: bool


@dataclass(frozen=True, slots=True)
class CommitTarget:
    """The state after a commit (SQLite), or before it."""

    number: CommitNumber
    before: bool


@dataclass(frozen=True, slots=True)
class LatestTarget:
    """The newest archived state."""


Target = (
    TimeTarget | RelativeTarget | NameTarget | LsnTarget | XidTarget | CommitTarget | LatestTarget
)


@dataclass(frozen=True, slots=True)
class TransactionAt:
    """One transaction by its position (usable as a target) and the end of its commit time."""

    position: str
    time_us: int


@dataclass(frozen=True, slots=True)
class ResolvedTarget:
    """What a target came to in one archive; always echoed before anything is done with it.

    `position` is usable as a target and always gives the same state again. `time_us` is the
    moment that was asked for, or None when the target was no time. `first_excluded` is None
    when nothing later has been archived yet.
    """

    time_us: int | None
    position: str
    last_included: TransactionAt | None
    first_excluded: TransactionAt | None


@dataclass(frozen=True, slots=True)
class Window:
    """What can be gone back to: from the first state held to the moment proven current."""

    from_us: int
    to_us: int
