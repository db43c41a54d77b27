"""Lost rows are attributed to the transaction that removed them, exactly, from the archive."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pitr.sqlite.diff import removals, span
from pitr.sqlite.diff.attribution import Attribution, attribute_lost
from pitr.sqlite.diff.classified import ClassifiedTable, classify, let_go_of_live, stream_rows
from pitr.sqlite.diff.states import open_states
from pitr.vocabulary.diff_row import DiffRow
from pitr.vocabulary.row_class import RowClass
from tests.sqlite.diff_world import WHOLE, DiffWorld, making_worlds
from tests.sqlite.lives import Life
from tests.sqlite.test_candidates import key_of, rows_of, sources_of, statement

Make = Callable[..., DiffWorld]
TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, a)"
FILL = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {})"
ROWS = FILL.format(2000) + " INSERT INTO t SELECT i, 'row ' || i FROM n"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a function that makes a world of the test's own."""
    with making_worlds(tmp_path) as function:
        yield function


def attributed(
    world: DiffWorld, before: int, *, ended: bool = True, **options: float
) -> Attribution:
    """Return the attribution of the lost rows of t, after the snapshot has ended or within."""
    with world.states(before, "t") as states:
        (table,) = classify(states, WHOLE)
        if ended:
            let_go_of_live(states, [table])
        return attribute_lost(states, table, **options)


def by_commit(found: Attribution) -> dict[str | None, int]:
    return {one.position: one.rows for one in found.lost_by}


def test_rows_of_one_transaction_are_its_own(make: Make) -> None:
    """One DELETE among updates and inserts: no warning, and no row is read for it."""
    world = make(TABLE, ROWS)
    before = world.mark()
    world.run("UPDATE t SET a = 'x' WHERE id < 100", "INSERT INTO t VALUES (5000, 1)")
    world.run("DELETE FROM t WHERE id <= 2000")
    deleting = world.mark()
    world.run("INSERT INTO t VALUES (1, 'new')")
    world.mark()
    found = attributed(world, before)
    assert by_commit(found) == {f"commit:{deleting}": 1999}
    assert found.warnings == ()
    assert found.lost_by[0].isolating_command("t") == f"pitr revert commit:{deleting} -t t"


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("told_max", [20_000, 0])
def test_rows_of_several_transactions_are_told_apart(
    make: Make, monkeypatch: pytest.MonkeyPatch, told_max: int, ended: bool
) -> None:
    """Few rows are told one by one, many by asking the state before; the outcome is the same."""
    monkeypatch.setattr(removals, "_CELLS_TOLD_MAX", told_max)
    world = make(TABLE, ROWS)
    before = world.mark()
    commits = {}
    for rows, condition in ((3, "id <= 3"), (500, "id > 1500"), (2, "id IN (100, 200)")):
        world.run(f"DELETE FROM t WHERE {condition}")
        commits[f"commit:{world.mark()}"] = rows
    found = attributed(world, before, ended=ended)
    assert by_commit(found) == commits
    assert [*by_commit(found)] == [*commits]
    (warning,) = found.warnings
    assert "removed by 3 transactions" in warning
    for position in commits:
        assert f"'pitr revert {position} -t t'" in warning


def test_row_that_came_back_and_went_again_is_the_newest_ones(make: Make) -> None:
    """What counts is who removed it last."""
    world = make(TABLE, ROWS)
    before = world.mark()
    world.run("DELETE FROM t WHERE id <= 10")
    older = world.mark()
    world.run("INSERT INTO t VALUES (1, 'row 1'), (2, 'other')", "DELETE FROM t WHERE id IN (1, 2)")
    newer = world.mark()
    assert by_commit(attributed(world, before)) == {f"commit:{older}": 8, f"commit:{newer}": 2}


def test_dropped_table_lost_its_rows_by_the_drop(make: Make) -> None:
    """Also when another of its name was made since, and rows were deleted before."""
    world = make(TABLE, ROWS)
    before = world.mark()
    world.run("DELETE FROM t WHERE id > 1990")
    deleted = world.mark()
    world.run("DROP TABLE t")
    dropped = world.mark()
    world.run(TABLE, "INSERT INTO t VALUES (1, 'new'), (2, 'new')")
    world.mark()
    expected = {f"commit:{deleted}": 10, f"commit:{dropped}": 1988}
    assert by_commit(attributed(world, before)) == expected


def test_table_that_was_renamed_is_followed(make: Make) -> None:
    """So are columns of its key."""
    world = make("CREATE TABLE t (k TEXT PRIMARY KEY, a) WITHOUT ROWID")
    world.run("INSERT INTO t VALUES ('a', 1), ('b', 2), ('c', 3)")
    before = world.mark()
    world.run("DELETE FROM t WHERE k = 'a'")
    first = world.mark()
    world.run("ALTER TABLE t RENAME TO u", "ALTER TABLE u RENAME COLUMN k TO z")
    world.run("DELETE FROM u WHERE z = 'b'")
    second = world.mark()
    assert by_commit(attributed(world, before)) == {f"commit:{first}": 1, f"commit:{second}": 1}


