"""What a merge writes, class by class, and that it writes nothing else; and what an undo undoes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pitr.errors import DatabaseRefused, PlanStale
from pitr.recovery.merges import list_merges
from pitr.vocabulary.plan import MergeStep
from pitr.vocabulary.row_class import Action
from tests.sqlite.capture_world import App
from tests.sqlite.merge_world import (
    Interrupting,
    MergeWorld,
    conflicts,
    counts,
    making_merge_worlds,
)

Make = Callable[..., MergeWorld]

ORDERS = "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, cents INT, status TEXT)"
ROWS = (
    "INSERT INTO orders VALUES "
    "(1, 'tea', 100, 'open'), (2, 'cup', 200, 'open'), (3, 'pot', 300, 'paid')"
)
OTHER = "CREATE TABLE visits (page TEXT)"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with making_merge_worlds(tmp_path) as make:
        yield make


@pytest.fixture(params=["WAL", "DELETE"])
def shop(make: Make, request: pytest.FixtureRequest) -> MergeWorld:
    return make(ORDERS, OTHER, ROWS, "INSERT INTO visits VALUES ('/')", mode=request.param)


def test_lost_rows_come_back_and_undo_takes_them_away(shop: MergeWorld) -> None:
    """Exactly the lost rows come back, later work stays, undo restores the state before."""
    before = shop.mark()
    shop.run("DELETE FROM orders WHERE id <> 2", "INSERT INTO orders VALUES (9, 'new', 1, 'open')")
    shop.run("UPDATE orders SET status = 'paid' WHERE id = 2")
    image = shop.image()
    done = shop.merge(before, "orders")
    assert done.code == 0
    assert done.result is not None
    assert (done.result.inserted, done.result.updated, done.result.deleted) == (2, 0, 0)
    came = [("1", "'tea'", "100", "'open'"), ("3", "'pot'", "300", "'paid'")]
    assert shop.changed_since(image) == {"orders": ([], came)}
    assert shop.merge(before, "orders").result.merge is None
    back = shop.undo(done.merge)
    assert back.code == 0
    assert back.result is not None
    assert back.result.deleted == 2
    assert shop.changed_since(image) == {}
    assert shop.undo(done.merge).result.merge is None
    again = shop.undo(back.merge)
    assert again.code == 0
    assert shop.changed_since(image) == {"orders": ([], came)}


def test_damaged_columns_go_back_and_newer_ones_stay(shop: MergeWorld) -> None:
    """Promise: column by column; what others wrote into other columns of the row is kept."""
    before = shop.mark()
    shop.run("UPDATE orders SET cents = 0")
    after = shop.mark()
    shop.run(
        "UPDATE orders SET status = 'sent' WHERE id = 1",
        "UPDATE orders SET cents = 5 WHERE id = 2",
    )
    image = shop.image()
    blocked = shop.merge(before, "orders", after=after)
    assert blocked.code == 1
    assert blocked.result is not None
    assert conflicts(blocked.result.plan) == {("touched_since", "orders"): 1}
    assert shop.changed_since(image) == {}
    done = shop.merge(before, "orders", after=after, on_conflict="skip")
    assert done.code == 0
    assert done.result is not None
    assert (done.result.updated, done.result.skipped) == (2, 1)
    rows = [("1", "'tea'", "0", "'sent'"), ("3", "'pot'", "0", "'paid'")]
    mended = [("1", "'tea'", "100", "'sent'"), ("3", "'pot'", "300", "'paid'")]
    assert shop.changed_since(image) == {"orders": (rows, mended)}
    assert shop.undo(done.merge).code == 0
    assert shop.changed_since(image) == {}
    over = shop.merge(before, "orders", after=after, on_conflict="overwrite")
    assert over.result is not None
    assert over.result.updated == 3
    assert shop.app.run("SELECT cents, status FROM orders ORDER BY id") == [
        [100, "sent"],
        [200, "open"],
        [300, "paid"],
    ]


def test_reused_key_blocks_unless_overwritten(shop: MergeWorld) -> None:
    """Promise: a row that took the key of a lost one is a conflict, never silently replaced."""
    before = shop.mark()
    shop.run("DELETE FROM orders WHERE id = 3", "INSERT INTO orders VALUES (3, 'new', 1, 'open')")
    image = shop.image()
    after = shop.mark()
    # Without the state after the damage a row of the key that differs has just changed.
    assert counts(shop.plan(before, "orders")) == {"differs": 1}
    assert shop.merge(before, "orders").result.merge is None
    assert shop.changed_since(image) == {}
    updated = shop.merge(before, "orders", update=True)
    assert updated.result is not None
    assert updated.result.updated == 1
    assert shop.undo(updated.merge).code == 0
    assert shop.changed_since(image) == {}
    assert after > before


def test_rows_that_the_damage_put_in_go_only_when_asked(shop: MergeWorld) -> None:
    """Promise: --delete-extra deletes what is still as the damage left it, and nothing else."""
    before = shop.mark()
    shop.run("INSERT INTO orders VALUES (7, 'bad', 0, 'x'), (8, 'bad', 0, 'x'), (9, 'bad', 0, 'x')")
    after = shop.mark()
    shop.run("DELETE FROM orders WHERE id = 9")
    image = shop.image()
    assert shop.merge(before, "orders", after=after).result.merge is None
    done = shop.merge(before, "orders", after=after, delete_extra=True)
    assert done.result is not None
    assert done.result.deleted == 2
    gone = [("7", "'bad'", "0", "'x'"), ("8", "'bad'", "0", "'x'")]
    assert shop.changed_since(image) == {"orders": (gone, [])}
    assert shop.undo(done.merge).code == 0
    assert shop.changed_since(image) == {}
    shop.run("UPDATE orders SET cents = 4 WHERE id = 7")
    image = shop.image()
    blocked = shop.merge(before, "orders", after=after, delete_extra=True)
    assert blocked.code == 1
    assert conflicts(blocked.result.plan) == {("bogus_touched", "orders"): 1}
    assert shop.changed_since(image) == {}


def test_undo_with_rows_changed_since_is_a_conflict(shop: MergeWorld) -> None:
    """Promise: an undo never overwrites what came after the merge; skip leaves those rows aside."""
    before = shop.mark()
    shop.run("DELETE FROM orders")
    done = shop.merge(before, "orders")
    shop.run("UPDATE orders SET status = 'sent' WHERE id = 1")
    image = shop.image()
    blocked = shop.undo(done.merge)
    assert blocked.code == 1
    assert shop.changed_since(image) == {}
    skipped = shop.undo(done.merge, on_conflict="skip")
    assert skipped.result is not None
    assert (skipped.result.deleted, skipped.result.skipped) == (2, 1)
    assert shop.app.run("SELECT id, status FROM orders") == [[1, "sent"]]


def test_rows_that_move_before_the_lock_make_a_plan_stale(shop: MergeWorld) -> None:
    """Promise: what the user saw is what is written; else exit 7 and nothing is."""
    before = shop.mark()
    shop.run("UPDATE orders SET cents = 0")
    after = shop.mark()
    move = Interrupting(
        MergeStep.PLANNED, lambda: shop.run("UPDATE orders SET item = 'x' WHERE id = 1")
    )
    stale = shop.merge(before, "orders", after=after, is_agreed=False, on_step=move)
    assert isinstance(stale.error, PlanStale)
    assert shop.app.run("SELECT count(*) FROM orders WHERE cents = 0") == [[3]]
    assert not list_merges(shop.state)


def test_rows_that_move_before_the_lock_are_planned_again_when_agreed(shop: MergeWorld) -> None:
    """Promise: --yes agrees to the plan as it comes out under the lock; newer work is kept."""
    before = shop.mark()
    shop.run("UPDATE orders SET cents = 0")
    after = shop.mark()
    move = Interrupting(
        MergeStep.PLANNED, lambda: shop.run("UPDATE orders SET item = 'x' WHERE id = 1")
    )
    done = shop.merge(before, "orders", after=after, on_step=move)
    assert done.code == 0
    assert shop.app.run("SELECT item, cents FROM orders WHERE id = 1") == [["x", 100]]


def test_key_that_is_taken_before_the_lock_makes_a_plan_stale(shop: MergeWorld) -> None:
    """Promise: an insert never meets a row that came after the plan without saying so."""
    before = shop.mark()
    shop.run("DELETE FROM orders WHERE id = 1")
    take = Interrupting(
        MergeStep.PLANNED, lambda: shop.run("INSERT INTO orders VALUES (1, 'mine', 5, 'x')")
    )
    stale = shop.merge(before, "orders", is_agreed=False, on_step=take)
    assert isinstance(stale.error, PlanStale)
    assert shop.app.run("SELECT item FROM orders WHERE id = 1") == [["mine"]]


def test_lock_that_is_held_ends_in_a_refusal(shop: MergeWorld) -> None:
    """Promise: the busy timeout is a limit; the merge is the one that gives way."""
    before = shop.mark()
    shop.run("DELETE FROM orders")
    with App(shop.path, "BEGIN IMMEDIATE", "INSERT INTO visits VALUES ('/held')") as other:
        refused = shop.merge(before, "orders", lock_seconds=0.2)
        assert isinstance(refused.error, DatabaseRefused)
        assert refused.code == 6
        other.run("COMMIT")
    assert shop.merge(before, "orders").code == 0


def test_whole_plan_is_rolled_back_when_one_table_is_refused(make: Make) -> None:
    """Promise: one transaction over all tables: a trigger that refuses one row keeps all away."""
    world = make(
        ORDERS,
        ROWS,
        "CREATE TABLE notes (id INTEGER PRIMARY KEY, text)",
        "INSERT INTO notes VALUES (1, 'a')",
    )
    before = world.mark()
    world.run("DELETE FROM orders", "DELETE FROM notes")
    world.run("CREATE TRIGGER no BEFORE INSERT ON notes BEGIN SELECT RAISE(ABORT, 'not now'); END")
    image = world.image()
    refused = world.merge(before, "orders", "notes")
    assert refused.code == 6
    assert "not now" in str(refused.error.detail)
    assert world.changed_since(image) == {}
    assert not list_merges(world.state)


def test_rows_without_a_key_come_back_by_count(make: Make) -> None:
    """Promise: of rows known by their content as many copies come back as are missing."""
    world = make("CREATE TABLE log (a, b TEXT)")
    world.run("INSERT INTO log VALUES (1, 'x'), (1, 'x'), (1, 'x'), (2, 'y'), (NULL, NULL)")
    before = world.mark()
    world.run("DELETE FROM log WHERE rowid IN (1, 2)", "DELETE FROM log WHERE a IS NULL")
    world.run("INSERT INTO log VALUES (7, 'new')")
    image = world.image()
    done = world.merge(before, "log")
    assert done.result is not None
    assert done.result.inserted == 3
    came = [("1", "'x'"), ("1", "'x'"), ("NULL", "NULL")]
    assert world.changed_since(image) == {"log": ([], came)}
    back = world.undo(done.merge)
    assert back.result is not None
    assert back.result.deleted == 3
    assert world.changed_since(image) == {}
    assert world.undo(done.merge).result.merge is None
    # An undo is a merge: what it took away comes back, less what came back without it.
    world.run("INSERT INTO log VALUES (1, 'x')")
    again = world.undo(back.merge)
    assert again.code == 0
    assert again.result is not None
    assert again.result.inserted == 2
    assert world.changed_since(image) == {"log": ([], came)}


@pytest.mark.parametrize("is_told", [True, False])
def test_rows_without_a_key_that_a_trigger_alters_are_noticed(make: Make, *, is_told: bool) -> None:
    """A column that is the trigger's own is told; a row that it takes away rolls all back."""
    body = "UPDATE log SET b = 'seen' WHERE rowid = new.rowid"
    if not is_told:
        body = "DELETE FROM log WHERE rowid = new.rowid"
    world = make(
        "CREATE TABLE log (a, b TEXT)",
        "INSERT INTO log VALUES (1, 'x'), (2, 'y')",
        f"CREATE TRIGGER noted AFTER INSERT ON log BEGIN {body}; END",
    )
    before = world.mark()
    world.run("DELETE FROM log WHERE a = 1")
    image = world.image()
    done = world.merge(before, "log")
    if is_told:
        assert done.result is not None
        assert any("an undo will not find" in warning for warning in done.result.warnings)
        assert world.changed_since(image) == {"log": ([], [("1", "'seen'")])}
    else:
        assert done.code == 6
        assert world.changed_since(image) == {}


