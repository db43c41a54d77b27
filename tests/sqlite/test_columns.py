"""A recovery of some columns: what counts, what is set back, and what is left to others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pitr.errors import UsageError
from pitr.sqlite.diff.chosen_columns import choose_columns
from pitr.sqlite.diff.compare import compare_with_past
from pitr.sqlite.past.replay import open_past
from pitr.sqlite.past.tables import find_tables
from tests.sqlite.merge_world import MergeWorld, counts, making_merge_worlds

Make = Callable[..., MergeWorld]
ORDERS = "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, cents INT, status TEXT)"
ROWS = (
    "INSERT INTO orders VALUES "
    "(1, 'tea', 100, 'open'), (2, 'cup', 200, 'open'), (3, 'pot', 300, 'paid')"
)
CENTS = {"orders": ("cents",)}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with making_merge_worlds(tmp_path) as make:
        yield make


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_only_the_chosen_column_goes_back(make: Make, mode: str) -> None:
    """Damage in other columns is not looked at, and a row that is gone comes back whole."""
    world = make(ORDERS, ROWS, mode=mode)
    before = world.mark()
    world.run("UPDATE orders SET cents = 0, status = 'void'", "DELETE FROM orders WHERE id = 3")
    after = world.mark()
    world.run("UPDATE orders SET status = 'sent' WHERE id = 2")
    image = world.image()
    done = world.merge(before, "orders", after=after, columns=CENTS)
    assert done.code == 0
    assert done.result is not None
    assert counts(done.result.plan) == {"lost": 1, "damaged": 2}
    assert any("only cents" in warning for warning in done.result.plan.warnings)
    assert world.changed_since(image) == {
        "orders": (
            [("1", "'tea'", "0", "'void'"), ("2", "'cup'", "0", "'sent'")],
            [
                ("1", "'tea'", "100", "'void'"),
                ("2", "'cup'", "200", "'sent'"),
                ("3", "'pot'", "300", "'paid'"),
            ],
        )
    }
    assert world.undo(done.merge).code == 0
    assert world.changed_since(image) == {}


def test_without_until_other_columns_do_not_differ(make: Make) -> None:
    """A row that differs elsewhere alone is unrelated; --update sets the chosen column back."""
    world = make(ORDERS, ROWS)
    before = world.mark()
    world.run("UPDATE orders SET status = 'sent'", "UPDATE orders SET cents = 1 WHERE id = 2")
    plan = world.plan(before, "orders", columns=CENTS)
    assert counts(plan) == {"differs": 1}
    image = world.image()
    assert world.merge(before, "orders", columns=CENTS, update=True).code == 0
    assert world.changed_since(image) == {
        "orders": ([("2", "'cup'", "1", "'sent'")], [("2", "'cup'", "200", "'sent'")])
    }


def test_row_that_the_damage_put_in_goes_only_if_nobody_wrote_any_column(make: Make) -> None:
    """A row goes as a whole: there a column that was not chosen counts as well."""
    world = make(ORDERS, ROWS)
    before = world.mark()
    world.run("INSERT INTO orders VALUES (8, 'x', 0, 'open'), (9, 'y', 0, 'open')")
    after = world.mark()
    world.run("UPDATE orders SET status = 'paid' WHERE id = 9")
    image = world.image()
    how = {"after": after, "columns": CENTS, "delete_extra": True}
    assert world.merge(before, "orders", **how).code == 1
    done = world.merge(before, "orders", **how, on_conflict="skip")
    assert done.code == 0
    assert world.changed_since(image) == {"orders": ([("8", "'x'", "0", "'open'")], [])}


def test_column_with_another_name_now_is_the_one_that_was_chosen(make: Make) -> None:
    """Columns are chosen by their names at the target."""
    world = make(ORDERS, ROWS)
    before = world.mark()
    world.run("UPDATE orders SET cents = 0 WHERE id = 1")
    world.run("ALTER TABLE orders RENAME COLUMN cents TO price")
    after = world.mark()
    image = world.image()
    assert world.merge(before, "orders", after=after, columns=CENTS).code == 0
    assert world.changed_since(image) == {
        "orders": ([("1", "'tea'", "0", "'open'")], [("1", "'tea'", "100", "'open'")])
    }


def test_counts_of_a_restore_are_of_the_chosen_columns(make: Make) -> None:
    """`differs` counts what a merge could set back."""
    world = make(ORDERS, ROWS)
    before = world.mark()
    sidecar = world.restore(before, "orders")
    world.run("UPDATE orders SET status = 'x'", "UPDATE orders SET cents = 0 WHERE id = 1")
    newest = world.mark()
    with open_past(world.archive().at(newest)) as past:
        whole = compare_with_past(past, sidecar, "orders")
        chosen = compare_with_past(past, sidecar, "orders", columns=["cents"])
        only_key = compare_with_past(past, sidecar, "orders", columns=["id"])
    assert (whole.differs, chosen.differs, only_key.differs) == (3, 1, 0)


# --- what a user names ---------------------------------------------------------------------------

SCHEMA = (
    ORDERS,
    "CREATE TABLE people (id INTEGER PRIMARY KEY, status TEXT, twice AS (id * 2))",
    "CREATE TABLE visits (page TEXT, status TEXT)",
)


def choose(world: MergeWorld, tables: str, *wanted: str) -> dict[str, tuple[str, ...]]:
    newest = world.mark()
    with open_past(world.archive().at(newest)) as past:
        return choose_columns(past, find_tables(past, tables.split()), wanted)


def test_columns_are_chosen_for_all_tables_or_for_one(make: Make) -> None:
    """Names are matched as SQLite matches them."""
    world = make(*SCHEMA)
    assert choose(world, "orders people", "STATUS", "orders.cents") == {
        "orders": ("cents", "status"),
        "people": ("status",),
    }
    assert choose(world, "orders people", "Orders.ID") == {"orders": ("id",)}
    assert choose(world, "orders") == {}


@pytest.mark.parametrize(
    ("tables", "wanted", "message"),
    [
        ("orders", "price", "orders had no column price"),
        ("orders people", "cents", "people had no column cents"),
        ("people", "twice", "cannot be chosen by itself"),
        ("visits", "status", "no key names the rows of visits"),
    ],
)
def test_column_that_cannot_be_chosen_is_named(
    make: Make, tables: str, wanted: str, message: str
) -> None:
    """What makes no sense is refused before anything is restored."""
    with pytest.raises(UsageError, match=message):
        choose(make(*SCHEMA), tables, wanted)
