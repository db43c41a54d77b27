"""Merge and undo beside foreign keys: rows of others neither lose their parent nor go with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.sqlite.merge_world import MergeWorld, conflicts, making_merge_worlds

Make = Callable[..., MergeWorld]
ACTIONS = ["", "ON DELETE CASCADE", "ON DELETE SET NULL"]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with making_merge_worlds(tmp_path) as make:
        yield make


@pytest.mark.parametrize("enforces", ["ON", "OFF"])
@pytest.mark.parametrize("action", ACTIONS)
def test_undo_keeps_the_parent_of_a_copy_that_somebody_else_put_in(
    make: Make, action: str, enforces: str
) -> None:
    """Of three copies the merge put in two: the third may be of others, and keeps its parent."""
    world = make(
        "CREATE TABLE p (id INTEGER PRIMARY KEY)",
        f"CREATE TABLE c (p INT REFERENCES p {action}, x)",
        "INSERT INTO p VALUES (1)",
        "INSERT INTO c VALUES (1, 'x'), (1, 'x')",
    )
    world.run(f"PRAGMA foreign_keys = {enforces}")
    before = world.mark()
    world.run("DELETE FROM c", "DELETE FROM p")
    after = world.mark()
    done = world.merge(before, "p", "c", after=after)
    world.run("INSERT INTO c VALUES (1, 'x')")
    image = world.image()
    blocked = world.undo(done.merge)
    assert blocked.code == 1
    assert blocked.result is not None
    assert conflicts(blocked.result.plan) == {("parent_missing", "p"): 1}
    assert world.changed_since(image) == {}
    assert world.undo(done.merge, on_conflict="skip").code == 0
    assert world.changed_since(image) == {"c": ([("1", "'x'"), ("1", "'x'")], [])}


@pytest.mark.parametrize("action", ACTIONS)
def test_undo_keeps_a_parent_without_a_key_that_others_refer_to(make: Make, action: str) -> None:
    """A parent may be named by a unique column that is no key, because it holds NULL elsewhere."""
    world = make(
        "CREATE TABLE p (u TEXT UNIQUE, x)",
        f"CREATE TABLE c (id INTEGER PRIMARY KEY, p TEXT REFERENCES p (u) {action}, x)",
        "INSERT INTO p VALUES (NULL, 1), ('a', 2)",
    )
    world.run("PRAGMA foreign_keys = ON")
    before = world.mark()
    world.run("DELETE FROM p WHERE u = 'a'")
    after = world.mark()
    done = world.merge(before, "p", after=after)
    world.run("INSERT INTO c VALUES (1, 'a', 'theirs')")
    image = world.image()
    blocked = world.undo(done.merge)
    assert blocked.code == 1
    assert world.changed_since(image) == {}
    world.run("DELETE FROM c")
    assert world.undo(done.merge).code == 0
    assert world.changed_since(image) == {
        "p": ([("'a'", "2")], []),
        "c": ([("1", "'a'", "'theirs'")], []),
    }


@pytest.mark.parametrize("unique", ["(NULL, 1), (8, 2)", "(NULL, 1), (7, 1), (8, 2)"])
def test_orphans_that_get_their_parent_back_do_not_keep_it(make: Make, unique: str) -> None:
    """Values match across types as foreign keys match them, and whatever names the rows later."""
    world = make(
        "CREATE TABLE p (u INT UNIQUE, x)",
        "CREATE TABLE c (id INTEGER PRIMARY KEY, p TEXT REFERENCES p (u))",
    )
    world.run("PRAGMA foreign_keys = OFF")
    world.run(f"INSERT INTO p VALUES {unique}", "INSERT INTO c VALUES (1, 8), (2, 9)")
    before = world.mark()
    world.run("DELETE FROM p WHERE u = 8 OR u IS NULL", "DELETE FROM c WHERE id = 2")
    after = world.mark()
    image = world.image()
    # Live has no NULL in `u` now, and gets one: the rows have a key for the merge alone, or never.
    done = world.merge(before, "p", "c", after=after)
    assert done.code == 0
    assert world.undo(done.merge).code == 0
    assert world.changed_since(image) == {}


def test_row_whose_parent_the_same_plan_deletes_is_found_while_planning(make: Make) -> None:
    """The live parent that is to go is no parent: the row had none before, and gets none now."""
    world = make(
        "CREATE TABLE p (id INTEGER PRIMARY KEY)",
        "CREATE TABLE c (id INTEGER PRIMARY KEY, p INT REFERENCES p)",
    )
    world.run(
        "PRAGMA foreign_keys = OFF", "INSERT INTO p VALUES (1)", "INSERT INTO c VALUES (1, 2)"
    )
    before = world.mark()
    world.run("BEGIN", "INSERT INTO p VALUES (2)", "UPDATE c SET p = 1", "COMMIT")
    after = world.mark()
    image = world.image()
    done = world.merge(before, "p", "c", after=after, delete_extra=True)
    assert done.code == 0
    assert done.result is not None
    assert any("had no parent at the target" in one for one in done.result.plan.warnings)
    assert world.changed_since(image) == {
        "p": ([("2",)], []),
        "c": ([("1", "1")], [("1", "2")]),
    }
    assert world.undo(done.merge).code == 0
    assert world.changed_since(image) == {}
