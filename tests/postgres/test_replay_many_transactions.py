"""Rows of transactions far apart: what others' transactions added to CLOG is not replayed."""

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

OTHERS = """
DO $$ BEGIN
    FOR i IN 1..40000 LOOP PERFORM txid_current(); COMMIT; END LOOP;
END $$
"""


def test_rows_of_transactions_on_many_pages_of_clog_come_back(major: int) -> None:
    """Committed before and behind checkpoints and 80,000 transactions of others, or rolled back."""
    if major == 13:
        pytest.skip("the programs of 13 that are to be had here lack pg_basebackup and pg_dump")
    with world_folder() as folder:
        settings = {"synchronous_commit": False}
        with archiving_server(folder, major, segment_megabytes=1, settings=settings) as server:
            server.query(f"CREATE DATABASE {DATABASE}")
            server.query("CREATE TABLE goods AS SELECT 1 AS id", DATABASE)
            take_base(server, folder)
            for id_ in (2, 3):
                server.query(OTHERS)
                server.query("CHECKPOINT")
                server.query(f"INSERT INTO goods VALUES ({id_})", DATABASE)
                server.query("BEGIN; INSERT INTO goods VALUES (0); ROLLBACK", DATABASE)
            stop = Lsn.parse(str(server.value("SELECT pg_current_wal_insert_lsn()::text"))).value
            finish_wal(server)
            programs = server.bin
        world = Recorded(folder, major, programs)
        with world.full_recovery(stop) as full:
            expected = dump(programs, full.environment(DATABASE), ["goods"])
        found = world.replayed(stop, ["goods"])
        with running(found.server) as sidecar:
            assert dump(programs, sidecar.environment(DATABASE), ["goods"]) == expected

    assert found.selection.zero_pages >= 2
    assert sum(found.rows.values()) == 3
