"""verify: read every archived object again."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pitr.archive.verification import Proof, VerificationRecord, write_verification
from pitr.clock import now_us
from pitr.config import Settings
from pitr.errors import StoreUnusable
from pitr.operations.engine import engine_of_archive, wired
from pitr.operations.opening import open_archive_store
from pitr.vocabulary.damage import Damage


@dataclass(frozen=True, slots=True)
class Reachable:
    """What one base leads to: from its first position to the last; None, None: nothing yet.

    `timeline` is PostgreSQL's, None for SQLite.
    """

    base: str
    timeline: int | None
    first: str | None
    last: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOutcome:
    """What was read, what is wrong with it, and what can be gone back to all the same.

    `holes` have the first and the last position that no object holds though it should; `gaps` what
    capture itself noted as not captured. `last_good` is the position up to which everything is
    right, None when nothing can be relied on. `leftovers` are objects that nothing needs: of an
    interrupted backup, or of one that runs now. No damage.
    """

    objects: int
    bytes: int
    damaged: tuple[Damage, ...]
    holes: tuple[tuple[str, str], ...]
    last_good: str | None
    gaps: tuple[tuple[str, str], ...] = ()
    reachable: tuple[Reachable, ...] = ()
    leftovers: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Return whether nothing is damaged and nothing is missing."""
        return not self.damaged and not self.holes


@dataclass(frozen=True, slots=True)
class Verified:
    """An outcome, and why `status` will not know of it; None when it will."""

    outcome: VerifyOutcome
    unrecorded: str | None


def verify(settings: Settings) -> VerifyOutcome:
    """Return what is damaged or missing in the archive. Reads the archive only."""
    return wired(verify, engine_of_archive(settings))(settings)


def verify_and_record(settings: Settings) -> Verified:
    """Verify, and leave a record in the archive, by which `status` knows.

    An archive that may only be read is verified all the same. Raises what `verify` raises.
    """
    began = time.monotonic()
    outcome = verify(settings)
    record = VerificationRecord(
        proof=Proof.OBJECTS,
        finished_us=now_us(),
        ok=outcome.ok,
        seconds=round(time.monotonic() - began, 3),
        objects=outcome.objects,
        bytes=outcome.bytes,
        damaged=len(outcome.damaged) + len(outcome.holes),
    )
    return Verified(outcome, recorded(settings, record))


def recorded(settings: Settings, record: VerificationRecord) -> str | None:
    """Store a record; return why that was not possible, None when it was."""
    try:
        write_verification(open_archive_store(settings), record)
    except StoreUnusable as error:
        return error.sentence
    return None
