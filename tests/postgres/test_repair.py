"""Repair on every version of PostgreSQL, and beside writers that never rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pitr.postgres.diff.candidates import Limits
from pitr.recovery.merges import list_merges
from pitr.vocabulary.diff_row import Row
from pitr.vocabulary.plan import MergeStep
from tests.postgres.repair_world import Outcome, RepairWorld
from tools.postgres_servers import Server

BY_BUCKETS = Limits(whole_bytes=0, share_max=2)
TOUCHING = (
    "create function touch() returns trigger language plpgsql as"
    " 'begin new.at := clock_timestamp(); return new; end'",
    "create trigger touch before insert or update on t for each row execute function touch()",
)
# Tables t whose column `at` a trigger sets in some rows only, not in row 15.
SOMETIMES = {
    "branch": (
        "create table t (id int primary key, v int, at text)",
        "create function touch() returns trigger language plpgsql as"
        " $$ begin if new.v < 0 then new.at := 'touched'; end if; return new; end $$",
        "create trigger touch before update on t for each row execute function touch()",
    ),
    "condition": (
        "create table t (id int primary key, v int, at text)",
        "create function touch() returns trigger language plpgsql as"
        " $$ begin new.at := 'touched'; return new; end $$",
        "create trigger touch before update on t for each row when (new.v < 0)"
        " execute function touch()",
    ),
    "partition": (
        "create table t (id int primary key, v int, at text) partition by range (id)",
        "create table low partition of t for values from (0) to (10)",
        "create table high partition of t for values from (10) to (20)",
        "create function touch() returns trigger language plpgsql as"
        " $$ begin new.at := 'touched'; return new; end $$",
        "create trigger touch before update on low for each row execute function touch()",
    ),
}


@pytest.fixture
def world(
    shared_servers: Callable[[int], Server], major: int, tmp_path: Path
) -> Iterator[RepairWorld]:
    """A world on this worker's server of a version."""
    made = RepairWorld(shared_servers(major), tmp_path)
    yield made
    made.close()


@pytest.mark.every_major
def test_repair_on_every_version(world: RepairWorld) -> None:
    """With a key and without one, children and all, by checksums or whole; undo leads back."""
    world.run(
        "create table t (id int primary key, a text, b numeric, c jsonb)",
        "insert into t select i, 'x' || i, i, '{}' from generate_series(1, 20) i",
        "create table nk (a int, b float)",
        "insert into nk select i % 3, 0.1 from generate_series(1, 10) i",
        "create table kid (id int generated always as identity, t int references t"
        " on delete cascade)",
        "insert into kid (t) select i from generate_series(1, 20) i",
    )
    before = world.mark()
    world.run(
        "delete from t where id < 4",
        "update t set a = 'bad' where id between 4 and 8",
        "insert into t values (100, 'bogus')",
        "delete from nk where a = 1",
    )
    after = world.mark()
    world.run("update t set b = 77 where id = 5", "insert into nk values (1, 0.1)")
    image = world.image()
    for limits in (Limits(), BY_BUCKETS):
        done = world.merge(before, "t", "nk", "kid", after=after, delete_extra=True, limits=limits)
        assert done.code == 0, done.error
        gone, come = world.changed_since(image)["public.t"]
        assert "(5,x5,77,{})" in come
        assert "(100,bogus,,)" in gone
        assert world.run("select count(*) from t") == [(20,)]
        assert world.run("select count(*) from kid") == [(20,)]
        assert world.run("select count(*) from nk where a = 1") == [(4,)]
        assert world.undo(done.merge).code == 0
        assert not world.changed_since(image)