def test_unique_values_that_rows_have_to_swap_are_swapped(make: Make) -> None:
    """Promise: the order in which rows are set back never makes a repair fail."""
    world = make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, place INT NOT NULL UNIQUE, tag TEXT UNIQUE)"
    )
    world.run("INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c'), (4, 4, 'd')")
    before = world.mark()
    world.run("BEGIN", "UPDATE t SET place = -place, tag = tag || '!'")
    world.run("UPDATE t SET place = 5 + place, tag = substr('dcba', id, 1)", "COMMIT")
    after = world.mark()
    image = world.image()
    done = world.merge(before, "t", after=after)
    assert done.code == 0, done.error
    assert world.app.run("SELECT id, place, tag FROM t ORDER BY id") == [
        [1, 1, "a"], [2, 2, "b"], [3, 3, "c"], [4, 4, "d"],
    ]  # fmt: skip
    assert world.undo(done.merge).code == 0
    assert world.changed_since(image) == {}


@pytest.mark.parametrize("word", ["IGNORE", "REPLACE"])
def test_triggers_keep_their_own_conflict_clause(make: Make, word: str) -> None:
    """An OR in a statement of ours would hold in the triggers that it fires, instead of theirs."""
    world = make(
        ORDERS,
        "CREATE TABLE items (item TEXT PRIMARY KEY)",
        f"CREATE TRIGGER came AFTER INSERT ON orders"
        f" BEGIN INSERT OR {word} INTO items VALUES (new.item); END",
        f"CREATE TRIGGER went AFTER UPDATE ON orders"
        f" BEGIN INSERT OR {word} INTO items VALUES (new.item); END",
        ROWS,
    )
    before = world.mark()
    world.run("DELETE FROM orders WHERE id < 3", "UPDATE orders SET cents = 0")
    image = world.image()
    done = world.merge(before, "orders", update=True)
    assert done.code == 0, done.error
    gone, come = world.changed_since(image)["orders"]
    assert (len(gone), len(come)) == (1, 3)
    assert "items" not in world.changed_since(image)