def test_changed_key_removes_the_row_of_the_old_one(make: Make) -> None:
    """In a table whose key is not its rowid an UPDATE may remove a row."""
    world = make(
        "CREATE TABLE t (k TEXT PRIMARY KEY, a)", "INSERT INTO t VALUES ('a', 1), ('b', 2)"
    )
    before = world.mark()
    world.run("UPDATE t SET k = 'z' WHERE k = 'a'")
    updating = world.mark()
    world.run("DELETE FROM t WHERE k = 'b'")
    deleting = world.mark()
    assert by_commit(attributed(world, before)) == {
        f"commit:{updating}": 1,
        f"commit:{deleting}": 1,
    }


def test_rows_without_key_are_attributed_by_content(make: Make) -> None:
    """Each copy to whoever took one."""
    world = make("CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, 1), (1, 1), (1, 1), (2, 2)")
    before = world.mark()
    world.run("DELETE FROM t WHERE rowid = 1")
    first = world.mark()
    world.run("UPDATE t SET b = 'x' WHERE rowid IN (2, 4)")
    second = world.mark()
    assert by_commit(attributed(world, before)) == {f"commit:{first}": 1, f"commit:{second}": 2}


def test_rows_removed_after_the_newest_archived_state_are_said_to_be_unknown(make: Make) -> None:
    """They were there in it, and so nobody in the archive removed them."""
    world = make(TABLE, ROWS)
    before = world.mark()
    world.run("DELETE FROM t WHERE id <= 3")
    archived = world.mark()
    world.run("DELETE FROM t WHERE id <= 10")
    found = attributed(world, before)
    assert by_commit(found) == {f"commit:{archived}": 3, None: 7}
    assert any("after the newest state that is archived" in text for text in found.warnings)


def test_time_that_is_over_is_said(make: Make) -> None:
    """What was found until then stands; the rest is not guessed."""
    world = make(TABLE, ROWS)
    before = world.mark()
    world.run("DELETE FROM t WHERE id = 1", "DELETE FROM t WHERE id = 2")
    newest = world.mark()
    found = attributed(world, before, seconds_max=-1.0)
    assert by_commit(found) == {f"commit:{newest}": 1, None: 1}
    assert any("time was over" in text for text in found.warnings)


def test_gap_is_named_with_its_own_command(make: Make) -> None:
    """What happened in a gap cannot be reverted as one transaction, but it can be isolated."""
    world = make(TABLE, ROWS)
    before = world.mark()
    world.run("DELETE FROM t WHERE id = 1")
    seen = world.mark()
    world.run("DELETE FROM t WHERE id IN (2, 3)", "PRAGMA wal_checkpoint(TRUNCATE)")
    world.run("DELETE FROM t WHERE id = 4")
    gap = world.mark()
    found = attributed(world, before)
    assert [(one.position, one.kind, one.rows) for one in found.lost_by][-1] == (
        f"commit:{gap}",
        "gap",
        3,
    )
    command = f"pitr restore -t t --at commit:{seen} --until commit:{gap}"
    assert command in "".join(found.warnings)


def test_state_after_the_damage_needs_no_attribution(make: Make) -> None:
    """What the damage removed is known by it."""
    world = make(TABLE, ROWS)
    before = world.mark()
    world.run("DELETE FROM t WHERE id = 1")
    after = world.mark()
    with world.states(before, "t", after=after) as states:
        (table,) = classify(states)
        assert attribute_lost(states, table) == Attribution()


@pytest.mark.parametrize("seeds", [range(100, 108), range(108, 116)])
def test_random_lives_are_attributed_as_a_walk_over_whole_states_says(
    tmp_path: Path, seeds: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference looks for every lost row in every state."""
    tried = 0
    for seed in seeds:
        print(f"seed {seed}")
        rng = random.Random(seed)
        monkeypatch.setattr(removals, "_CELLS_TOLD_MAX", rng.choice([0, 200, 20_000]))
        monkeypatch.setattr(span, "_WINDOW_COMMITS", rng.choice([2, 4096]))
        folder = tmp_path / str(seed)
        folder.mkdir()
        life = Life(seed, folder / "life.db")
        life.live(40)
        last = life.recorder.number
        sources = sources_of(life, folder, rng.randrange(1, last), None, last)
        if sources is not None:
            with open_states(sources, wait_seconds=0) as states:
                states.live_commit = last
                for table in classify(states, WHOLE):
                    found = attribute_lost(states, table)
                    if table.keyless or table.aligned.last_name != table.before_name:
                        continue
                    rows = list(stream_rows(states, table, {RowClass.LOST}))
                    assert by_commit(found) == reference(life, sources.before_commit, table, rows)
                    tried += len(found.lost_by)
        life.recorder.close()
    assert tried


def reference(
    life: Life, before: int, table: ClassifiedTable, rows: list[DiffRow]
) -> dict[str | None, int]:
    """Return how many of the rows were last removed by each commit."""
    missing = {key_of(dict(zip(table.key, row.key, strict=True)), table.key) for row in rows}
    removed: Counter[str | None] = Counter()
    for number in range(life.recorder.number - 1, before - 1, -1):
        image = life.recorder.states[number]
        if missing and statement(image, table.before_name) is not None:
            there = {key_of(row, table.key) for row in rows_of(image, table.before_name, table.key)}
            removed[f"commit:{number + 1}"] = len(missing & there)
            missing -= there
    return dict(+removed)
