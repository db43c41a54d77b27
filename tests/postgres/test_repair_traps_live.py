"""Others at work, and who hears of it: the traps T47 to T60.

See `trap_lab` for what they share.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pitr.postgres.diff.classified import classify
from pitr.postgres.diff.states import comparing
from pitr.vocabulary.event import Event
from tests.postgres.repair_world import Outcome, RepairWorld
from tests.postgres.trap_lab import Lab, Traps, making_lab, warned

trap = Traps()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One server, one database, every trap's tables in it."""
    with making_lab(trap, tmp_path_factory.mktemp("state")) as made:
        yield made


# --- concurrency ---------------------------------------------------------------------------------

trap(
    "create table t47 (id int primary key, a text, b text)",
    "insert into t47 values (1, 'x', ''), (2, 'y', ''), (3, 'z', '')",
    damage="update t47 set a = ''",
)


def test_t47_t48_rows_that_move_between_plan_and_merge(lab: Lab) -> None:
    """Who was shown the plan gets exit 7; who agreed beforehand gets the plan as it is then."""
    outcome = lab.world.merge(
        lab.before,
        "t47",
        after=lab.after,
        is_agreed=False,
        confirm=lambda _plan: lab.world.run("update t47 set a = 'newer' where id = 1") and None,
    )
    assert outcome.code == 7
    assert lab.world.run("select a from t47 order by id") == [("newer",), ("",), ("",)]
    assert lab.blocked("t47") == {"touched_since": [("1",)]}
    lab.back("t47", on_conflict="skip")
    assert lab.world.run("select a from t47 order by id") == [("newer",), ("y",), ("z",)]


trap(
    "create table t49 (id int primary key, a text)",
    "insert into t49 values (1, 'x')",
    damage="delete from t49",
)


def test_t49_key_that_is_taken_by_a_transaction_still_open(lab: Lab) -> None:
    """The merge waits for it, and then finds the key used: tried again, and a conflict."""
    other = lab.world.server.connect(lab.world.name)
    other.execute("begin")
    other.execute("insert into t49 values (1, 'other')")
    done: list[Outcome] = []
    thread = threading.Thread(
        target=lambda: done.append(
            lab.world.merge(lab.before, "t49", after=lab.after, lock_seconds=20.0)
        )
    )
    thread.start()
    _wait_until_blocked(lab.world)
    other.execute("commit")
    thread.join()
    other.close()
    assert done[0].code == 1
    assert {str(one.kind) for one in done[0].plan.blocking} == {"key_reused"}
    assert lab.world.run("select a from t49") == [("other",)]


def _wait_until_blocked(world: RepairWorld) -> None:
    with world.server.connect() as watcher:
        for _ in range(2000):
            found = watcher.execute(
                "select count(*) from pg_stat_activity where datname = %s and"
                " wait_event_type = 'Lock'",
                (world.name,),
            ).fetchone()
            if found and found[0]:
                return
    raise AssertionError("nobody waits for a lock")


trap(
    "create table t50 (id int primary key, a text, n int default 0)",
    "insert into t50 select i, 'x' from generate_series(1, 200) i",
    damage="update t50 set a = ''",
)


def test_t50_deadlocks_are_tried_again(lab: Lab) -> None:
    """A writer that locks rows against the order of their keys, all the time, loses nothing."""
    stop = threading.Event()

    def write() -> None:
        with lab.world.server.connect(lab.world.name) as other:
            other.execute("set deadlock_timeout = '20ms'")
            while not stop.is_set():
                try:
                    with other.transaction():
                        other.execute("update t50 set n = n + 1 where id = 150")
                        other.execute("update t50 set n = n + 1 where id = 20")
                except psycopg.errors.DeadlockDetected:
                    continue

    thread = threading.Thread(target=write)
    thread.start()
    try:
        outcome = lab.world.merge(lab.before, "t50", after=lab.after, lock_seconds=20.0)
    finally:
        stop.set()
        thread.join()
    assert outcome.code == 0, outcome.error and outcome.error.detail
    assert lab.world.run("select count(*) from t50 where a = 'x'") == [(200,)]
    numbers = lab.world.run("select n from t50 where id in (20, 150)")
    assert numbers[0] == numbers[1]
    assert numbers[0][0] > 0


