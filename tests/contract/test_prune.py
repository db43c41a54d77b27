"""Pruning in every store there is, encrypted ones too: puts, lists and deletes are all it needs."""

from __future__ import annotations

import random

from pitr.archive.store import Store
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.pruning import plan_prune, run_prune
from pitr.sqlite.pagelog.verify import verify_archive
from tests.sqlite.builders import a_history, read_state


def test_pruned_archive_keeps_its_states_in_every_store(store: Store) -> None:
    """Oracle: the states that were written, before the prune and after it."""
    builder = a_history(random.Random(11), commits=20, store=store)
    horizon = builder.records[14]
    plan = plan_prune(store, horizon_us=horizon.time_end_us, marks={4}, now_us=1 << 60)
    run_prune(store, plan)

    archive = PageArchive(store)
    assert [record.number for record in archive.commits()] == [4, *range(15, 21)]
    for number in (4, 15, 20):
        assert read_state(archive, number) == builder.states[number]
    assert verify_archive(store).ok
