"""status: what can be gone back to, how far behind the archive is, and what went wrong last."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.archive.archive import Mark
from pitr.archive.verification import VerificationRecord
from pitr.config import Settings
from pitr.operations.engine import engine_of_archive, wired
from pitr.vocabulary.target import Window


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch whose interior is not known: between two moments, before a commit.

    `kind` is gap, fork, or missing for commits whose objects are gone from the store, or whose WAL
    never came. `begin` is the position of the last state before it, where that is known.
    """

    kind: str
    from_us: int
    to_us: int
    position: str
    begin: str | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """A state that can be read without the commits before it."""

    id: str
    time_us: int
    bytes: int


@dataclass(frozen=True, slots=True)
class TimelineState:
    """What is archived of one PostgreSQL timeline, up to its end and without a gap.

    `begin` is where its own WAL begins to be archived, `first` the first state that can be gone
    back to, at `from_us`, None without a base; `last` is where the archived WAL ends.
    """

    timeline: int
    begin: str
    first: str | None
    last: str
    from_us: int | None


@dataclass(frozen=True, slots=True)
class SlotState:
    """PostgreSQL's replication slot: the server's word for its WAL, or absent.

    `kept_bytes` is the WAL that the server keeps for it, `safe_bytes` what may still be written
    before it loses its own, None without a limit.
    """

    name: str
    status: str
    active: bool
    kept_bytes: int
    safe_bytes: int | None


@dataclass(frozen=True, slots=True)
class Status:
    """What `pitr status` shows. Times in µs since the epoch; None where there is nothing.

    `positions` are those of the first and the last state that can be gone back to.

    `lag_bytes`, `timelines` and `slot` are of PostgreSQL only; `lag_bytes` is the WAL that is not
    archived, None when the source cannot be asked.

    `verified` and `drilled` are the newest records that `pitr verify` and its drills left.

    `granularity` says what the newest commits stand for: `commit`, each for one transaction, or
    `poll`, each for all between two looks at a database with a rollback journal.
    """

    window: Window | None
    positions: tuple[str, str] | None
    lag_us: int
    capturing: bool
    holder: str | None
    granularity: str | None
    gaps: tuple[Gap, ...]
    archive_bytes: int
    bases: tuple[Base, ...]
    marks: tuple[Mark, ...]
    last_error: str | None
    spooled_bytes: int
    lag_bytes: int | None = None
    timelines: tuple[TimelineState, ...] = ()
    slot: SlotState | None = None
    verified: VerificationRecord | None = None
    drilled: VerificationRecord | None = None


def status(settings: Settings) -> Status:
    """Return the state of an archive, of its capture, and how the source stands to it."""
    return wired(status, engine_of_archive(settings))(settings)
