"""Tables that are gone are made anew, as they were, in the transaction that brings the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.postgres.repair_world import RepairWorld
from tools.postgres_servers import Server

SETUP = (
    "CREATE ROLE clerk",
    "CREATE SCHEMA shop",
    "CREATE TYPE shop.mood AS ENUM ('good', 'so so')",
    "CREATE DOMAIN shop.cents AS bigint CHECK (VALUE >= 0)",
    "CREATE TABLE shop.customers (id int PRIMARY KEY, name text)",
    "CREATE TABLE shop.orders (id serial PRIMARY KEY, customer int NOT NULL"
    " REFERENCES shop.customers, total shop.cents DEFAULT 7, feeling shop.mood,"
    " twice bigint GENERATED ALWAYS AS (customer * 2) STORED,"
    " CONSTRAINT positive CHECK (id > 0), UNIQUE (customer, total))",
    "CREATE INDEX big ON shop.orders ((total + customer)) WHERE total > 5",
    "COMMENT ON TABLE shop.orders IS 'what;\n--\n-- was sold'",
    "COMMENT ON COLUMN shop.orders.total IS 'in cents'",
    "GRANT SELECT, INSERT (customer) ON shop.orders TO clerk",
    'CREATE TABLE shop."Odd ""Lines"" Name" (o int REFERENCES shop.orders ON DELETE CASCADE,'
    " n int GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (o, n))",
    "CREATE TABLE shop.notes (id int PRIMARY KEY, o int REFERENCES shop.orders ON DELETE SET NULL)",
    "CREATE FUNCTION shop.stamp() RETURNS trigger LANGUAGE plpgsql AS"
    " $$begin new.total := 0; return new; end$$",
    "CREATE TRIGGER zero BEFORE INSERT ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.stamp()",
    "INSERT INTO shop.customers SELECT i, 'c' || i FROM generate_series(1, 9) AS i",
    "ALTER TABLE shop.orders DISABLE TRIGGER zero",
    "INSERT INTO shop.orders (customer, total, feeling) SELECT 1 + i % 9, i, 'good'"
    " FROM generate_series(1, 50) AS i",
    "ALTER TABLE shop.orders ENABLE TRIGGER zero",
    'INSERT INTO shop."Odd ""Lines"" Name" (o) SELECT 1 + i % 50 FROM generate_series(1, 99) AS i',
    "INSERT INTO shop.notes SELECT i, i FROM generate_series(1, 20) AS i",
)
TABLES = ("shop.orders", 'shop.Odd "Lines" Name')
DEFINITIONS = """
SELECT c.relname, c.relkind, obj_description(c.oid, 'pg_class'), c.relacl::text,
  c.relowner::regrole,
  array(SELECT (a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
      a.attgenerated, pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum))::text
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE a.attrelid = c.oid AND a.attnum > 0 ORDER BY a.attnum),
  array(SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k WHERE k.conrelid = c.oid
    ORDER BY conname),
  array(SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i WHERE i.indrelid = c.oid
    ORDER BY 1),
  array(SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t
    WHERE t.tgrelid = c.oid AND NOT t.tgisinternal)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'shop' AND c.relkind IN ('r', 'p', 'S') ORDER BY c.relname
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(15) as server:
        yield server


@pytest.fixture
def world(server: Server, tmp_path: Path) -> Iterator[RepairWorld]:
    world = RepairWorld(server, tmp_path)
    yield world
    world.close()
    server.query("DROP ROLE IF EXISTS clerk")