@pytest.mark.parametrize("limits", [Limits(), BY_BUCKETS], ids=["whole", "buckets"])
def test_rows_without_a_key_that_were_changed_are_set_right(
    world: RepairWorld, limits: Limits
) -> None:
    """What became of them goes, copy by copy; rows put in since stay, alike or not."""
    world.run(
        "create table nk (a int, b numeric)",
        "insert into nk select i, i from generate_series(1, 100) i",
        "insert into nk values (7, 7), (7, 7)",
    )
    before, image = world.mark(), world.image()
    world.run("update nk set b = 0 where a <= 10", "insert into nk values (1000, 1), (1000, 1)")
    after = world.mark()
    world.run("insert into nk values (2000, 2), (5, 0)")
    world.run("delete from nk where ctid = (select ctid from nk where a = 1000 limit 1)")
    damaged = world.image()

    diff = world.diff(before, "nk", after=after, limits=limits)
    bogus = [row for row in diff.rows if str(row.verdict.row_class) == "bogus_insert"]
    assert len(bogus) == 13
    assert {(row.before, row.after == row.live) for row in bogus} == {(None, True)}

    done = world.merge(before, "nk", after=after, delete_extra=True, limits=limits)
    assert done.code == 0, done.error
    assert world.changed_since(image) == {"public.nk": ([], ["(2000,2)", "(5,0)"])}
    assert world.undo(done.merge).code == 0
    assert not world.changed_since(damaged)

    kept = world.merge(before, "nk", after=after, limits=limits)
    assert kept.result is not None
    assert (kept.result.inserted, kept.result.deleted) == (12, 0)


def test_trigger_that_sets_a_column_does_not_make_the_cost_square(world: RepairWorld) -> None:
    """Many rows that differ from what was put in: compared each with each they would take hours."""
    world.run(
        "create table t (id int primary key, v int, at timestamptz)",
        "insert into t select i, i, '2026-01-01' from generate_series(1, 60000) i",
        *TOUCHING,
    )
    before = world.mark()
    world.run("delete from t where id <= 30000", "update t set v = 0")
    after = world.mark()
    done = world.merge(before, "t", after=after)
    assert done.code == 0, done.error
    assert done.result is not None
    assert done.result.warnings == (
        "public.t: triggers have set at in 30000 rows that were written",
    ) * 2  # fmt: skip
    assert world.run("select count(*) from t where v = id") == [(60000,)]


def test_time_of_the_last_change_is_no_later_work(world: RepairWorld) -> None:
    """A trigger sets it whenever a row is written: damage beside it is mended, and that is that."""
    world.run(
        "create table t (id int primary key, v int, q int, at timestamptz)",
        "insert into t select i, i, 0, '2026-01-01' from generate_series(1, 20) i",
        *TOUCHING,
    )
    before = world.mark()
    world.run("update t set v = 0 where id <= 10", "delete from t where id > 15")
    after = world.mark()
    world.run("update t set q = 7 where id <= 3", "update t set v = 99 where id = 4")

    blocked = world.merge(before, "t", after=after)
    assert _conflicts(blocked) == [("touched_since", (("4",),))]
    done = world.merge(before, "t", after=after, on_conflict="skip")
    assert done.code == 0, done.error
    assert world.run("select count(*) from t where v = id") == [(19,)]
    assert world.run("select id, v, q from t where q > 0 or v <> id order by id") == [
        (1, 1, 7), (2, 2, 7), (3, 3, 7), (4, 99, 0)
    ]  # fmt: skip

    again = world.merge(before, "t", after=after, on_conflict="skip")
    assert again.result is not None
    assert again.result.merge is None
    assert world.undo(done.merge).code == 0
    assert world.run("select count(*) filter (where v = 0), count(*) from t") == [(9, 15)]


@pytest.mark.parametrize("how", list(SOMETIMES))
def test_column_that_a_trigger_sets_sometimes_may_be_later_work(
    world: RepairWorld, how: str
) -> None:
    """Somebody may have written it: a conflict, as of any column."""
    world.run(*SOMETIMES[how], "insert into t select i, i, 'then' from generate_series(1, 19) i")
    before = world.mark()
    world.run("update t set v = 0, at = 'bad'")
    after = world.mark()
    world.run("update t set at = 'mine' where id = 15")
    assert _conflicts(world.merge(before, "t", after=after)) == [("touched_since", (("15",),))]


