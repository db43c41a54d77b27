"""What a plan says that it would cost, beside what it did cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pitr.vocabulary.plan import MergeStep
from tests.postgres.repair_world import RepairWorld
from tools.postgres_servers import Server

SIZES = "SELECT pg_table_size('orders') + pg_indexes_size('orders')"
LOCKS = """
SELECT c.relname, replace(upper(regexp_replace(l.mode, '(.)([A-Z])', '\\1 \\2', 'g')), ' LOCK', '')
FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_stat_activity a ON a.pid = l.pid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.pid <> pg_backend_pid()
"""


@pytest.fixture
def world(shared_servers: Callable[[int], Server], tmp_path: Path) -> Iterator[RepairWorld]:
    made = RepairWorld(
        shared_servers(15),
        tmp_path,
        "CREATE TABLE customers (id int PRIMARY KEY, name text)",
        "CREATE TABLE orders (id bigint PRIMARY KEY, customer int REFERENCES customers, note text)",
        "CREATE INDEX ON orders (customer, note)",
        "CREATE TABLE lines (o bigint REFERENCES orders, n int, PRIMARY KEY (o, n))",
        "INSERT INTO customers SELECT i, 'c' || i FROM generate_series(1, 50) AS i",
        "INSERT INTO orders SELECT i, 1 + i % 50, repeat(md5(i::text), 2)"
        " FROM generate_series(1, 8000) AS i",
    )
    yield made
    made.close()


def test_estimate_is_near_what_the_merge_costs(world: RepairWorld) -> None:
    """Within a factor of two: bytes of table and indexes, and WAL; every lock is named."""
    before = world.mark()
    world.run(
        "TRUNCATE orders CASCADE", "INSERT INTO orders SELECT 9000 + i FROM generate_series(1, 9) i"
    )
    found = world.plan(before, "orders").estimate
    assert found is not None
    assert found.rows == 8000
    world.run("CHECKPOINT")
    seen: dict[str, set[str]] = {}

    def look(step: MergeStep) -> None:
        if step is MergeStep.VERIFIED:
            for name, mode in world.server.query(LOCKS, world.name):
                seen.setdefault(f"public.{name}", set()).add(mode)

    (size, at), *_ = world.run(f"SELECT ({SIZES}), pg_current_wal_insert_lsn()")
    assert world.merge(before, "orders", on_step=look).code == 0
    ((written, logged),) = world.run(
        f"SELECT ({SIZES}) - {size}, pg_current_wal_insert_lsn() - '{at}'"
    )
    assert written / 2 < found.bytes < written * 2
    assert found.log_bytes / 2 < logged < found.log_bytes_max * 2
    said = {one.table: one for one in found.locks}
    assert {name: "ROW EXCLUSIVE" in modes for name, modes in seen.items() if name in said} == {
        "public.orders": True, "public.customers": False,
    }  # fmt: skip
    assert "ROW SHARE" in seen["public.customers"]
    assert (said["public.customers"].mode, said["public.customers"].rows) == ("ROW SHARE", 8000)


def test_rows_that_are_locked_are_counted(world: RepairWorld) -> None:
    """Those of updates and deletes, as strongly as they are; children are looked at for deletes."""
    before = world.mark()
    world.run(
        "UPDATE orders SET note = 'x' WHERE id <= 30", "INSERT INTO orders VALUES (9001, 1, '')"
    )
    after = world.mark()

    def locks(**how: Any) -> dict[str | None, tuple[str, int | None, str | None]]:
        estimate = world.plan(before, "orders", after=after, **how).estimate
        assert estimate is not None
        return {one.table: (one.mode, one.rows, one.row_mode) for one in estimate.locks}

    assert locks() == {
        "public.orders": ("ROW EXCLUSIVE", 30, "FOR NO KEY UPDATE"),
        "public.customers": ("ROW SHARE", 30, "FOR KEY SHARE"),
    }
    assert locks(delete_extra=True) == {
        "public.orders": ("ROW EXCLUSIVE", 31, "FOR UPDATE"),
        "public.customers": ("ROW SHARE", 30, "FOR KEY SHARE"),
        "public.lines": ("ROW SHARE", None, None),
    }
    script = world.plan(before, "orders", after=after).script
    assert script is not None
    assert "-- locks public.orders: ROW EXCLUSIVE, 30 rows FOR NO KEY UPDATE\n" in script
