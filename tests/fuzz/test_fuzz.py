"""Damaged bytes of every format end in a PitrError: no traceback, no hang, no memory for naught.

In `make test` each group gets the corpus and a second or so of mutations, the same in every run: a
change is judged by what it changes. `make soak` looks for new ones, for minutes, under atheris when
that is installed, and prints its seed. PITR_TEST_SEED replays a run.
"""

from __future__ import annotations

import os
import random
from importlib.util import find_spec

import pytest

from tests.fuzz.corpus import FOLDER, GROUPS, read
from tests.fuzz.run import loop, with_atheris

SECONDS = float(os.environ.get("PITR_TEST_FUZZ_SECONDS", "1.5"))
SOAK_SECONDS = int(os.environ.get("PITR_TEST_FUZZ_SOAK_SECONDS", str(3600 // len(GROUPS))))


def chosen_seed(default: int) -> int:
    """Return the seed of this run, printed."""
    seed = int(os.environ.get("PITR_TEST_SEED", default))
    print(f"replay with PITR_TEST_SEED={seed}")
    return seed


def test_every_group_has_a_corpus() -> None:
    """A fuzzer without seeds would only ever see bytes that are refused at once."""
    assert {path.name for path in FOLDER.iterdir()} == set(GROUPS)
    assert all(read(name) for name in GROUPS)


@pytest.mark.parametrize("name", GROUPS)
def test_decoder_of_damaged_bytes_raises_only_what_it_says(name: str) -> None:
    """The corpus, with all that was ever found, and some hundred to thousand mutations of it."""
    count, fault = loop(name, seconds=SECONDS, seed=chosen_seed(1))

    assert fault is None, fault
    assert count > 1


@pytest.mark.soak
@pytest.mark.timeout(SOAK_SECONDS * 2 + 600)
@pytest.mark.parametrize("name", GROUPS)
def test_decoder_survives_an_hour_of_all_groups_together(name: str) -> None:
    """An hour in all, guided by coverage where atheris is installed."""
    seed = chosen_seed(random.SystemRandom().randrange(10**9))
    if find_spec("atheris"):
        fault = with_atheris(name, seconds=SOAK_SECONDS, seed=seed % 2**31)
    else:
        fault = loop(name, seconds=SOAK_SECONDS, seed=seed)[1]

    assert fault is None, fault
