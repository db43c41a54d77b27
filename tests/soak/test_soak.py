"""The long soak under `make soak`: no legitimate write is lost, whatever happens to pitr.

`PITR_TEST_SOAK_MINUTES` (60) says how long; `PITR_TEST_SEED` replays the choices of a run.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.soak.soak import soak

MINUTES = float(os.environ.get("PITR_TEST_SOAK_MINUTES", "60"))


@pytest.mark.soak
@pytest.mark.timeout(MINUTES * 120 + 1200)
def test_no_legitimate_write_is_lost(tmp_path: Path) -> None:
    """Kills, outages, a failover, accidents and repairs; then archive, drills and ledger agree."""
    seed = int(os.environ.get("PITR_TEST_SEED", random.SystemRandom().randrange(10**9)))
    print(f"replay with PITR_TEST_SEED={seed}")
    figures = soak(tmp_path, seconds=MINUTES * 60, seed=seed)
    print("\n".join(figures.lines()))

    assert not figures.faults, "\n".join(figures.faults)
    assert figures.counts["merges"] > 0
    assert figures.counts["captures killed"] > 0
