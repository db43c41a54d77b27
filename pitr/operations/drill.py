"""verify --drill: restore tables to a random moment, and compare them with another way to it."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pitr.archive.verification import Proof, VerificationRecord, last_verification
from pitr.clock import now_us
from pitr.config import Settings
from pitr.operations.engine import engine_of_archive, wired
from pitr.operations.opening import open_archive_store
from pitr.operations.verify import recorded
from pitr.vocabulary.event import OnEvent

SAMPLE_TABLES = 3
_SEED_MAX = 1 << 32


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillWish:
    """What to try: these tables, or a sample that goes on after `after`.

    `seed` makes the random target; the same seed gives the same one as long as the archive is the
    same. `whole_bytes_max` is up to which size the whole database is recovered to compare with,
    None: as far as there is space.
    """

    tables: Sequence[str] = ()
    seed: int = 0
    after: str | None = None
    whole_bytes_max: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrilledTable:
    """One table that was restored: its rows, the seconds to the first of them, and the verdict.

    `method` says what it was compared with; `detail` what is wrong, None when nothing is.
    """

    table: str
    target: str
    rows: int | None
    seconds: float | None
    equal: bool
    method: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class DrillOutcome:
    """The tables that were tried, and the seed that chose their target."""

    seed: int
    tables: tuple[DrilledTable, ...]

    @property
    def ok(self) -> bool:
        """Return whether every table came back as it was; one at least was tried."""
        return bool(self.tables) and all(table.equal for table in self.tables)


def new_seed() -> int:
    """Return a seed for a drill that was given none."""
    return random.SystemRandom().randrange(_SEED_MAX)


def drill(settings: Settings, wish: DrillWish, on_event: OnEvent) -> DrillOutcome:
    """Restore tables into sidecars of their own, compare them, and remove the sidecars.

    What keeps a table from coming back is a verdict, and no error: damage, a gap. Raises what keeps
    from trying at all: PreconditionFailed, OutsideWindow when nothing can be gone back to,
    TableUnknown for a table that was named.
    """
    return wired(drill, engine_of_archive(settings))(settings, wish, on_event)


def drill_and_record(
    settings: Settings, wish: DrillWish, on_event: OnEvent
) -> tuple[DrillOutcome, str | None]:
    """Drill, and leave a record in the archive; return also why there is none, or None.

    Without tables in the wish, the sample begins where that of the last drill ended.
    """
    store = open_archive_store(settings)
    last = last_verification(store, Proof.DRILL)
    if last is not None and last.tables:
        wish = replace(wish, after=last.tables[-1])
    began = time.monotonic()
    outcome = drill(settings, wish, on_event)
    seconds = [table.seconds for table in outcome.tables if table.seconds is not None]
    record = VerificationRecord(
        proof=Proof.DRILL,
        finished_us=now_us(),
        ok=outcome.ok,
        seconds=round(time.monotonic() - began, 3),
        damaged=sum(not table.equal for table in outcome.tables),
        first_row_seconds=max(seconds, default=None),
        tables=tuple(dict.fromkeys(table.table for table in outcome.tables)),
    )
    return outcome, recorded(settings, record)


def rotated(names: Sequence[str], after: str | None) -> list[str]:
    """Return names in order, beginning behind `after`: so every table has its turn."""
    ordered = sorted(names)
    begin = sum(name <= after for name in ordered) if after is not None else 0
    return [*ordered[begin:], *ordered[:begin]]