def _conflicts(outcome: Outcome) -> list[tuple[str, tuple[Row, ...]]]:
    return [(str(one.kind), one.keys) for one in outcome.plan.blocking]


def test_interruption_behind_commit_names_the_merge(world: RepairWorld) -> None:
    """The rows are there, so the user is told what may have been done, and by what it is undone."""
    world.run("create table t (id int primary key)", "insert into t values (1), (2)")
    before = world.mark()
    world.run("delete from t")

    def interrupted(step: MergeStep) -> None:
        if step is MergeStep.COMMITTED:
            raise KeyboardInterrupt

    done = world.merge(before, "t", on_step=interrupted)
    assert done.code == 130
    assert done.error is not None
    (kept,) = list_merges(world.state)
    assert kept.record.id in str(done.error.detail)
    assert f"pitr undo {kept.record.id} --yes" in str(done.error.hint)
    assert world.run("select count(*) from t") == [(2,)]
    assert world.undo(kept.record.id).code == 0
    assert world.run("select count(*) from t") == [(0,)]


def test_temporal_keys_and_virtual_columns(
    shared_servers: Callable[[int], Server], tmp_path: Path
) -> None:
    """What PostgreSQL 18 brought: a period in the key is no plain equality."""
    world = RepairWorld(shared_servers(18), tmp_path)
    try:
        world.run(
            "create table v (id int primary key, a int, g int generated always as (a * 2) virtual)",
            "create table p (room int4range, during int4range, who text,"
            " primary key (room, during without overlaps))",
            "insert into v values (1, 5), (2, 6)",
            "insert into p values ('[1,2)', '[0,10)', 'x'), ('[2,3)', '[0,10)', 'y')",
        )
        before = world.mark()
        world.run("delete from v where id = 1", "delete from p")
        after = world.mark()
        world.run("insert into p values ('[2,3)', '[5,7)', 'z')")
        image = world.image()
        done = world.merge(before, "v", "p", after=after, on_conflict="skip")
        assert done.code == 0, done.error
        assert world.changed_since(image) == {
            "public.v": ([], ["(1,5,10)"]),
            "public.p": ([], ['("[1,2)","[0,10)",x)']),
        }
        assert {str(one.kind) for one in done.plan.blockers} == {"unique_taken"}
    finally:
        world.close()


def test_writers_at_full_rate_lose_nothing(world: RepairWorld) -> None:
    """Rows of the plan and others, their children, new rows: each write that committed is there."""
    world.run(
        "create table t (id int primary key, a text, n int not null default 0)",
        "create table kid (id bigserial primary key, t int not null references t)",
        "insert into t select i, 'x' from generate_series(1, 3000) i",
    )
    before = world.mark()
    world.run("update t set a = '' where id % 2 = 0", "delete from t where id % 10 = 5")
    after = world.mark()
    stop = threading.Event()
    written = [0, 0]

    def write(number: int) -> None:
        with world.server.connect(world.name) as other:
            while not stop.is_set():
                row = (written[number] * 7 + number) % 300 * 10 + 2
                with other.transaction():
                    other.execute("update t set n = n + 1 where id = %s", (row,))
                    other.execute("insert into kid (t) values (%s)", (row,))
                written[number] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        _wait_for(written, [20, 20])
        done = world.merge(before, "t", after=after, lock_seconds=30.0)
        _wait_for(written, [count + 20 for count in written])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert done.code == 0, done.error and done.error.detail
    assert world.run("select count(*), count(*) filter (where a = 'x') from t") == [(3000, 3000)]
    assert world.run("select sum(n)::int from t") == [(sum(written),)]
    assert world.run("select count(*) from kid") == [(sum(written),)]


def _wait_for(written: list[int], goal: list[int]) -> None:
    """Wait until writers have written so much, which they do as long as nothing stops them."""
    deadline = time.monotonic() + 60.0
    while any(count < least for count, least in zip(written, goal, strict=True)):
        assert time.monotonic() < deadline, "a writer stands still"
        time.sleep(0.005)
