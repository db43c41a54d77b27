"""Surgical replay against the oracle: PostgreSQL's own full recovery to the same position.

Random lives, random positions (every record is one), random tables. What pg_dump writes of them is
the same, byte for byte. `PITR_TEST_SEED=N` runs another seed,
`PITR_TEST_TARGETS=N` more positions of each.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from pitr.postgres.replay.server import RunningServer, running
from tests.postgres.random_workload import DATABASE
from tests.postgres.replay_world import Recorded, dump, recorded, some_tables

SEED = int(os.environ.get("PITR_TEST_SEED", "1"))
TARGETS = int(os.environ.get("PITR_TEST_TARGETS", "2"))
CLUSTERS = (
    {"checksums": True, "segment_megabytes": 1},
    {"checksums": False, "settings": {"wal_compression": "pglz", "wal_log_hints": True}},
    {"checksums": False, "segment_megabytes": 64},
)
MAJORS = (15, 14, 16, 17, 18)
PRESENT = """
SELECT c.oid, relkind::text, amname
FROM pg_class AS c LEFT JOIN pg_am ON pg_am.oid = relam LEFT JOIN pg_index ON indexrelid = c.oid
WHERE relkind IN ('r', 'm', 't', 'i') AND relpersistence = 'p' AND indisvalid IS NOT FALSE
    AND (pg_stat_file(pg_relation_filepath(c.oid), true)).size IS NOT NULL
"""


def options_of(seed: int, major: int) -> dict[str, object]:
    """Return the options of a seed's cluster."""
    options: dict[str, object] = {**CLUSTERS[seed % len(CLUSTERS)]}
    if major < 15 and "settings" in options:
        options["settings"] = {"wal_compression": True, "wal_log_hints": True}
    return options


def check_targets(world: Recorded, seed: int, targets: int) -> Iterator[int]:
    """Compare at random positions; yield the rows of each recovery, which may be none by chance."""
    chance = random.Random(seed)
    positions = world.positions()
    assert len(positions) > 100
    for _ in range(targets):
        stop = chance.choice(positions)
        with world.full_recovery(stop) as full:
            tables = some_tables(full, chance)
            if not tables:
                continue
            expected = dump(world.programs, full.environment(DATABASE), tables)
        print(f"seed {seed}, stop {stop:X}, tables {tables}")
        found = world.replayed(stop, tables)
        with running(found.server) as sidecar:
            assert dump(world.programs, sidecar.environment(DATABASE), tables) == expected
            check_files(sidecar)
        yield sum(found.rows.values())


def check_files(sidecar: RunningServer) -> None:
    """Let amcheck look at every table and b-tree index of which there is a file, catalogs too."""
    with sidecar.connect(DATABASE) as connection:
        found = connection.execute(PRESENT).fetchall()
        assert found
        for oid, kind, method in found:
            if kind != "i" and connection.info.server_version >= 140000:
                check = "SELECT * FROM public.verify_heapam(%s::regclass)"
                assert connection.execute(check, [oid]).fetchall() == []
            elif method == "btree":
                check = "SELECT public.bt_index_parent_check(%s::regclass, true, true)"
                connection.execute(check, [oid])


@pytest.mark.parametrize("seed", range(SEED, SEED + 2))
def test_replay_of_random_tables_equals_full_recovery(seed: int, major: int) -> None:
    """At any record, chosen tables are byte for byte those of a full recovery."""
    if major == 13:
        pytest.skip("the programs of 13 that are to be had here lack pg_basebackup and pg_dump")
    with recorded(seed, major, **options_of(seed, major)) as world:
        assert list(check_targets(world, seed, TARGETS))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1000, 1060))
def test_replay_of_random_tables_equals_full_recovery_for_long(seed: int) -> None:
    """The same for many lives, longer ones, and five records of each; versions take turns."""
    major = MAJORS[seed % len(MAJORS)]
    with recorded(seed, major, before=30, after=120, **options_of(seed, major)) as world:
        assert sum(check_targets(world, seed, 5)) > 0
