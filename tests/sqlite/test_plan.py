"""Plans: fingerprints, scripts, tables that have changed since, and the kin of lost rows."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pitr.errors import UsageError
from pitr.sqlite.merge.script import ROWS_MAX
from pitr.vocabulary.plan import Plan
from tests.sqlite.merge_world import MergeWorld, conflicts, counts, making_merge_worlds

Make = Callable[..., MergeWorld]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with making_merge_worlds(tmp_path) as make:
        yield make


def test_estimate_is_near_what_the_merge_costs(make: Make) -> None:
    """Bytes of rows and index entries within a factor of two; and the one lock."""
    world = make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a INT, b TEXT)",
        "CREATE INDEX by_b ON t (b, a)",
        "WITH n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
        " INSERT INTO t SELECT i, i, printf('%040d', i) FROM n",
    )
    before = world.mark()
    world.run("DELETE FROM t", "VACUUM")
    size = world.path.stat().st_size
    found = world.plan(before, "t").estimate
    assert found is not None
    assert world.merge(before, "t").code == 0
    world.run("PRAGMA wal_checkpoint(TRUNCATE)")
    written = world.path.stat().st_size - size
    assert found.rows == 5000
    assert written / 2 < found.bytes < written * 2
    assert found.bytes < found.log_bytes < found.log_bytes_max
    assert [(one.table, one.mode) for one in found.locks] == [(None, "the one write lock")]
    world.run("UPDATE t SET b = 'x', a = 0 WHERE id < 4")
    changed = world.plan(before, "t", update=True)
    assert changed.estimate is not None
    assert (changed.estimate.rows, 0 < changed.estimate.bytes < 500) == (3, True)
    assert changed.script is not None
    assert "-- locks the database: the one write lock\n" in changed.script


# --- the script ----------------------------------------------------------------------------------

NASTY = 'it\'s\na "line";\t-- \x00 end'


def run_script(path: Path, script: str) -> None:
    """Run a script in the shell; without a shell, as it does: the first error ends it."""
    shell = shutil.which("sqlite3")
    if shell:
        done = subprocess.run([shell, path], input=script, capture_output=True, text=True)
        if done.returncode:
            raise sqlite3.Error(done.stderr)
        return
    plain = "".join(line for line in script.splitlines(keepends=True) if not line.startswith("."))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(plain)


def scripted(make: Make) -> tuple[MergeWorld, Plan, int, int]:
    """Return a world with lost, damaged and bogus rows, its plan, and the two commits."""
    world = make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b TEXT)",
        "CREATE TABLE log (a, b)",
        "INSERT INTO t VALUES (-9223372036854775808, 0.1, 'x'), (2, x'00ff', NULL), (3, 1, 'old')",
        "INSERT INTO log VALUES (1, NULL), (1, NULL), (2, 'two')",
    )
    world.app.run("INSERT INTO t VALUES (4, 9e999, ?)", NASTY)
    before = world.mark()
    world.run("BEGIN", "DELETE FROM t WHERE id <> 3", "DELETE FROM log")
    world.run("UPDATE t SET b = 'bad' WHERE id = 3", "INSERT INTO t VALUES (9, 1, 'bad')", "COMMIT")
    after = world.mark()
    world.run("UPDATE t SET a = 1.0 WHERE id = 3")
    return world, world.plan(before, "t", "log", after=after, delete_extra=True), before, after


def test_script_does_what_the_merge_does(make: Make) -> None:
    """Promise: run by the shell, it leaves the very rows that `pitr merge` leaves."""
    world, plan, before, after = scripted(make)
    assert plan.script is not None
    image = world.image()
    done = world.merge(before, "t", "log", after=after, delete_extra=True)
    merged = world.image()
    assert merged != image
    world.undo(done.merge)
    assert world.image() == image
    run_script(world.path, plan.script)
    assert world.image() == merged
    assert world.app.run("SELECT b FROM t WHERE id = 4") == [[NASTY]]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE t SET a = 1 WHERE id = 3",  # 1.0 before: a change of type alone
        "UPDATE t SET b = 'later' WHERE id = 9",
        "INSERT INTO t VALUES (2, 1, 'mine')",
        "DELETE FROM t WHERE id = 3",
    ],
)
def test_script_stops_when_a_row_has_moved(make: Make, statement: str) -> None:
    """Promise: it asserts its own preconditions, and changes nothing when one does not hold."""
    world, plan, _, _ = scripted(make)
    world.run(statement)
    image = world.image()
    assert plan.script is not None
    with pytest.raises(sqlite3.Error):
        run_script(world.path, plan.script)
    assert world.changed_since(image) == {}


def test_script_is_left_out_when_it_would_be_long_or_wrong(make: Make) -> None:
    """Promise: no script of more rows than a person reads, and none of a plan that is blocked."""
    world = make("CREATE TABLE t (id INTEGER PRIMARY KEY, u UNIQUE)")
    for number in range(ROWS_MAX + 1):
        world.run(f"INSERT INTO t VALUES ({number}, {number})")
    before = world.mark()
    world.run("DELETE FROM t WHERE id > 0")
    assert world.plan(before, "t").script is not None
    world.run("DELETE FROM t")
    assert world.plan(before, "t").script is None
    world.run("INSERT INTO t VALUES (-1, 5)")
    blocked = world.plan(before, "t", where="id = 5")
    assert blocked.script is None
    assert blocked.blocking


# --- the fingerprint -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "is_same"),
    [
        ("INSERT INTO other VALUES (1)", True),
        ("UPDATE t SET a = 'x' WHERE id = 50", True),  # the plan does not touch it
        ("INSERT INTO t VALUES (60, 'new', 'new')", True),
        ("UPDATE t SET a = 'x' WHERE id = 3", False),  # a column that is not restored
        ("UPDATE t SET b = 'fine' WHERE id = 3", False),
        ("DELETE FROM t WHERE id = 3", False),
        ("INSERT INTO t VALUES (1, 'back', 'fine')", False),
        ("CREATE INDEX i ON t (a)", False),
        ("CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END", False),
        ("ALTER TABLE t ADD COLUMN c", False),
    ],
)
def test_fingerprint_changes_with_what_the_plan_rests_on(
    make: Make, statement: str, is_same: bool
) -> None:
    """Promise: rows, keys and definitions that matter change it, and nothing else does."""
    world = make("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)", "CREATE TABLE other (a)")
    world.run("INSERT INTO t VALUES (1, 'a', 'fine'), (2, 'b', 'fine'), (3, 'c', 'fine')")
    world.run("INSERT INTO t VALUES (50, 'a', 'bad')")
    before = world.mark()
    world.run(
        "BEGIN", "UPDATE t SET b = 'bad' WHERE id = 3", "DELETE FROM t WHERE id < 3", "COMMIT"
    )
    after = world.mark()
    one = world.plan(before, "t", after=after)
    world.run(statement)
    other = world.plan(before, "t", after=after)
    assert (one.fingerprint == other.fingerprint) is is_same


def test_fingerprint_changes_with_the_options(make: Make) -> None:
    """Promise: a plan made under other options is another plan."""
    world = make("CREATE TABLE t (id INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    before = world.mark()
    world.run("DELETE FROM t")
    ways = [{}, {"update": True}, {"delete_extra": True}, {"on_conflict": "skip"}]
    assert len({world.plan(before, "t", **how).fingerprint for how in ways}) == len(ways)


# --- drift ---------------------------------------------------------------------------------------

T = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT)"
ROWS = "INSERT INTO t VALUES (1, 'a', '7'), (2, 'b', '8')"


def drifted(make: Make, *statements: str, rows: str = ROWS) -> tuple[MergeWorld, int]:
    """Return a world whose table was changed after the mark and then lost its rows."""
    world = make(T, rows)
    before = world.mark()
    world.run(*statements, "DELETE FROM t")
    world.mark()
    return world, before


def test_added_column_gets_its_default(make: Make) -> None:
    """Promise: a column added since is no obstacle while it has a default or may be NULL."""
    world, before = drifted(
        make,
        "ALTER TABLE t ADD COLUMN n INT NOT NULL DEFAULT 5",
        "ALTER TABLE t ADD COLUMN m",
        "ALTER TABLE t ADD COLUMN g AS (n + 1)",
    )
    done = world.merge(before, "t")
    assert done.code == 0, done.error
    assert done.result is not None
    assert any("added since: n, m, g" in one for one in done.result.plan.warnings)
    assert world.app.run("SELECT * FROM t") == [
        [1, "a", "7", 5, None, 6],
        [2, "b", "8", 5, None, 6],
    ]
    assert world.undo(done.merge).code == 0
    assert world.app.run("SELECT count(*) FROM t") == [[0]]


def test_added_column_without_default_needs_a_value(make: Make) -> None:
    """Promise: NOT NULL without default is a blocker until --set gives a value out of the row."""
    world, before = drifted(make)
    world.run("DROP TABLE t", "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT, n NOT NULL)")
    image = world.image()
    blocked = world.merge(before, "t")
    assert blocked.code == 1
    assert blocked.result is not None
    assert conflicts(blocked.result.plan) == {("schema_drift", "t"): 2}
    assert "--set n=" in blocked.result.plan.blockers[0].detail
    assert world.changed_since(image) == {}
    done = world.merge(before, "t", set_columns={"n": "a || b"})
    assert done.code == 0, done.error
    assert world.app.run("SELECT id, n FROM t") == [[1, "a7"], [2, "b8"]]
    wrong = (("t.b", "1"), ("z", "1"), ("n", "nothing"), ("n", "(SELECT 1)"), ("n", "1; --"))
    for column, expression in wrong:
        assert isinstance(
            world.merge(before, "t", set_columns={column: expression}).error, UsageError
        )


def test_dropped_column_stays_dropped_and_is_told(make: Make) -> None:
    """Promise: it is never silently put back, and does not keep the rows away."""
    world, before = drifted(make, "ALTER TABLE t DROP COLUMN b")
    done = world.merge(before, "t")
    assert done.result is not None
    assert any("gone since" in one and " b" in one for one in done.result.plan.warnings)
    assert world.app.run("SELECT * FROM t") == [[1, "a"], [2, "b"]]
    assert world.undo(done.merge).code == 0


def test_renamed_column_gets_its_values_under_the_new_name(make: Make) -> None:
    """Promise: RENAME COLUMN and RENAME TO are followed."""
    world, before = drifted(make, "ALTER TABLE t RENAME COLUMN b TO c")
    world.run("ALTER TABLE t RENAME TO now")
    world.mark()
    done = world.merge(before, "t")
    assert done.code == 0, done.error
    assert world.app.run("SELECT id, a, c FROM now") == [[1, "a", "7"], [2, "b", "8"]]
    assert world.undo(done.merge).code == 0
    assert world.app.run("SELECT count(*) FROM now") == [[0]]


def test_changed_type_converts_what_it_can_without_loss(make: Make) -> None:
    """Promise: '7' may become 7; '007' may not, and says so."""
    rows = "INSERT INTO t VALUES (1, 'a', '7'), (2, 'b', '007'), (3, 'c', 'x'), (4, 'd', NULL)"
    world, before = drifted(make, rows=rows)
    world.run("DROP TABLE t", "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b INT)")
    image = world.image()
    blocked = world.merge(before, "t")
    assert blocked.code == 1
    assert blocked.result is not None
    assert conflicts(blocked.result.plan) == {("schema_drift", "t"): 1}
    assert blocked.result.plan.blockers[0].keys == ((2,),)
    assert world.changed_since(image) == {}
    assert world.merge(before, "t", on_conflict="skip").code == 0
    assert world.app.run("SELECT id, b FROM t") == [[1, 7], [3, "x"], [4, None]]


def test_recreated_table_is_merged_and_told(make: Make) -> None:
    """Promise: a table dropped and made anew is the same table for its rows, and it is said."""
    world, before = drifted(make, "DROP TABLE t", T, "INSERT INTO t VALUES (9, 'new', 'new')")
    world.run("INSERT INTO t VALUES (9, 'new', 'new')")
    done = world.merge(before, "t")
    assert done.result is not None
    assert any("made anew" in one for one in done.result.plan.warnings)
    assert [row[0] for row in world.app.run("SELECT id FROM t")] == [1, 2, 9]


def test_missing_table_comes_back_with_keys_and_indexes(make: Make) -> None:
    """Promise: --create-missing makes it as it was, foreign keys and indexes included."""
    world = make(
        "CREATE TABLE p (id INTEGER PRIMARY KEY)",
        "CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p, u, CHECK (u > 0))",
        "CREATE UNIQUE INDEX one ON c (u) WHERE u < 100",
        "INSERT INTO p VALUES (1)",
        "INSERT INTO c VALUES (1, 1, 5)",
    )
    before = world.mark()
    definition = "SELECT type, name, sql FROM sqlite_schema WHERE tbl_name IN ('c', 'p') ORDER BY 2"
    schema = world.app.run(definition)
    world.run("DROP TABLE c", "DROP TABLE p")
    blocked = world.merge(before, "c", create_missing=True)
    assert blocked.result is not None
    assert conflicts(blocked.result.plan) == {("parent_missing", "c"): 1}
    done = world.merge(before, "c", "p", create_missing=True)
    assert done.code == 0, done.error
    assert world.app.run(definition) == schema
    assert world.app.run("SELECT * FROM c") == [[1, 1, 5]]
    assert world.undo(done.merge).code == 0
    assert world.app.run(definition) == []


# --- kin -----------------------------------------------------------------------------------------

FAMILY = (
    "CREATE TABLE countries (code TEXT PRIMARY KEY, name)",
    "CREATE TABLE cities (id INTEGER PRIMARY KEY, country REFERENCES countries (code), name)",
    "CREATE TABLE people (id INTEGER PRIMARY KEY, city INT REFERENCES cities ON DELETE CASCADE,"
    " boss INT REFERENCES people ON DELETE SET NULL, name)",
    "CREATE TABLE pets (id INTEGER PRIMARY KEY, owner INT REFERENCES people ON DELETE CASCADE)",
    "INSERT INTO countries VALUES ('fr', 'France'), ('it', 'Italy')",
    "INSERT INTO cities VALUES (1, 'fr', 'Lyon'), (2, 'it', 'Rome')",
    "INSERT INTO people VALUES (10, 1, NULL, 'Ann'), (11, 1, 10, 'Bob'), (12, 2, 11, 'Cid')",
    "INSERT INTO pets VALUES (100, 10), (101, 11), (102, 12)",
)


def test_parents_come_back_at_every_level(make: Make) -> None:
    """Promise: --with-parents brings exactly the missing rows that are named, and says which."""
    world = make(*FAMILY)
    before = world.mark()
    for name in ("pets", "people", "cities", "countries"):
        world.run(f"DELETE FROM {name}")
    world.mark()
    image = world.image()
    blocked = world.merge(before, "pets", where="id = 101")
    assert blocked.result is not None
    assert conflicts(blocked.result.plan) == {("parent_missing", "pets"): 1}
    done = world.merge(before, "pets", where="id = 101", with_parents=True)
    assert done.code == 0, done.error or done.result
    assert done.result is not None
    assert world.changed_since(image) == {
        "countries": ([], [("'fr'", "'France'")]),
        "cities": ([], [("1", "'fr'", "'Lyon'")]),
        "people": ([], [("10", "1", "NULL", "'Ann'"), ("11", "1", "10", "'Bob'")]),
        "pets": ([], [("101", "11")]),
    }
    told = " ".join(done.result.plan.warnings)
    assert "people: 2 rows are added to the plan" in told
    assert world.undo(done.merge).code == 0
    assert world.changed_since(image) == {}


def test_children_are_told_and_come_back_when_asked(make: Make) -> None:
    """Promise: what ON DELETE CASCADE took and SET NULL forgot is found, named and offered."""
    world = make("PRAGMA foreign_keys = ON", *FAMILY)
    before = world.mark()
    whole = world.image()
    world.run("DELETE FROM people WHERE id IN (10, 11)")
    world.mark()
    image = world.image()
    plan = world.plan(before, "people")
    told = [one for one in plan.warnings if one.startswith("pets:")]
    assert len(told) == 1
    assert re.search(r"2 rows .* CASCADE.*--with-children.*-t pets", told[0])
    assert counts(plan) == {"lost": 2, "differs": 1}
    done = world.merge(before, "people", with_children=True, update=True)
    assert done.code == 0, done.error
    assert world.changed_since(whole) == {}
    assert world.undo(done.merge).code == 0
    assert world.changed_since(image) == {}
    cities = make("PRAGMA foreign_keys = ON", *FAMILY)
    start = cities.mark()
    whole = cities.image()
    cities.run("DELETE FROM cities WHERE id = 1")
    cities.mark()
    done = cities.merge(start, "cities", with_children=True)
    assert done.code == 0, done.error
    # Who had a boss among them has forgotten him; that row was not lost, only damaged.
    assert cities.changed_since(whole) == {}


def test_rows_whose_parents_are_left_aside_are_left_aside_too(make: Make) -> None:
    """Promise: skip never leaves a row without the parent that it had."""
    world = make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, up INT REFERENCES t, u UNIQUE)",
        "INSERT INTO t VALUES (1, NULL, 'a'), (2, 1, 'b'), (3, 2, 'c')",
        "INSERT INTO t VALUES (4, NULL, 'd'), (5, 4, 'e')",
    )
    before = world.mark()
    world.run("DELETE FROM t", "INSERT INTO t VALUES (9, NULL, 'a')")
    image = world.image()
    done = world.merge(before, "t", on_conflict="skip")
    assert done.result is not None
    assert conflicts(done.result.plan) == {("unique_taken", "t"): 1, ("parent_missing", "t"): 2}
    assert done.result.skipped == 3
    assert world.changed_since(image) == {"t": ([], [("4", "NULL", "'d'"), ("5", "4", "'e'")])}