def test_plan_counts_what_is_done_and_what_is_left_aside(shop: MergeWorld) -> None:
    """Promise: the plan's numbers are those of the merge."""
    before = shop.mark()
    shop.run("DELETE FROM orders WHERE id = 1", "UPDATE orders SET cents = 1 WHERE id = 2")
    plan = shop.plan(before, "orders")
    assert counts(plan) == {"lost": 1, "differs": 1}
    assert plan.actions == {
        Action.INSERT: 1,
        Action.UPDATE: 0,
        Action.DELETE: 0,
        Action.SKIP: 1,
    }
    assert plan.fingerprint == shop.plan(before, "orders").fingerprint
    shop.run("INSERT INTO visits VALUES ('/other')")
    assert plan.fingerprint == shop.plan(before, "orders").fingerprint
    shop.run("DELETE FROM orders WHERE id = 3")
    assert plan.fingerprint != shop.plan(before, "orders").fingerprint


def test_commit_that_is_refused_leaves_neither_rows_nor_a_record(make: Make) -> None:
    """Promise: what is rolled back is as if it had never been, the undo record included."""
    world = make(ORDERS, ROWS, mode="DELETE")
    before = world.mark()
    world.run("DELETE FROM orders")
    image = world.image()
    with App(world.path) as reader:

        def read() -> None:
            # A reader keeps a transaction with a rollback journal from being committed.
            reader.run("BEGIN")
            reader.run("SELECT * FROM orders")

        refused = world.merge(
            before,
            "orders",
            lock_seconds=0.3,
            on_step=Interrupting(MergeStep.RECORDED, read),
        )
        reader.run("COMMIT")
    assert refused.code == 6
    assert world.changed_since(image) == {}
    assert not list_merges(world.state)
    assert world.merge(before, "orders").code == 0
