"""What a capture says of its own lag, from looks at the server and how far its WAL was stored."""

from __future__ import annotations

from pitr.postgres.capture.progress import Progress
from pitr.postgres.capture.watch import Look
from pitr.vocabulary.position import Lsn

SECOND_US = 1_000_000
NOW_US = 1_800_000_000 * SECOND_US


def look_at(flushed: int, seconds: float) -> Look:
    """Return what a look found so many seconds after the first one."""
    settled_us = NOW_US + int(seconds * SECOND_US)
    return Look(Lsn(flushed), settled_us, 0, 1 << 24, None, None, "1")


def test_lag_counts_what_this_run_has_not_stored() -> None:
    """Bytes to the newest look, seconds since the newest one that is stored; none when all is."""
    progress = Progress(0)
    progress.see(look_at(1000, 0))
    progress.see(look_at(3000, 5))

    assert progress.lag(Lsn(500)) == (2500, 5.0)
    assert progress.lag(Lsn(1000)) == (2000, 5.0)
    progress.see(look_at(4000, 7))
    assert progress.lag(Lsn(3000)) == (1000, 2.0)
    assert progress.lag(Lsn(4000)) == (0, 0.0)


def test_lag_after_a_restart_does_not_count_from_an_old_proof() -> None:
    """A killed capture proved nothing for minutes; the next one is behind by what it has to do."""
    progress = Progress(NOW_US - 160 * SECOND_US)
    progress.see(look_at(1000, 0))
    progress.see(look_at(1100, 1))

    assert progress.lag(Lsn(900)) == (200, 1.0)
    assert progress.until_us == NOW_US - 160 * SECOND_US
    assert progress.put(Lsn(1000))
    assert progress.until_us == NOW_US
