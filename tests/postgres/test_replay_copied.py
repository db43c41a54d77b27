"""A database that was made by copying files after the base backup comes back, as it was."""

from __future__ import annotations

import pytest

from pitr.postgres.replay.server import running
from pitr.vocabulary.position import Lsn
from tests.postgres.random_workload import DATABASE
from tests.postgres.replay_world import (
    Recorded,
    archiving_server,
    dump,
    finish_wal,
    take_base,
    world_folder,
)

GOODS = "INSERT INTO goods SELECT i, repeat('g', i % 900) FROM generate_series({}, {}) AS i"


def test_database_made_by_copying_files_is_that_of_a_full_recovery(major: int) -> None:
    """Also where its template was made so, too: both are replayed, with catalogs that moved.

    One table is the template's, its file moved in each of the three; one is new.
    """
    if major == 13:
        pytest.skip("the programs of 13 that are to be had here lack pg_basebackup and pg_dump")
    strategy = "STRATEGY FILE_COPY" if major >= 15 else ""
    with world_folder() as folder:
        with archiving_server(folder, major, segment_megabytes=1) as server:
            server.query("CREATE DATABASE model")
            server.query("CREATE TABLE goods (id int PRIMARY KEY, t text)", "model")
            server.query("CREATE TABLE others AS SELECT 1 AS i", "model")
            server.query(GOODS.format(1, 3000), "model")
            take_base(server, folder)
            server.query("DELETE FROM goods WHERE id % 3 = 0", "model")
            server.query("VACUUM FULL pg_class", "model")
            server.query("VACUUM FULL goods", "model")
            server.query(f"CREATE DATABASE middle TEMPLATE model {strategy}")
            server.query("DELETE FROM goods", "model")
            server.query("VACUUM FULL pg_class", "middle")
            server.query("VACUUM FULL goods", "middle")
            server.query(GOODS.format(3001, 3500), "middle")
            server.query(f"CREATE DATABASE {DATABASE} TEMPLATE middle {strategy}")
            server.query("DROP DATABASE middle")
            server.query("VACUUM FULL pg_attribute", DATABASE)
            server.query("CLUSTER goods USING goods_pkey", DATABASE)
            server.query("CREATE TABLE bills AS SELECT * FROM goods WHERE id < 500", DATABASE)
            server.query(GOODS.format(4001, 5000), DATABASE)
            stop = str(server.value("SELECT pg_current_wal_insert_lsn()::text"))
            server.query("DROP TABLE goods", DATABASE)
            finish_wal(server)
            programs = server.bin
        world = Recorded(folder, major, programs)
        lsn = Lsn.parse(stop).value
        tables = ["public.bills", "public.goods"]
        with world.full_recovery(
            lsn,
        ) as full:
            expected = dump(programs, full.environment(DATABASE), tables)
        found = world.replayed(lsn, tables)
        with running(found.server) as sidecar:
            assert dump(programs, sidecar.environment(DATABASE), tables) == expected
        assert sum(found.rows.values()) == 3500 + len(range(1, 500)) - len(range(3, 500, 3))
