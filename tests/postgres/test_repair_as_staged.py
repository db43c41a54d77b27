"""Rows that go in exactly as they are staged, without being rehearsed: when that is, and when not.

Goal: the short way is taken where it saves its pass, and whatever is against a row is still found
before anything is written. Method: tables that differ in one thing each, the same rows lost of all.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pitr.postgres.diff.states import comparing
from pitr.postgres.merge.kin import Classifier
from pitr.postgres.merge.plan import make_plan
from tests.postgres.repair_world import RepairWorld
from tools.postgres_servers import Server

# Each with what is done to it after the damage.
AS_STAGED = {
    "plain": ("id int primary key, v text", ""),
    "kept": ("id int primary key, v numeric(9, 3) check (v > 0) not null", ""),
    "keyed": ("id numeric, v interval, w varchar(9), primary key (id, w)", ""),
    "folded": ("id int, v text collate ci, primary key (id, v)", ""),
    "unique_": ("id int primary key, v text collate ci unique", ""),
}
REHEARSED = {
    "oid_": ("id int primary key, v text, check (tableoid > 0)", ""),
    "added": ("id int primary key, v text", "alter table added add w int default 5"),
    "made": ("id int primary key, v text, g text generated always as (v || 'x') stored", ""),
    "typed": ("id int primary key, v varchar(20)", "alter table typed alter v type varchar(30)"),
    "changed": ("id int primary key, v text", "update changed set v = 'y' where id = 5"),
}
REFUSED = {
    "checked": (
        "id int primary key, v text",
        "alter table checked add check (v <> '2') not valid",
    ),
    "filled": (
        "id int primary key, v text, w int",
        "update filled set w = 1; alter table filled alter w set not null",
    ),
}
TABLES = AS_STAGED | REHEARSED | REFUSED


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RepairWorld, str]]:
    """Yield a database whose tables have lost rows 1 to 3 of 5, and its copy from before."""
    with Server(15) as server:
        world = RepairWorld(server, tmp_path_factory.mktemp("state"))
        try:
            world.run(
                "create collation ci (provider = icu, locale = 'und-u-ks-level2',"
                " deterministic = false)"
            )
            for name, (columns, _) in TABLES.items():
                world.run(f"create table {name} ({columns})")
                named = "id, v, w" if name == "keyed" else "id, v"
                value = "i * interval '90 min', i::text" if name == "keyed" else "i::text"
                value = "i + 0.50" if name == "kept" else value
                world.run(f"insert into {name} ({named}) select i, {value}"
                          " from generate_series(1, 5) i")  # fmt: skip
            before = world.mark()
            for name, (_, later) in TABLES.items():
                world.run(f"delete from {name} where id <= 3", *([later] if later else []))
            yield world, before
        finally:
            world.close()


def is_as_staged(world: RepairWorld, before: str, name: str) -> bool:
    """Return whether a plan of the table rehearses none of its rows."""
    with world.states(before, name) as states, comparing(states):
        request = world._request("r")
        classified = Classifier(request.options).classify(states)
        (table,) = make_plan(states, classified, request).tables
        return table.is_as_staged


@pytest.mark.parametrize("name", [*AS_STAGED, *REHEARSED])
def test_rows_come_back_and_go_again_either_way(lab: tuple[RepairWorld, str], name: str) -> None:
    """Both ways bring the same rows back, and the record of what was read back takes them back."""
    world, before = lab
    assert is_as_staged(world, before, name) == (name in AS_STAGED)
    left = world.run(f"select {name}::text from {name} order by 1")

    merged = world.merge(before, name)
    assert merged.code == 0, merged
    assert world.run(f"select id::int from {name} order by 1") == [(i,) for i in range(1, 6)]

    undone = world.undo(merged.merge)
    assert undone.code == 0, undone
    assert world.run(f"select {name}::text from {name} order by 1") == left


@pytest.mark.parametrize("name", list(REFUSED))
def test_row_that_the_table_does_not_take_is_found_before(
    lab: tuple[RepairWorld, str], name: str
) -> None:
    """The row is named by the plan, and nothing is written."""
    world, before = lab
    assert not is_as_staged(world, before, name)
    merged = world.merge(before, name)

    assert merged.code == 1
    assert [str(one.kind) for one in merged.plan.blocking] == ["check_failed"]
    assert world.run(f"select count(*) from {name}") == [(2,)]
