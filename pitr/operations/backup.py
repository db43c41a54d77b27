"""backup: a base of the present state, from which later states can be reached."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.config import Settings
from pitr.operations.engine import engine_of_source, wired
from pitr.vocabulary.event import OnEvent


@dataclass(frozen=True, slots=True)
class BackupWish:
    """How to back up; both mean something on PostgreSQL only.

    `is_fast` asks the server for a checkpoint at full speed, instead of a gentle one that takes
    minutes. `rate_bytes` is the most that may be read from it in a second; None: no limit.
    """

    is_fast: bool = False
    rate_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class BackupOutcome:
    """A base: the position or name it is known by, its time and the bytes it added to the archive.

    `damaged` are the stretches of the source that contradict their own checksums: (file, first
    block, block after the last one). The base is kept, and marked.
    """

    id: str
    time_us: int
    bytes: int
    damaged: tuple[tuple[str, int, int], ...] = ()


def backup(
    settings: Settings, wish: BackupWish, on_event: OnEvent, *, wait_seconds: float = 60
) -> BackupOutcome:
    """Write a base of the present state; what the archive holds already is not stored again.

    A running capture of a SQLite source is waited for. Raises UsageError for a wish that the engine
    cannot fulfil, SourceUnusable, SourceUnreachable, PrivilegeMissing, StoreUnusable, and
    PreconditionFailed when the capture does not get on.
    """
    return wired(backup, engine_of_source(settings))(
        settings, wish, on_event, wait_seconds=wait_seconds
    )
