"""Writers at full rate beside a merge: nothing of theirs is lost, and they wait only for the apply.

Two writers in processes of their own count what they commit: one column of rows that the merge
repairs in another column, a counter, and rows of their own. The merge sees those rows move between
its plan and its lock, nearly always, and has to plan once more under the lock.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sqlite.merge_world import MergeWorld, making_merge_worlds

ROWS = 20_000
_WRITER = """
import json, random, select, sqlite3, sys, time
path, number, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(number)
c = sqlite3.connect(path, isolation_level=None, timeout=30)
commits, longest, added = 0, 0.0, {}
print("ready", flush=True)
while commits % 16 or not select.select([sys.stdin], [], [], 0)[0]:
    one = rng.randrange(1, rows + 1)
    began = time.monotonic()
    c.execute("BEGIN IMMEDIATE")
    changed = c.execute("UPDATE orders SET cents = cents + 1 WHERE id = ?", (one,)).rowcount
    c.execute("UPDATE counters SET n = n + 1 WHERE id = ?", (number,))
    c.execute("INSERT INTO visits (who, n) VALUES (?, ?)", (number, commits))
    c.execute("COMMIT")
    longest = max(longest, time.monotonic() - began)
    commits += 1
    if changed:
        added[one] = added.get(one, 0) + 1
    time.sleep(0.0005)  # or the writers keep each other out for seconds: SQLite queues nobody
print(json.dumps({"commits": commits, "longest": longest, "added": added}))
"""


@pytest.fixture(params=["WAL", "DELETE"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MergeWorld]:
    with making_merge_worlds(tmp_path) as make:
        yield make(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, cents INT, status TEXT)",
            "CREATE TABLE counters (id INTEGER PRIMARY KEY, n INT)",
            "CREATE TABLE visits (who INT, n INT, PRIMARY KEY (who, n))",
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})"
            " INSERT INTO orders SELECT i, 0, 'open' FROM n",
            "INSERT INTO counters VALUES (1, 0), (2, 0)",
            mode=request.param,
        )


def started(world: MergeWorld, number: int) -> subprocess.Popen[str]:
    """Return a writer that has begun."""
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(world.path), str(number), str(ROWS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    return writer


def test_no_update_of_others_is_lost_and_they_wait_only_for_the_apply(world: MergeWorld) -> None:
    """Promise: column by column, row by row, the others' work is all there."""
    before = world.mark()
    world.run("BEGIN", "UPDATE orders SET status = 'bad' WHERE id % 2")
    world.run("DELETE FROM orders WHERE id % 4 = 0", "COMMIT")
    after = world.mark()
    writers = [started(world, number) for number in (1, 2)]
    time.sleep(0.3)
    done = world.merge(before, "orders", after=after, lock_seconds=20)
    time.sleep(0.2)
    told = [json.loads(writer.communicate("stop")[0]) for writer in writers]
    assert done.result is not None, done.error
    assert (done.result.inserted, done.result.updated) == (ROWS // 4, ROWS // 2)
    statuses = world.app.run("SELECT status, count(*) FROM orders GROUP BY status")
    assert statuses == [["open", ROWS]]
    added = sum((Counter(one["added"]) for one in told), Counter[str]())
    found = world.app.run("SELECT id, cents FROM orders WHERE cents <> 0")
    assert {str(key): cents for key, cents in found} == added
    commits = [one["commits"] for one in told]
    assert world.app.run("SELECT n FROM counters ORDER BY id") == [[n] for n in commits]
    assert world.app.run("SELECT count(*) FROM visits") == [[sum(commits)]]
    longest = max(one["longest"] for one in told)
    locked = done.result.locked_seconds
    print(f"{commits} commits; longest wait of a writer {longest:.3f} s, lock held {locked:.3f} s")
    if world.app.run("PRAGMA journal_mode") == [["wal"]]:
        # The rest is their waiting for each other, and a busy machine.
        assert longest < locked * 3 + 1.0
