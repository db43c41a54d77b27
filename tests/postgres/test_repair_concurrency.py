"""Writers at full rate beside a merge: nothing of theirs is lost; only writers of its rows wait.

Writers in processes of their own count what they commit. One writes rows that the merge repairs in
another column: it waits while they are locked. The others write rows of the same table that nothing
happened to, a counter, and rows that are new: no lock of the merge may ever be in their way.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.postgres.repair_world import RepairWorld
from tools.postgres_servers import Server

ROWS = 40_000
_WRITER = """
import json, random, select, sys, time
import psycopg
conninfo, number, low, high, lock_timeout = sys.argv[1:]
number, rng = int(number), random.Random(int(number))
c = psycopg.connect(conninfo, autocommit=True)
c.execute("SET lock_timeout = " + lock_timeout)
commits, longest, added, refused = 0, 0.0, {}, 0
print("ready", flush=True)
while commits < 50 or not select.select([sys.stdin], [], [], 0)[0]:
    one = rng.randrange(int(low), int(high))
    began = time.monotonic()
    try:
        with c.transaction():
            update = "UPDATE orders SET cents = cents + 1 WHERE id = %s"
            changed = c.execute(update, (one,)).rowcount
            c.execute("UPDATE counters SET n = n + 1 WHERE id = %s", (number,))
            visit = "INSERT INTO visits VALUES (%s, %s, %s)"
            c.execute(visit, (number, commits, one if changed else None))
            order = "INSERT INTO orders VALUES (%s, 0, 'new', %s)"
            c.execute(order, (1_000_000 * number + commits, one))
    except psycopg.errors.LockNotAvailable:
        refused += 1
        continue
    longest = max(longest, time.monotonic() - began)
    commits += 1
    if changed:
        added[one] = added.get(one, 0) + 1
print(json.dumps({"commits": commits, "longest": longest, "added": added, "refused": refused}))
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RepairWorld]:
    """A shop whose orders are damaged from the first to the middle one."""
    with Server(15) as server:
        made = RepairWorld(
            server,
            tmp_path,
            "create table orders (id int primary key, cents int, status text, friend int)",
            "create index on orders (friend)",
            "create table counters (id int primary key, n int)",
            "create table visits (who int, n int, about int references orders,"
            " primary key (who, n))",
            f"insert into orders select i, 0, 'open' from generate_series(1, {ROWS}) i",
            "insert into counters values (1, 0), (2, 0), (3, 0)",
        )
        try:
            yield made
        finally:
            made.close()


class Writers:
    """Writers in processes of their own, by number."""

    def __init__(self, world: RepairWorld) -> None:
        self._world = world
        self._running: list[subprocess.Popen[str]] = []

    def start(self, number: int, low: int, high: int, lock_timeout: str) -> None:
        """Start one that writes orders from `low` to before `high`; return when it writes."""
        conninfo = self._world.server.conninfo(self._world.name)
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, conninfo, str(number), str(low), str(high),
             f"'{lock_timeout}'"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._running.append(writer)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"

    def stop(self) -> list[dict[str, Any]]:
        """Return what each has done, in the order of their starts."""
        return [json.loads(writer.communicate("stop")[0]) for writer in self._running]


def test_no_work_of_others_is_lost_and_only_writers_of_the_rows_wait(world: RepairWorld) -> None:
    """Promise: row by row and column by column; the longest wait of each is told."""
    half = ROWS // 2
    before = world.mark()
    world.run(f"update orders set status = 'bad' where id <= {half} and id % 2 = 0")
    world.run(f"delete from orders where id <= {half} and id % 4 = 1")
    after = world.mark()
    writers = Writers(world)
    writers.start(1, 1, half + 1, "0")  # waits as long as it takes
    # No other writer holds these rows: what keeps one waiting so long can only be the merge.
    writers.start(2, half + 1, half + ROWS // 4 + 1, "400ms")
    writers.start(3, half + ROWS // 4 + 1, ROWS + 1, "400ms")
    time.sleep(0.3)
    done = world.merge(before, "orders", after=after, lock_seconds=30.0)
    time.sleep(0.2)
    told = writers.stop()

    assert done.result is not None, done.error and done.error.detail
    assert (done.result.inserted, done.result.updated) == (half // 4, half // 2)
    statuses = world.run(f"select status, count(*) from orders where id <= {ROWS} group by 1")
    assert statuses == [("open", ROWS)]
    added = sum((Counter(one["added"]) for one in told), Counter[str]())
    found = world.run("select id::text, cents from orders where cents <> 0")
    assert dict(found) == added
    commits = [one["commits"] for one in told]
    assert [n for (n,) in world.run("select n from counters order by id")] == commits
    assert world.run("select count(*) from visits") == [(sum(commits),)]
    assert world.run(f"select count(*) from orders where id > {ROWS}") == [(sum(commits),)]
    assert [one["refused"] for one in told] == [0, 0, 0]
    waits = [f"{one['longest']:.3f} s" for one in told]
    print(f"{commits} commits, longest waits {waits}, locked {done.result.locked_seconds:.3f} s")
    # The rest is a busy machine, and the merge beginning anew when a row moved under it.
    assert told[0]["longest"] < done.result.locked_seconds * 5 + 10.0