trap(
    "create table t51 (id int primary key, a text)",
    "insert into t51 values (1, 'x')",
    damage="update t51 set a = ''",
)


def test_t51_lock_timeout(lab: Lab) -> None:
    """A row that somebody holds is waited for so long, then exit 6, which says who held it."""
    with lab.world.server.connect(lab.world.name) as other, other.transaction():
        other.execute("set local application_name = 'clean-up'; select * from t51 for update")
        told: list[Event] = []
        outcome = lab.fails("t51", lock_seconds=1.0, report=told.append)
        assert outcome.code == 6
        who = f"process {other.info.backend_pid} (role postgres, clean-up, idle in transaction for"
        assert outcome.error is not None
        assert who in str(outcome.error.detail)
        assert any(who in str(event.detail) for event in told)
        # The limit of a statement, which is not lifted by what waits for whom.
        outcome = lab.fails("t51", lock_seconds=60.0, statement_seconds=0.5)
        assert outcome.code == 6
        assert outcome.error is not None
        assert "cancelled" in outcome.error.message


trap(
    "create table t55 (id int primary key, a text)",
    "insert into t55 values (1, 'x')",
    damage="delete from t55",
)


def test_t55_nothing_of_a_merge_stays_in_its_session(lab: Lab) -> None:
    """No temporary table, no setting, no lock: a pooler may hand the session on."""
    seen: list[Any] = []
    with lab.world.states(lab.before, "t55", after=lab.after) as states:
        show = "select current_setting('DateStyle'), current_setting('search_path')"
        settings = states.live.execute(show).fetchall()
        with comparing(states):
            classify(states)
        seen += states.live.execute(
            "select count(*) from pg_class where relpersistence = 't'"
        ).fetchall()
        assert states.live.execute(show).fetchall() == settings
    assert seen == [(0,)]


trap(
    "create table t57 (id int primary key, a text)",
    "insert into t57 values (1, 'x')",
    damage="delete from t57",
)


def test_t57_two_merges_at_once(lab: Lab) -> None:
    """The second one waits, and gives up with exit 6."""
    with lab.world.server.connect(lab.world.name) as other, other.transaction():
        other.execute("select pg_advisory_xact_lock(%s, 1)", (0x70697472,))
        outcome = lab.fails("t57", lock_seconds=0.3)
    assert outcome.code == 6
    assert outcome.error is not None
    assert "another merge" in outcome.error.message


# --- downstream ----------------------------------------------------------------------------------

trap(
    "create table t58 (a int, b text)",
    "create unique index on t58 (a)",
    "alter table t58 alter a set not null",
    "insert into t58 values (1, 'x'), (2, 'y')",
    damage="update t58 set b = '' where a = 1",
)


def test_t58_t59_published_table_without_replica_identity(lab: Lab) -> None:
    """No row of it can be updated; with an identity it can, and subscribers are named."""
    lab.world.run("create publication t58_pub for table t58")
    assert list(lab.blocked("t58")) == ["check_failed"]
    lab.world.run("alter table t58 replica identity full")
    assert warned(lab.plan("t58"), "subscribers", "t58_pub")
    assert lab.back("t58") == {"public.t58": (['(1,"")'], ["(1,x)"])}


trap(
    "create table t60 (id int primary key)",
    "insert into t60 values (1)",
    "create view t60_v as select * from t60",
    "create materialized view t60_m as select * from t60_v",
    damage="delete from t60",
)


def test_t60_materialised_views_that_stay_stale_are_named(lab: Lab) -> None:
    """Also those that read the table through a view."""
    assert warned(lab.plan("t60"), "materialised view public.t60_m")
