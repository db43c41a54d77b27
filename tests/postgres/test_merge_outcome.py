"""What became of a merge is never said of another transaction that was given the same number.

A server that is killed before WAL with a transaction's number is on disk gives the number away
again. Here its WAL writer is stopped, so that WAL goes to disk only when somebody waits for it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from pitr.errors import SourceUnusable
from pitr.operations.postgres.undo import settle_merge
from pitr.postgres.live.connection import connect
from pitr.postgres.merge.outcome import merge_outcome
from pitr.recovery.merges import KeptMerge, list_merges
from pitr.vocabulary.plan import MergeOutcome, MergeStep
from tests.postgres.repair_world import Outcome, RepairWorld
from tests.postgres.test_repair_crash import Cutter
from tests.postgres.trap_lab import Stop, stopping
from tools.postgres_servers import Server

# No background work, and buffers for all WAL.
LAZY = {
    "autovacuum": False,
    "checkpoint_timeout": "1h",
    "max_wal_senders": 0,
    "shared_buffers": "64MB",
    "wal_buffers": "16MB",
    "wal_level": "minimal",
    "wal_writer_delay": "10s",
}
LOST = list(range(1, 21))


@contextmanager
def damaged(server: Server, state: Path) -> Iterator[tuple[RepairWorld, str]]:
    """Yield a world in which 20 rows are lost, and the state before; a role without rights owns."""
    world = RepairWorld(
        server,
        state,
        "do $$ begin create role poor login connection limit 1;"
        " exception when duplicate_object then null; end $$",
        "create table others (xid text)",
        "grant create on schema public to poor",
        "set role poor",
        "create table t (id int primary key, a text)",
        "insert into t select i, 'item ' || i from generate_series(1, 20) i",
        "reset role",
    )
    before = world.mark()
    world.run("delete from t")
    try:
        yield world, before
    finally:
        world.app.close()


def rows(world: RepairWorld) -> list[int]:
    return [number for (number,) in world.run("select id from t order by id")]


def kept_merge(world: RepairWorld) -> KeptMerge:
    (kept,) = list_merges(world.state)
    return kept


def taken_by_others(world: RepairWorld, kept: KeptMerge) -> int:
    ((count,),) = world.run(f"select count(*) from others where xid = '{kept.record.xid}'")
    return int(count)


def give_away(server: Server, database: str, xid: str) -> str:
    """Let others commit until the number is used up; return the first number that they got."""
    first = None
    with server.connect(database) as other:
        while True:
            row = other.execute(
                "insert into others values (pg_current_xact_id()::text) returning xid"
            ).fetchone()
            assert row is not None
            first = first or str(row[0])
            if int(row[0]) >= int(xid):
                return first


def crash_before_commit(world: RepairWorld, before: str, user: str) -> tuple[Outcome, KeptMerge]:
    """Kill the server when the record is written; others go on until the number was used."""
    found = []
    writers = "select pid from pg_stat_activity where backend_type in ('walwriter', 'checkpointer')"
    for (pid,) in world.run(writers):
        os.kill(pid, signal.SIGSTOP)

    def on_step(step: MergeStep) -> None:
        if step is MergeStep.RECORDED:
            found.append(kept_merge(world))
            world.app.close()
            world.server.kill()
            world.server.start()
            world.app = world.server.connect(world.name)
            assert found[0].record.xid is not None
            give_away(world.server, world.name, found[0].record.xid)

    outcome = world.merge(before, "t", user=user, on_step=on_step)
    return outcome, found[0]


def test_number_is_held_before_the_record_names_it(tmp_path: Path) -> None:
    """The server is killed before COMMIT: its next transactions have higher numbers, and it says
    that the merge did not happen."""
    with Server(15, settings=LAZY) as server, damaged(server, tmp_path) as (world, before):
        outcome, kept = crash_before_commit(world, before, "postgres")
        assert kept.record.held is not None
        assert taken_by_others(world, kept) == 0
        assert outcome.code == 6, outcome.error
        assert rows(world) == []
        assert list_merges(world.state) == []  # it is known to have been rolled back
        again = world.merge(before, "t")
        assert again.code == 0
        assert rows(world) == LOST


def test_number_that_was_given_away_again_proves_nothing(tmp_path: Path) -> None:
    """No second connection was to be had, so the number is not held; another transaction gets it
    and commits, and the rows tell that the merge did not happen."""
    with Server(15, settings=LAZY) as server, damaged(server, tmp_path) as (world, before):
        outcome, kept = crash_before_commit(world, before, "poor")
        assert kept.record.held is None
        assert taken_by_others(world, kept) == 1, "it was not given away: nothing is shown"
        assert world.run(f"select pg_xact_status('{kept.record.xid}')") == [("committed",)]
        assert outcome.code == 6, outcome.error
        assert rows(world) == []


def test_pitr_dies_before_and_after_commit_and_the_server_crashes(tmp_path: Path) -> None:
    """A later command asks; undo refuses what did not happen."""
    with Server(15, settings=LAZY) as server, damaged(server, tmp_path) as (world, before):
        with pytest.raises(Stop):
            world.merge(before, "t", on_step=stopping(MergeStep.COMMITTED))
        world.app.close()
        server.kill()
        server.start()
        world.app = server.connect(world.name)
        kept = kept_merge(world)
        assert kept.record.xid is not None
        give_away(server, world.name, kept.record.xid)
        # Even when somebody has taken the rows away again.
        world.run("delete from t")
        assert settle_merge(kept).outcome is MergeOutcome.HAPPENED


def test_line_is_cut_at_commit_and_the_server_crashes(tmp_path: Path) -> None:
    """The COMMIT was done: the merge says so once the server is there again."""
    with Server(15, settings=LAZY) as server, damaged(server, tmp_path) as (world, before):
        cutter = Cutter(server)

        def crash() -> None:
            assert cutter.was_cut.wait(60)
            with server.connect(world.name) as other:
                while other.execute("select count(*) from t").fetchone() == (0,):
                    time.sleep(0.01)
            server.kill()
            server.start()

        thread = threading.Thread(target=crash)
        thread.start()
        try:
            outcome = world.merge(before, "t", host=str(cutter.folder))
        finally:
            cutter.close()
            thread.join()
        assert outcome.code == 0, outcome.error
        world.app.close()
        world.app = server.connect(world.name)
        assert rows(world) == LOST


def test_number_that_the_server_has_forgotten(tmp_path: Path) -> None:
    """Two epochs later the rows decide, and say so when they cannot."""
    with Server(15, settings=LAZY) as server, damaged(server, tmp_path) as (world, before):
        with pytest.raises(Stop):
            world.merge(before, "t", on_step=stopping(MergeStep.COMMITTED))
        world.app.close()
        server.stop()
        server.run("pg_resetwal", "-e", "2", "-D", str(server.data))
        server.start()
        world.app = server.connect(world.name)
        kept = kept_merge(world)
        assert world.run(f"select pg_xact_status('{kept.record.xid}')") == [(None,)]
        assert _asked(world, kept) is MergeOutcome.HAPPENED
        world.run("update t set a = 'mine'")
        assert _asked(world, kept) is MergeOutcome.CANNOT_BE_TOLD
        world.run("delete from t")
        assert _asked(world, kept) is MergeOutcome.DID_NOT_HAPPEN
        assert settle_merge(kept).outcome is MergeOutcome.DID_NOT_HAPPEN


def _asked(world: RepairWorld, kept: KeptMerge, server: Server | None = None) -> object:
    asked = server or world.server
    assert kept.record.xid is not None
    with closing(connect(asked.url(world.name))) as live:
        return merge_outcome(
            live,
            kept.folder,
            xid=kept.record.xid,
            held=kept.record.held,
            place=asked.url(world.name),
        )


STREAMING = {**LAZY, "max_wal_senders": 4, "wal_level": "replica"}


def test_failover_to_a_standby_that_lacks_the_merge(tmp_path: Path) -> None:
    """Its number belongs to somebody else there: the timelines parted before it was held."""
    with Server(15, settings=STREAMING) as server, damaged(server, tmp_path) as (world, before):
        standby = server.standby(settings=STREAMING)
        try:
            with pytest.raises(Stop):
                world.merge(before, "t", on_step=stopping(MergeStep.COMMITTED))
            kept = kept_merge(world)
            assert kept.record.xid is not None
            world.app.close()
            server.stop("immediate")  # the standby has only what was in its base backup
            standby.start()
            with pytest.raises(SourceUnusable):
                _asked(world, kept, standby)
            standby.promote()
            give_away(standby, world.name, kept.record.xid)
            status = standby.value(f"select pg_xact_status('{kept.record.xid}')", world.name)
            assert status == "committed"
            assert _asked(world, kept, standby) is MergeOutcome.DID_NOT_HAPPEN
        finally:
            standby.discard()


def test_failover_to_a_standby_that_has_the_merge(tmp_path: Path) -> None:
    """The history of its timeline goes through the place of the number: it is believed."""
    with Server(15, settings=STREAMING) as server, damaged(server, tmp_path) as (world, before):
        standby = server.standby(settings=STREAMING)
        standby.start()
        try:
            with pytest.raises(Stop):
                world.merge(before, "t", on_step=stopping(MergeStep.COMMITTED))
            kept = kept_merge(world)
            _wait_for(standby, world.name, "select count(*) = 20 from t")
            world.app.close()
            server.stop("immediate")
            standby.promote()
            standby.query("delete from t", world.name)  # so that the rows would say otherwise
            assert _asked(world, kept, standby) is MergeOutcome.HAPPENED
        finally:
            standby.discard()


def _wait_for(server: Server, database: str, condition: str) -> None:
    for _ in range(3000):
        try:
            if server.value(condition, database):
                return
        except psycopg.Error:  # the database is not there yet
            pass
        time.sleep(0.01)
    raise TimeoutError(condition)