def test_dropped_tables_come_back_as_they_were(world: RepairWorld) -> None:
    """Constraints, indexes, defaults, identity, comments, grants, sequences, types, triggers."""
    world.run(*SETUP)
    was, definitions = world.image(), world.run(DEFINITIONS)
    before = world.mark()
    world.run(
        "DROP TABLE shop.orders CASCADE",
        'DROP TABLE shop."Odd ""Lines"" Name"',
        "DROP TYPE shop.mood",
        "DROP DOMAIN shop.cents",
    )
    damaged = world.image()
    blocked = world.merge(before, *TABLES)
    assert blocked.code == 1
    assert "--create-missing" in blocked.plan.blocking[0].detail
    plan = world.plan(before, *TABLES, create_missing=True)
    assert not plan.blocking
    assert any("CREATE TYPE shop.mood" in one for one in plan.definitions)
    assert plan.script
    assert "CREATE TABLE shop.orders" in plan.script
    # The foreign key of a table that stayed went with the parent: that table is not touched.
    assert any('ADD CONSTRAINT "notes_o_fkey"' in one for one in plan.warnings)
    assert not world.changed_since(damaged)

    done = world.merge(before, *TABLES, create_missing=True)
    assert done.code == 0, (done.error and done.error.detail, done.result)
    assert world.image() == was
    foreign = "ALTER TABLE shop.notes ADD CONSTRAINT notes_o_fkey FOREIGN KEY (o) REFERENCES"
    world.run(f"{foreign} shop.orders ON DELETE SET NULL")
    assert world.run(DEFINITIONS) == definitions
    (new,) = world.run("INSERT INTO shop.orders (customer) VALUES (1) RETURNING id, total")
    assert new == (51, 0)
    (line,) = world.run('INSERT INTO shop."Odd ""Lines"" Name" (o) VALUES (51) RETURNING n')
    assert line == (100,)
    world.run("DELETE FROM shop.orders WHERE id = 51")

    # Something depends on the table now: it stays, without the rows that the merge put in.
    world.run("UPDATE shop.notes SET o = NULL")
    undone = world.undo(done.merge)
    assert undone.code == 0, undone.error
    assert undone.result is not None
    assert any("it stays" in one for one in undone.result.warnings)
    assert not world.run("SELECT FROM shop.orders")


def test_undo_drops_what_the_merge_made(world: RepairWorld) -> None:
    """Tables, types and the schema, where nothing was done to them since."""
    world.run(*SETUP)
    before = world.mark()
    world.run("DROP SCHEMA shop CASCADE")
    damaged = world.image()
    definitions = world.run(DEFINITIONS)
    tables = ("shop.customers", *TABLES)
    done = world.merge(before, *tables, create_missing=True)
    assert done.code == 0, (done.error and done.error.detail, done.result)
    # The trigger's function is gone with the schema: the rest comes back without it.
    assert any("shop.stamp" in one for one in done.plan.warnings)
    assert [row[0] for row in world.run("SELECT count(*) FROM shop.orders")] == [50]
    undone = world.undo(done.merge)
    assert undone.code == 0, undone.error
    assert world.run(DEFINITIONS) == definitions == []
    assert not world.changed_since(damaged)
    assert not world.run("SELECT FROM pg_namespace WHERE nspname = 'shop'")

    # Work that was done since keeps a table.
    again = world.merge(before, *tables, create_missing=True)
    world.run("INSERT INTO shop.customers VALUES (77, 'new')")
    kept = world.undo(again.merge)
    assert kept.code == 0, kept.error
    assert kept.result is not None
    assert any("there are rows in it" in one for one in kept.result.warnings)
    assert world.image() == {"shop.customers": {("(77,new)",): 1}}


def test_what_cannot_be_made_is_told_before_anything_is_written(world: RepairWorld) -> None:
    """A view took the name, or the parent's rows are gone: blocked, and nothing is changed."""
    world.run(*SETUP)
    before = world.mark()
    world.run("DROP TABLE shop.orders CASCADE", "CREATE SEQUENCE shop.orders")
    done = world.merge(before, "shop.orders", create_missing=True)
    assert done.code == 1
    assert "already exists" in done.plan.blocking[0].detail
    world.run("DROP SEQUENCE shop.orders", "DELETE FROM shop.customers WHERE id = 3")
    done = world.merge(before, "shop.orders", create_missing=True)
    assert done.code == 1
    assert {str(one.kind) for one in done.plan.blocking} == {"parent_missing"}
    kin = world.merge(before, "shop.orders", create_missing=True, with_parents=True)
    assert kin.code == 0, (kin.error and kin.error.detail, kin.result)
    assert world.run("SELECT name FROM shop.customers WHERE id = 3") == [("c3",)]


