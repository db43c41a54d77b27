"""A column that was dropped, or emptied: its values come back by the key, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.postgres.diff.candidates import Limits
from tests.postgres.repair_world import RepairWorld
from tools.postgres_servers import Server

SETUP = (
    "CREATE TABLE t (id int PRIMARY KEY, a text, note text NOT NULL DEFAULT '-', x int)",
    "INSERT INTO t SELECT i, 'a' || i, 'n' || i, i FROM generate_series(1, 5) AS i",
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RepairWorld]:
    with Server(15) as server:
        world = RepairWorld(server, tmp_path, *SETUP)
        yield world
        world.close()


def test_t41_values_of_a_dropped_column_come_back_into_one_added_again(world: RepairWorld) -> None:
    """By the key, into the rows that have none; what was written since stays, and is told."""
    before = world.mark()
    world.run("ALTER TABLE t DROP note")
    after = world.mark()
    world.run("INSERT INTO t VALUES (6, 'a6', 6)", "UPDATE t SET x = 0 WHERE id = 1")
    world.run("DELETE FROM t WHERE id = 2")
    plan = world.plan(before, "t", after=after)
    (line,) = (one for one in plan.warnings if "ADD COLUMN" in one)
    assert not plan.rows_to_write
    statement = line.partition("(")[2].partition(";)")[0]
    assert statement == 'ALTER TABLE "public"."t" ADD COLUMN "note" text'
    world.run(statement, "UPDATE t SET note = 'new' WHERE id = 3")
    image = world.image()

    blocked = world.merge(before, "t", after=after)
    assert [(str(b.kind), b.keys) for b in blocked.plan.blocking] == [("touched_since", (("3",),))]
    done = world.merge(before, "t", after=after, on_conflict="skip")
    assert done.code == 0, done.error
    assert world.changed_since(image) == {
        "public.t": (
            ["(1,a1,0,)", "(4,a4,4,)", "(5,a5,5,)"],
            ["(1,a1,0,n1)", "(4,a4,4,n4)", "(5,a5,5,n5)"],
        )
    }
    assert any("dropped and added again since: note" in one for one in done.plan.warnings)
    assert world.undo(done.merge).code == 0
    assert not world.changed_since(image)


def test_t41_numbers_of_such_a_column_are_compared_by_checksums_as_well(
    world: RepairWorld,
) -> None:
    """The state after the damage lacks the column that both others have."""
    world.run("CREATE TABLE u (id int PRIMARY KEY, n numeric)",
              "INSERT INTO u SELECT i, i + 0.50 FROM generate_series(1, 400) AS i")  # fmt: skip
    before, image = world.mark(), world.image()
    world.run("DELETE FROM u WHERE id <= 3", "ALTER TABLE u DROP n")
    after = world.mark()
    world.run("ALTER TABLE u ADD n numeric")

    done = world.merge(before, "u", after=after, limits=Limits(whole_bytes=0))
    assert done.code == 0, done.error
    assert not world.changed_since(image)


def test_only_chosen_columns_are_set_back(world: RepairWorld) -> None:
    """Without the state after the damage it takes --update, and touches no other column."""
    before = world.mark()
    world.run("ALTER TABLE t DROP note", "ALTER TABLE t ADD note text", "UPDATE t SET x = 0")
    image = world.image()
    plan = world.plan(before, "t", columns=("note",))
    assert {str(name): count for name, count in plan.counts.items()} == {"differs": 5}
    done = world.merge(before, "t", columns=("note",), update=True)
    assert done.code == 0, done.error
    gone, come = world.changed_since(image)["public.t"]
    assert gone == [f"({i},a{i},0,)" for i in range(1, 6)]
    assert come == [f"({i},a{i},0,n{i})" for i in range(1, 6)]
