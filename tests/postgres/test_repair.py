"""Repair on every version of PostgreSQL, and beside writers that never rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pitr.postgres.diff.candidates import Limits
from tests.postgres.repair_world import RepairWorld
from tools.postgres_servers import Server

BY_BUCKETS = Limits(whole_bytes=0, share_max=2)


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