def test_t26_dropped_partition_is_made_and_attached(world: RepairWorld) -> None:
    """Its own index names stay, and a row goes where it was."""
    world.run(
        "CREATE TABLE events (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
        "CREATE INDEX by_day ON events (day)",
        *(
            f"CREATE TABLE events_{y} PARTITION OF events FOR VALUES FROM ('{y}-01-01')"
            f" TO ('{y + 1}-01-01')"
            for y in (2023, 2024)
        ),
        "INSERT INTO events SELECT i, '2023-06-01'::date + i FROM generate_series(1, 400) AS i",
    )
    was = world.image()
    indexes = "SELECT indexrelid::regclass::text, indisvalid FROM pg_index i JOIN pg_class c ON"
    indexes += " c.oid = indrelid WHERE c.relname LIKE 'events%' ORDER BY 1"
    valid = world.run(indexes)
    before = world.mark()
    world.run("DROP TABLE events_2023", "INSERT INTO events VALUES (1000, '2024-05-05')")
    image = world.image()
    assert world.merge(before, "events").code == 1
    done = world.merge(before, "events", create_missing=True)
    assert done.code == 0, (done.error and done.error.detail, done.result)
    now = world.image()
    assert now["public.events"] - was["public.events"] == {("(1000,2024-05-05)",): 1}
    assert not was["public.events"] - now["public.events"]
    assert world.run(indexes) == valid
    assert world.undo(done.merge).code == 0
    assert not world.changed_since(image)
    assert not world.run("SELECT FROM pg_class WHERE relname = 'events_2023'")

    world.run("DROP TABLE events")
    done = world.merge(before, "events", create_missing=True)
    assert done.code == 0, (done.error and done.error.detail, done.result)
    assert world.image() == was
    assert world.run(indexes) == valid


@pytest.mark.every_major
def test_creation_on_the_oldest_and_the_newest_version(
    shared_servers: Callable[[int], Server], major: int, tmp_path: Path
) -> None:
    """pg_dump says it otherwise in each, as NOT NULL with a name since 18."""
    world = RepairWorld(shared_servers(major), tmp_path)
    try:
        world.run(
            "CREATE SCHEMA shop",
            "CREATE TYPE shop.mood AS ENUM ('good', 'so so')",
            "CREATE TABLE shop.makers (id int PRIMARY KEY)",
            "CREATE TABLE shop.goods (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, m shop.mood,"
            " maker int NOT NULL REFERENCES shop.makers, n serial NOT NULL, t text DEFAULT 'x',"
            " twice int GENERATED ALWAYS AS (maker * 2) STORED, CHECK (maker > 0))",
            "CREATE UNIQUE INDEX ON shop.goods (t, id) WHERE n > 0",
            "INSERT INTO shop.makers VALUES (1), (2)",
            "INSERT INTO shop.goods (m, maker) SELECT 'good', 1 FROM generate_series(1, 9)",
            "CREATE TABLE shop.days (d date, i int, PRIMARY KEY (d, i)) PARTITION BY RANGE (d)",
            "CREATE TABLE shop.may PARTITION OF shop.days FOR VALUES FROM ('2026-05-01') TO"
            " ('2026-06-01')",
            "INSERT INTO shop.days SELECT '2026-05-05', i FROM generate_series(1, 5) i",
        )
        was, rows = world.run(DEFINITIONS), world.image()
        before = world.mark()
        world.run("DROP TABLE shop.goods, shop.may")
        image = world.image()
        done = world.merge(before, "shop.goods", "shop.days", create_missing=True)
        assert done.code == 0, (done.error and done.error.detail, done.result)
        assert world.run(DEFINITIONS) == was
        assert not world.changed_since(rows)
        assert world.undo(done.merge).code == 0
        assert not world.changed_since(image)
    finally:
        world.close()
