"""SIGKILL of the writer, of capture, of both, at random moments: no ghost, no loss, no mix-up.

Method: one database and one archive through all rounds. Each round starts what was killed, lets it
work for a random while and kills it; the database's own numbering then proves the archive, commit
by commit (tests/crash/capture_crash.py). `PITR_TEST_KILL_ROUNDS` and `PITR_TEST_SEED` choose how
long and replay a run.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.crash.capture_crash import World, check, copy_back, wait_for_base


def chance_of_this_run() -> random.Random:
    """Return the source of all chance, and print the seed that replays it."""
    seed = int(os.environ.get("PITR_TEST_SEED", random.SystemRandom().randrange(10**9)))
    print(f"replay with PITR_TEST_SEED={seed}")
    return random.Random(seed)


def run_rounds(folder: Path, rounds: int) -> None:
    chance = chance_of_this_run()
    captures_killed = 0
    with World(folder) as world:
        world.start_writer(chance.randrange(10**9), 0.002)
        world.start_capture()
        wait_for_base(world)
        for at in range(rounds):
            # Every victim in turn, so that few rounds already have all three.
            victim = ["writer", "capture", "both"][at % 3]
            time.sleep(chance.uniform(0.1, 1.2))
            if victim != "writer":
                world.kill_capture()
                captures_killed += 1
            if victim != "capture":
                world.kill_writers()
                for _ in range(chance.choice([1, 1, 2])):
                    world.start_writer(chance.randrange(10**9), chance.choice([0, 0.002, 0.01]))
            if victim != "writer":
                time.sleep(chance.choice([0, 0, 0.3]))
                world.start_capture()
        time.sleep(1.0)
        world.kill_writers()
        world.stop_capture()
        world.take_in_what_recovery_accepts()
    copy_back(world.path)
    verdict = check(world, gaps_max=captures_killed)
    print(f"{verdict.commits} commits, {verdict.gaps} gaps in {captures_killed} kills of capture")
    assert verdict.commits > 20 * rounds


def test_kills_leave_an_exact_archive(tmp_path: Path) -> None:
    """Twenty rounds, in every `make test`."""
    run_rounds(tmp_path, int(os.environ.get("PITR_TEST_KILL_ROUNDS", "20")))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_hundreds_of_kills_leave_an_exact_archive(tmp_path: Path) -> None:
    """The same for long enough to meet the rare moments."""
    run_rounds(tmp_path, int(os.environ.get("PITR_TEST_KILL_ROUNDS", "400")))


def test_capture_that_is_not_killed_loses_nothing_of_killed_writers(tmp_path: Path) -> None:
    """As long as capture lives there is no gap at all, whatever happens to its writers."""
    chance = chance_of_this_run()
    with World(tmp_path) as world:
        world.start_writer(1, 0.002)
        world.start_capture()
        wait_for_base(world)
        for _ in range(10):
            world.start_writer(chance.randrange(10**9), chance.choice([0.001, 0.005]))
            time.sleep(chance.uniform(0.05, 0.5))
            world.kill_writers()
        time.sleep(0.2)
        world.stop_capture()
        world.take_in_what_recovery_accepts()
    copy_back(world.path)
    assert check(world, gaps_max=0).commits > 100
