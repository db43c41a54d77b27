"""The table was altered since: which columns are the same ones, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pitr.sqlite.diff.classified import ClassifiedTable
from pitr.vocabulary.diff_row import DiffRow
from pitr.vocabulary.drift import SchemaDrift
from tests.sqlite.diff_world import DiffWorld, both_ways, classes, making_worlds

Make = Callable[..., DiffWorld]
TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT)"
ROWS = "INSERT INTO t VALUES (1, 'a1', 'b1'), (2, 'a2', 'b2'), (3, 'a3', 'b3')"
LOSE = "DELETE FROM t WHERE id = 1"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a function that makes a world of the test's own."""
    with making_worlds(tmp_path) as function:
        yield function


def drifted(
    world: DiffWorld, since: list[str], *, is_archived: bool = True
) -> tuple[ClassifiedTable, list[DiffRow]]:
    """Let a table drift from here on, and compare it with what it is now."""
    before = world.mark()
    world.run(*since)
    if is_archived:
        world.mark()
    with world.states(before, "t") as states:
        assert (states.live_commit is not None) is is_archived
        ((table, rows),) = both_ways(states)
        return table, rows


CHANGES = {
    "added": (
        [LOSE, "ALTER TABLE t ADD COLUMN c DEFAULT 5"],
        SchemaDrift(added=("c",)),
        {(1,): ("lost", "")},
    ),
    "dropped": (
        [LOSE, "ALTER TABLE t DROP COLUMN a", "UPDATE t SET b = 'x' WHERE id = 2"],
        SchemaDrift(dropped=("a",)),
        {(1,): ("lost", ""), (2,): ("differs", "r0")},
    ),
    "renamed in the middle": (
        [LOSE, "ALTER TABLE t RENAME COLUMN a TO z", "UPDATE t SET z = 'x' WHERE id = 2"],
        SchemaDrift(renamed=(("a", "z"),)),
        {(1,): ("lost", ""), (2,): ("differs", "r0")},
    ),
    "renamed at the end": (
        [LOSE, "ALTER TABLE t RENAME COLUMN b TO z", "UPDATE t SET z = 'x' WHERE id = 2"],
        SchemaDrift(renamed=(("b", "z"),)),
        {(1,): ("lost", ""), (2,): ("differs", "r1")},
    ),
    "renamed after all rows were lost": (
        ["DELETE FROM t", "ALTER TABLE t RENAME COLUMN b TO z"],
        SchemaDrift(renamed=(("b", "z"),)),
        {(1,): ("lost", ""), (2,): ("lost", ""), (3,): ("lost", "")},
    ),
    "renamed twice": (
        ["ALTER TABLE t RENAME COLUMN b TO y", "ALTER TABLE t RENAME COLUMN y TO z", LOSE],
        SchemaDrift(renamed=(("b", "z"),)),
        {(1,): ("lost", "")},
    ),
    "two columns that swapped their names": (
        [
            "ALTER TABLE t RENAME COLUMN a TO c",
            "ALTER TABLE t RENAME COLUMN b TO a",
            "ALTER TABLE t RENAME COLUMN c TO b",
        ],
        SchemaDrift(renamed=(("a", "b"), ("b", "a"))),
        {},
    ),
    "the last one dropped and another added": (
        ["ALTER TABLE t DROP COLUMN b", "ALTER TABLE t ADD COLUMN z TEXT", LOSE],
        SchemaDrift(added=("z",), dropped=("b",)),
        {(1,): ("lost", "")},
    ),
    "the last one dropped and another added at once": (
        ["BEGIN", "ALTER TABLE t DROP COLUMN b", "ALTER TABLE t ADD COLUMN z TEXT", LOSE, "COMMIT"],
        SchemaDrift(added=("z",), dropped=("b",)),
        {(1,): ("lost", "")},
    ),
    "one renamed and one added at once": (
        [
            "BEGIN",
            "ALTER TABLE t RENAME COLUMN a TO z",
            "ALTER TABLE t ADD COLUMN c",
            "COMMIT",
            LOSE,
        ],
        SchemaDrift(added=("c",), renamed=(("a", "z"),)),
        {(1,): ("lost", "")},
    ),
    "dropped and added again": (
        ["ALTER TABLE t DROP COLUMN b", "ALTER TABLE t ADD COLUMN b TEXT"],
        SchemaDrift(),
        {(1,): ("differs", "r1"), (2,): ("differs", "r1"), (3,): ("differs", "r1")},
    ),
    "the table renamed": (
        [LOSE, "ALTER TABLE t RENAME TO u"],
        SchemaDrift(renamed_table=True),
        {(1,): ("lost", "")},
    ),
    "the table renamed and another in its place": (
        [LOSE, "ALTER TABLE t RENAME TO u", TABLE],
        SchemaDrift(renamed_table=True),
        {(1,): ("lost", "")},
    ),
    "the table dropped": (
        ["DROP TABLE t"],
        SchemaDrift(missing=True),
        {(1,): ("lost", ""), (2,): ("lost", ""), (3,): ("lost", "")},
    ),
    "the table dropped and made anew": (
        ["DROP TABLE t", TABLE, "INSERT INTO t VALUES (2, 'a2', 'b2'), (3, 'other', 'b3')"],
        SchemaDrift(recreated=True),
        {(1,): ("lost", ""), (3,): ("differs", "r0")},
    ),
    "made anew with other names": (
        ["DROP TABLE t", "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, z TEXT)"],
        SchemaDrift(recreated=True, added=("z",), dropped=("b",)),
        {(1,): ("lost", ""), (2,): ("lost", ""), (3,): ("lost", "")},
    ),
    "vacuumed": (
        ["CREATE TABLE u (a)", "DROP TABLE u", "VACUUM", LOSE],
        SchemaDrift(),
        {(1,): ("lost", "")},
    ),
    "another table altered": (
        ["CREATE TABLE u (a)", "ALTER TABLE u ADD COLUMN b", LOSE],
        SchemaDrift(),
        {(1,): ("lost", "")},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_drift_is_named_and_common_columns_are_compared(make: Make, change: str) -> None:
    """Each way in which a table may change, followed through the archive."""
    since, drift, expected = CHANGES[change]

    table, rows = drifted(make(TABLE, ROWS), since)

    assert table.drift == drift
    assert classes(rows) == expected
    assert bool(table.warnings) is not drift.is_none


NOT_ARCHIVED = {
    "added": SchemaDrift(added=("c",)),
    "dropped": SchemaDrift(dropped=("a",)),
    "renamed in the middle": SchemaDrift(added=("z",), dropped=("a",)),
    "the table dropped": SchemaDrift(missing=True),
    "the table renamed": SchemaDrift(missing=True),
    "vacuumed": SchemaDrift(),
}


@pytest.mark.parametrize("change", NOT_ARCHIVED)
def test_drift_that_is_not_archived_goes_by_names(make: Make, change: str) -> None:
    """Of what happened after the newest archived state only the names tell; nothing is guessed."""
    table, _ = drifted(make(TABLE, ROWS), CHANGES[change][0], is_archived=False)

    assert table.drift == NOT_ARCHIVED[change]


def test_drift_without_an_archive_goes_by_names(make: Make) -> None:
    """A sidecar and a live database are enough for a comparison."""
    world = make(TABLE, ROWS)
    before = world.mark()
    world.run(LOSE, "ALTER TABLE t RENAME COLUMN a TO z", "UPDATE t SET b = 'x' WHERE id = 3")
    with world.states(before, "t", archive=False) as states:
        ((table, rows),) = both_ways(states)
    assert table.drift == SchemaDrift(added=("z",), dropped=("a",))
    assert classes(rows) == {(1,): ("lost", ""), (3,): ("differs", "r0")}


def test_changed_type_is_named_and_values_are_compared_as_they_are(make: Make) -> None:
    """'1' is not 1: what a conversion did to the values shows."""
    table, rows = drifted(
        make("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)", "INSERT INTO t VALUES (1, '7')"),
        [
            "CREATE TABLE n (id INTEGER PRIMARY KEY, a INTEGER)",
            "INSERT INTO n SELECT * FROM t",
            "DROP TABLE t",
            "ALTER TABLE n RENAME TO t",
        ],
    )
    assert table.drift.type_changed == (("a", "TEXT", "INTEGER"),)
    assert table.drift.recreated
    assert [(row.before, row.live) for row in rows] == [(("7",), (7,))]


def test_column_that_the_damage_dropped_is_not_compared(make: Make) -> None:
    """Where the state after the damage has no such column, it cannot tell who changed it."""
    world = make(TABLE, ROWS)
    before = world.mark()
    world.run("BEGIN", "ALTER TABLE t DROP COLUMN a", LOSE, "COMMIT")
    after = world.mark()
    world.run("ALTER TABLE t ADD COLUMN a TEXT")
    world.mark()
    with world.states(before, "t", after=after) as states:
        ((table, rows),) = both_ways(states)
    assert table.columns == ("b",)
    assert table.drift.incomparable == ("a",)
    assert classes(rows) == {(1,): ("lost", "")}
    assert any("not compared: a" in warning for warning in table.warnings)


def test_column_renamed_between_damage_and_now_is_judged_by_itself(make: Make) -> None:
    """Before and after know it under one name, live under another."""
    world = make(TABLE, ROWS)
    before = world.mark()
    world.run("UPDATE t SET a = 'bad'")
    after = world.mark()
    world.run("ALTER TABLE t RENAME COLUMN a TO z", "UPDATE t SET z = 'mine' WHERE id = 2")
    world.mark()
    with world.states(before, "t", after=after) as states:
        ((table, rows),) = both_ways(states)
    assert table.columns == ("z", "b")
    assert classes(rows) == {
        (1,): ("damaged", "r0"),
        (2,): ("touched_since", "t0"),
        (3,): ("damaged", "r0"),
    }


def test_dropped_table_is_lost_by_the_damage_and_what_came_later_is_kept(make: Make) -> None:
    """The state after a DROP has no row; one that was put into a new table meanwhile is seen."""
    world = make(TABLE, ROWS)
    before = world.mark()
    world.run("DROP TABLE t")
    after = world.mark()
    world.run(TABLE, "INSERT INTO t VALUES (1, 'a1', 'b1'), (2, 'new', 'new'), (9, 'new', 'new')")
    world.mark()
    with world.states(before, "t", after=after) as states:
        ((table, rows),) = both_ways(states)
    assert (table.after_name, table.drift.recreated) == (None, True)
    assert classes(rows) == {
        (1,): ("already_back", ""),
        (2,): ("key_reused", "t0t1"),
        (3,): ("lost", ""),
    }


def test_table_without_a_common_column_is_said_to_be_incomparable(make: Make) -> None:
    """Nothing is compared, and nothing is claimed."""
    table, rows = drifted(
        make("CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, 2)"),
        ["DROP TABLE t", "CREATE TABLE t (x, y)"],
    )
    assert rows == []
    assert any("no column is left to compare by" in warning for warning in table.warnings)


def test_key_that_live_no_longer_has_leaves_the_content(make: Make) -> None:
    """Without a common key rows are told apart by content."""
    table, rows = drifted(
        make(TABLE, ROWS),
        [
            "CREATE TABLE n AS SELECT * FROM t WHERE id > 1",
            "DROP TABLE t",
            "ALTER TABLE n RENAME TO t",
        ],
    )
    assert table.keyless
    assert [row.before for row in rows] == [(1, "a1", "b1")]
