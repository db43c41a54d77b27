"""The traps L1 to L19 of putting rows back into SQLite, one test each.

Each asserts the class or blocker, the exit code, and that every other row of every table is what it
was: `changed_since` compares all rows of all tables, values and types.
"""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

import pitr
from pitr.sqlite.diff.states import StateSources, open_states
from pitr.sqlite.merge.apply import begin_locked
from pitr.vocabulary.plan import MergeStep, Plan
from tests.sqlite.capture_world import App, read_file
from tests.sqlite.merge_world import (
    Interrupting,
    MergeWorld,
    Outcome,
    conflicts,
    counts,
    making_merge_worlds,
)

Make = Callable[..., MergeWorld]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with making_merge_worlds(tmp_path) as make:
        yield make


def plan_of(done: Outcome) -> Plan:
    """Return the plan of a merge that ended without an error."""
    assert done.result is not None, done.error
    return done.result.plan


def ids(plan: Plan) -> list[object]:
    """Return the first value of the key of each row in conflict."""
    return [key[0] for blocker in plan.blockers for key in blocker.keys]


def test_l01_insert_or_replace_never_happens_even_where_the_table_declares_it(make: Make) -> None:
    """A lost row whose unique value is taken is a blocker; the row that has it stays, with kin."""
    world = make(
        "CREATE TABLE users (id INTEGER PRIMARY KEY, mail TEXT UNIQUE ON CONFLICT REPLACE)",
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, user INT REFERENCES users ON DELETE CASCADE)",
        "INSERT INTO users VALUES (1, 'a@x'), (2, 'b@x')",
    )
    before = world.mark()
    world.run("DELETE FROM users")
    world.run("INSERT INTO users VALUES (7, 'a@x')", "INSERT INTO orders VALUES (70, 7)")
    image = world.image()
    blocked = world.merge(before, "users")
    assert blocked.code == 1
    assert counts(plan_of(blocked)) == {"lost": 2}
    assert conflicts(plan_of(blocked)) == {("unique_taken", "users"): 1}
    (blocker,) = plan_of(blocked).blockers
    assert (blocker.keys, blocker.held_by) == (((1,),), ((7,),))
    assert world.changed_since(image) == {}
    skipped = world.merge(before, "users", on_conflict="skip")
    assert skipped.code == 0
    assert world.changed_since(image) == {"users": ([], [("2", "'b@x'")])}


def test_l02_insert_or_ignore_never_hides_a_check_that_fails(make: Make) -> None:
    """A row that a CHECK or NOT NULL of today refuses is a blocker, not a row silently left out."""
    world = make("CREATE TABLE t (id INTEGER PRIMARY KEY, n INT, s TEXT)")
    world.run("INSERT INTO t VALUES (1, 5, 'a'), (2, -5, 'b'), (3, 7, NULL), (4, 8, 'd')")
    before = world.mark()
    world.run("BEGIN", "DROP TABLE t")
    world.run("CREATE TABLE t (id INTEGER PRIMARY KEY, n INT CHECK (n > 0), s TEXT NOT NULL)")
    world.run("INSERT INTO t VALUES (4, 8, 'd')", "COMMIT")
    image = world.image()
    blocked = world.merge(before, "t")
    assert blocked.code == 1
    assert conflicts(plan_of(blocked)) == {("check_failed", "t"): 2}
    assert sorted(ids(plan_of(blocked)))[:2] == [2, 2]
    assert world.changed_since(image) == {}
    skipped = world.merge(before, "t", on_conflict="skip")
    assert skipped.code == 0
    assert world.changed_since(image) == {"t": ([], [("1", "5", "'a'")])}


FAMILY = (
    "CREATE TABLE parents (id INTEGER PRIMARY KEY, name TEXT)",
    "CREATE TABLE children (id INTEGER PRIMARY KEY, parent INT REFERENCES parents)",
    "INSERT INTO parents VALUES (1, 'p'), (2, 'q')",
    "INSERT INTO children VALUES (10, 1), (20, 2)",
)


def test_l03_foreign_keys_are_set_before_the_transaction_and_read_back(make: Make) -> None:
    """The connection enforces them inside its transaction; a parent that goes in between counts."""
    world = make(*FAMILY)
    sources = StateSources(
        live=world.path, sidecar=world.restore(world.mark(), "parents"), tables=(), before_commit=1
    )
    with open_states(sources, wait_seconds=0, writable=True) as states:
        for enforced in (True, False):
            begin_locked(states.connection, enforces_keys=enforced, lock_seconds=1)
            assert bool(states.connection.pragma("foreign_keys")) is enforced
            states.connection.execute("ROLLBACK")
    before = world.mark()
    world.run("DELETE FROM children")
    image = world.image()
    go = Interrupting(MergeStep.PLANNED, lambda: world.run("DELETE FROM parents WHERE id = 2"))
    refused = world.merge(before, "children", is_agreed=False, on_step=go)
    assert refused.code == 6
    assert "would have no parent" in str(refused.error.detail)
    assert world.changed_since(image) == {"parents": ([("2", "'q'")], [])}
    blocked = world.merge(before, "children")
    assert blocked.code == 1
    assert conflicts(plan_of(blocked)) == {("parent_missing", "children"): 1}
    with_parents = world.merge(before, "children", with_parents=True)
    assert with_parents.code == 0, plan_of(with_parents).blockers
    came = [("10", "1"), ("20", "2")]
    assert world.changed_since(image) == {"children": ([], came)}


def test_l04_orphans_of_a_database_that_never_enforces_keys_are_no_obstacle(make: Make) -> None:
    """Violations are compared before and after: rows that had no parent then come back as well."""
    world = make(*FAMILY, "INSERT INTO children VALUES (30, 99), (31, 99), (40, NULL)")
    before = world.mark()
    world.run("DELETE FROM children WHERE id IN (10, 30, 40)")
    image = world.image()
    done = world.merge(before, "children", "parents")
    assert done.code == 0, done.error
    assert any("had no parent at the target either" in w for w in plan_of(done).warnings)
    came = [("10", "1"), ("30", "99"), ("40", "NULL")]
    assert world.changed_since(image) == {"children": ([], came)}
    world.run("DELETE FROM children WHERE id = 10", "DELETE FROM parents WHERE id = 1")
    assert conflicts(plan_of(world.merge(before, "children"))) == {
        ("parent_missing", "children"): 1
    }


def test_l05_rowid_is_reused_and_renumbered(make: Make) -> None:
    """A reused id is a conflict; rows without a declared key are never matched by their rowid."""
    world = make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v)",
        "CREATE TABLE plain (v)",
        "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
        "INSERT INTO plain VALUES ('a'), ('b'), ('c')",
    )
    before = world.mark()
    world.run("BEGIN", "DELETE FROM t WHERE id = 2", "DELETE FROM plain WHERE v = 'a'", "COMMIT")
    after = world.mark()
    world.run("INSERT INTO t (v) VALUES ('new')", "VACUUM")
    image = world.image()
    assert world.app.run("SELECT id FROM t WHERE v = 'new'") == [[2]]
    blocked = world.merge(before, "t", after=after)
    assert blocked.code == 1
    assert conflicts(plan_of(blocked)) == {("key_reused", "t"): 1}
    assert world.changed_since(image) == {}
    done = world.merge(before, "plain", after=after)
    assert done.code == 0
    assert world.changed_since(image) == {"plain": ([], [("'a'",)])}
    over = world.merge(before, "t", after=after, on_conflict="overwrite")
    assert over.code == 0
    assert world.app.run("SELECT * FROM t") == [[1, "a"], [2, "b"]]
    assert world.undo(over.merge).code == 0
    assert world.app.run("SELECT * FROM t") == [[1, "a"], [2, "new"]]


def test_l06_autoincrement_value_is_raised_and_comes_back_with_a_dropped_table(make: Make) -> None:
    """sqlite_sequence never goes down, and a table made anew goes on where it had been."""
    world = make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v)",
        "CREATE INDEX by_v ON t (v)",
        "INSERT INTO t VALUES (1, 'a'), (5, 'b'), (9, 'c')",
        "DELETE FROM t WHERE id = 9",
        "CREATE TABLE other (id INTEGER PRIMARY KEY AUTOINCREMENT)",
    )
    before = world.mark()
    world.run("DROP TABLE t")
    image = world.image()
    blocked = world.merge(before, "t")
    assert blocked.code == 1
    assert conflicts(plan_of(blocked)) == {("schema_drift", "t"): 2}
    assert world.changed_since(image) == {}
    made = world.merge(before, "t", create_missing=True)
    assert made.code == 0, made.error
    assert world.app.run("SELECT seq FROM sqlite_sequence WHERE name = 't'") == [[9]]
    assert world.app.run("SELECT name FROM pragma_index_list('t')") == [["by_v"]]
    rows = [("1", "'a'"), ("5", "'b'")]
    changed = world.changed_since(image)
    assert changed.pop("sqlite_sequence") == ([], [("'t'", "9")])
    assert changed == {"t": ([], rows)}
    back = world.undo(made.merge)
    assert back.code == 0, back.error
    assert world.changed_since(image) == {}
    world.merge(before, "t", create_missing=True)
    world.run("INSERT INTO t VALUES (50, 'new')", "DELETE FROM t WHERE id = 1")
    assert world.merge(before, "t").code == 0
    assert world.app.run("SELECT seq FROM sqlite_sequence WHERE name = 't'") == [[50]]


def test_l07_null_in_a_primary_key_is_no_identity(make: Make) -> None:
    """Two rows under the key NULL are two rows: they come back by content, each once."""
    world = make("CREATE TABLE t (k TEXT PRIMARY KEY, v)")
    world.run("INSERT INTO t VALUES (NULL, 'a'), (NULL, 'b'), ('x', 'c')")
    before = world.mark()
    world.run("DELETE FROM t WHERE v IN ('a', 'c')", "INSERT INTO t VALUES (NULL, 'new')")
    image = world.image()
    done = world.merge(before, "t")
    assert done.code == 0
    assert counts(plan_of(done)) == {"lost": 2}
    assert world.changed_since(image) == {"t": ([], [("'x'", "'c'"), ("NULL", "'a'")])}


def test_l08_a_change_of_type_alone_is_a_change(make: Make) -> None:
    """1, 1.0, '1' and x'31' are four values: each goes back with its type."""
    world = make("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b TEXT, c INT)")
    world.run("INSERT INTO t VALUES (1, 1, 'x', 1), (2, '1', 'x', 1), (3, x'31', 'x', 1)")
    before = world.mark()
    world.run("UPDATE t SET a = CASE id WHEN 1 THEN 1.0 WHEN 2 THEN 1 ELSE '1' END")
    after = world.mark()
    world.run("UPDATE t SET b = 'later'")
    image = world.image()
    done = world.merge(before, "t", after=after)
    assert done.code == 0
    assert counts(plan_of(done)) == {"damaged": 3}
    assert world.app.run("SELECT typeof(a), b FROM t ORDER BY id") == [
        ["integer", "later"],
        ["text", "later"],
        ["blob", "later"],
    ]
    assert world.undo(done.merge).code == 0
    assert world.changed_since(image) == {}
    strict = make("CREATE TABLE s (id INTEGER PRIMARY KEY, a TEXT) STRICT")
    strict.run("INSERT INTO s VALUES (1, 'abc'), (2, '7')")
    start = strict.mark()
    strict.run("BEGIN", "DROP TABLE s", "CREATE TABLE s (id INTEGER PRIMARY KEY, a INT) STRICT")
    strict.run("COMMIT")
    image = strict.image()
    refused = strict.merge(start, "s")
    assert refused.code == 1
    assert conflicts(plan_of(refused)) == {("check_failed", "s"): 1}
    assert strict.changed_since(image) == {}


def test_l09_generated_columns_are_computed_and_never_inserted(make: Make) -> None:
    """Stored and virtual ones get their values from the rest of the row."""
    world = make(
        "CREATE TABLE t (a INT, id INTEGER PRIMARY KEY, twice INT AS (a * 2) STORED,"
        " text TEXT AS ('n' || a) VIRTUAL UNIQUE)"
    )
    world.run("INSERT INTO t (id, a) VALUES (1, 5), (2, 6), (3, 7)")
    before = world.mark()
    world.run("DELETE FROM t WHERE id = 1", "UPDATE t SET a = 60 WHERE id = 2")
    after = world.mark()
    image = world.image()
    done = world.merge(before, "t", after=after)
    assert done.code == 0, done.error
    assert world.app.run("SELECT * FROM t ORDER BY id") == [
        [5, 1, 10, "n5"],
        [6, 2, 12, "n6"],
        [7, 3, 14, "n7"],
    ]
    assert world.undo(done.merge).code == 0
    assert world.changed_since(image) == {}
    world.run("INSERT INTO t (id, a) VALUES (9, 5)")
    assert conflicts(plan_of(world.merge(before, "t"))) == {("unique_taken", "t"): 1}


def test_l10_partial_and_expression_indexes_collide_too(make: Make) -> None:
    """A unique index on an expression, or on some rows, is asked in its own words."""
    world = make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, class TEXT, live INT)",
        "CREATE UNIQUE INDEX one ON t (lower(name), class) WHERE live = 1",
        "INSERT INTO t VALUES (1, 'Ann', 'x', 1), (2, 'Bob', 'x', 1), (3, 'Cid', 'x', 0)",
    )
    before = world.mark()
    world.run("DELETE FROM t")
    world.run("INSERT INTO t VALUES (11, 'ANN', 'x', 1), (12, 'BOB', 'x', 0), (13, 'CID', 'x', 1)")
    image = world.image()
    blocked = world.merge(before, "t")
    assert blocked.code == 1
    assert conflicts(plan_of(blocked)) == {("unique_taken", "t"): 1}
    (blocker,) = plan_of(blocked).blockers
    assert (blocker.keys, blocker.held_by) == (((1,),), ((11,),))
    assert world.changed_since(image) == {}
    skipped = world.merge(before, "t", on_conflict="skip")
    assert skipped.code == 0
    came = [("2", "'Bob'", "'x'", "1"), ("3", "'Cid'", "'x'", "0")]
    assert world.changed_since(image) == {"t": ([], came)}


def test_l11_full_text_and_rtree_are_merged_through_their_tables(make: Make) -> None:
    """Never through shadow tables: an index over a content table follows that."""
    world = make(
        "CREATE TABLE docs (id INTEGER PRIMARY KEY, body TEXT)",
        "CREATE VIRTUAL TABLE found USING fts5(body, content=docs, content_rowid=id)",
        "CREATE TRIGGER docs_in AFTER INSERT ON docs BEGIN"
        " INSERT INTO found(rowid, body) VALUES (new.id, new.body); END",
        "CREATE TRIGGER docs_out AFTER DELETE ON docs BEGIN"
        " INSERT INTO found(found, rowid, body) VALUES ('delete', old.id, old.body); END",
        "CREATE VIRTUAL TABLE notes USING fts5(body)",
        "CREATE VIRTUAL TABLE boxes USING rtree(id, low, high)",
        "INSERT INTO docs VALUES (1, 'red lamp'), (2, 'blue lamp')",
        "INSERT INTO notes(rowid, body) VALUES (1, 'first note'), (2, 'second note')",
        "INSERT INTO boxes VALUES (1, 0, 1), (2, 2, 3)",
    )
    before = world.mark()
    world.run("DELETE FROM docs WHERE id = 1", "DELETE FROM notes WHERE rowid = 1")
    world.run("DELETE FROM boxes WHERE id = 1", "INSERT INTO docs VALUES (3, 'red chair')")
    done = world.merge(before, "docs", "found", "notes", "boxes")
    assert done.code == 0, done.error
    assert world.app.run("SELECT rowid FROM found('red') ORDER BY rowid") == [[1], [3]]
    assert world.app.run("SELECT rowid FROM notes('first')") == [[1]]
    assert world.app.run("SELECT id FROM boxes WHERE high <= 1") == [[1]]
    for name in ("found", "notes"):
        world.run(f"INSERT INTO {name}({name}, rank) VALUES ('integrity-check', 1)")
    assert world.app.run("SELECT rtreecheck('boxes')") == [["ok"]]
    assert world.undo(done.merge).code == 0
    assert world.app.run("SELECT rowid FROM found('red')") == [[3]]
    assert world.app.run("SELECT rowid FROM notes('first')") == []
    for name in ("found", "notes"):
        world.run(f"INSERT INTO {name}({name}, rank) VALUES ('integrity-check', 1)")


def test_l12_triggers_fire_and_are_told_beforehand(make: Make) -> None:
    """Each is named with what it writes; what it does to rows of ours is refused or told."""
    world = make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v, at TEXT)",
        "CREATE TABLE audit (id, what)",
        "CREATE TRIGGER audit_in AFTER INSERT ON t "
        "BEGIN INSERT INTO audit VALUES (new.id, 'in'); END",
        "CREATE TRIGGER stamp AFTER UPDATE OF v ON t "
        "BEGIN UPDATE t SET at = 'now' WHERE id = new.id;"
        " END",
        "INSERT INTO t VALUES (1, 'a', 'then'), (2, 'b', 'then')",
        "DELETE FROM audit",
    )
    before = world.mark()
    world.run("BEGIN", "DELETE FROM t WHERE id = 1", "UPDATE t SET v = 'x' WHERE id = 2", "COMMIT")
    after = world.mark()
    image = world.image()
    done = world.merge(before, "t", after=after)
    assert done.code == 0, done.error
    told = " ".join(plan_of(done).warnings)
    assert "the trigger audit_in will fire (inserts into audit)" in told
    assert "the trigger stamp will fire (updates t)" in told
    assert done.result is not None
    assert any("have set at in 1 rows" in warning for warning in done.result.warnings)
    gone, came = [("2", "'x'", "'now'")], [("1", "'a'", "'then'"), ("2", "'b'", "'now'")]
    assert world.changed_since(image) == {"t": (gone, came), "audit": ([], [("1", "'in'")])}
    drops = make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", "INSERT INTO t VALUES (1, 'a'), (2, 'b')"
    )
    start = drops.mark()
    drops.run("DELETE FROM t")
    drops.run(
        "CREATE TRIGGER no BEFORE INSERT ON t WHEN new.id = 2 BEGIN SELECT RAISE(IGNORE); END"
    )
    image = drops.image()
    refused = drops.merge(start, "t")
    assert refused.code == 6
    assert "trigger_suppressed: 1 rows of t" in str(refused.error.detail)
    assert drops.changed_since(image) == {}
    drops.run("DROP TRIGGER no")
    drops.run(
        "CREATE TRIGGER alters AFTER INSERT ON t BEGIN DELETE FROM t WHERE id = new.id - 1; END"
    )
    refused = drops.merge(start, "t")
    assert refused.code == 6
    assert drops.changed_since(image) == {}


def test_l13_deleting_what_the_damage_put_in_never_cascades(make: Make) -> None:
    """Children that came since keep their parent: a blocker, not a cascade, not an orphan."""
    world = make(
        "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
        "CREATE TABLE children (id INTEGER PRIMARY KEY, parent INT REFERENCES parents"
        " ON DELETE CASCADE)",
        "INSERT INTO parents VALUES (1)",
    )
    before = world.mark()
    world.run("INSERT INTO parents VALUES (2), (3)")
    after = world.mark()
    world.run("INSERT INTO children VALUES (20, 2)")
    image = world.image()
    blocked = world.merge(before, "parents", after=after, delete_extra=True)
    assert blocked.code == 1
    assert conflicts(plan_of(blocked)) == {("parent_missing", "parents"): 1}
    assert ids(plan_of(blocked)) == [2]
    assert world.changed_since(image) == {}
    come = Interrupting(MergeStep.PLANNED, lambda: world.run("INSERT INTO children VALUES (30, 3)"))
    stale = world.merge(
        before, "parents", after=after, delete_extra=True, on_conflict="skip", on_step=come,
        is_agreed=False,
    )  # fmt: skip
    assert stale.code == 7
    assert world.changed_since(image) == {"children": ([], [("30", "3")])}


def test_l14_a_writer_in_between_is_no_snapshot_error(make: Make) -> None:
    """The writing transaction begins as one: what others commit before it does not break it."""
    world = make("CREATE TABLE t (id INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (1), (2)")
    before = world.mark()
    world.run("DELETE FROM t WHERE id = 1")
    image = world.image()
    write = Interrupting(MergeStep.PLANNED, lambda: world.run("INSERT INTO t VALUES (3)"))
    done = world.merge(before, "t", on_step=write, is_agreed=False)
    assert done.code == 0, done.error
    assert world.changed_since(image) == {"t": ([], [("1",), ("3",)])}


def test_l15_only_the_live_database_is_written(make: Make) -> None:
    """The sidecar is attached read-only, and not one byte of it changes."""
    world = make("CREATE TABLE t (id INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (1), (2)")
    before = world.mark()
    world.run("DELETE FROM t WHERE id = 1")
    image = world.image()
    sources = world.sources(before, "t")
    digest = hashlib.sha256(sources.sidecar.read_bytes()).digest()
    with open_states(sources, wait_seconds=0, writable=True) as states:
        assert states.connection.readonly("before")
        with pytest.raises(apsw.ReadOnlyError):
            states.connection.execute("DELETE FROM before.t")
    assert world.merge(before, "t").code == 0
    files = sorted(world.folder.glob("sidecar-*.db*"))
    assert {hashlib.sha256(path.read_bytes()).digest() for path in files} == {digest}
    assert world.changed_since(image) == {"t": ([], [("1",)])}


def test_l16_the_engine_uses_no_other_sqlite_library() -> None:
    """Python's sqlite3 has another SQLite and a poorer authorizer: only the demo uses it."""
    root = Path(pitr.__file__).parent
    users = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        and "sqlite3" in (getattr(node, "module", None), *(alias.name for alias in node.names))
    ]
    assert set(users) <= {"cli/demo_shop.py"}


def test_l17_no_transaction_begins_by_itself(make: Make) -> None:
    """On our connections a statement is its own transaction until BEGIN is said."""
    world = make("CREATE TABLE t (id INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (1), (2)")
    before = world.mark()
    sources = world.sources(before, "t")
    image = world.image()
    with open_states(sources, wait_seconds=0, writable=True) as states:
        states.connection.execute("CREATE TABLE temp.mine (a)")
        states.connection.execute("INSERT INTO temp.mine SELECT id FROM main.t")
        assert not states.connection.in_transaction
        begin_locked(states.connection, enforces_keys=True, lock_seconds=1)
        assert states.connection.in_transaction
        states.connection.execute("ROLLBACK")
    assert world.changed_since(image) == {}


def test_l18_rows_that_are_in_the_wal_alone_are_seen(make: Make) -> None:
    """The live database is read and written through SQLite, never as a copied file."""
    world = make("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    world.run("PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA wal_autocheckpoint = 0")
    world.run("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    before = world.mark()
    with App(world.path, "BEGIN", "SELECT * FROM t") as reader:
        world.run("DELETE FROM t WHERE id = 1", "INSERT INTO t VALUES (1, 'later')")
        assert b"later" not in read_file(world.path)
        image = world.image()
        assert counts(world.plan(before, "t")) == {"differs": 1}
        world.run("DELETE FROM t WHERE id = 1")
        done = world.merge(before, "t")
        assert done.code == 0
        assert reader.run("SELECT count(*) FROM t") == [[2]]
    assert world.changed_since(image) == {"t": ([("1", "'later'")], [("1", "'a'")])}


_APPLICATION = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.create_collation("german", lambda a, b: (a.lower() > b.lower()) - (a.lower() < b.lower()))
c.create_function("valid", 1, lambda value: value > 0, deterministic=True)
for statement in sys.argv[2:]:
    c.execute(statement)
"""


def test_l19_what_only_the_application_knows_is_found_before_anything_is_written(
    make: Make,
) -> None:
    """A collation in an index, a function in a CHECK or a trigger: a blocker that names it."""
    world = make("CREATE TABLE plain (id INTEGER PRIMARY KEY)", "INSERT INTO plain VALUES (1)")

    def application(*statements: str) -> None:
        command = [sys.executable, "-c", _APPLICATION, str(world.path), *statements]
        subprocess.run(command, check=True)

    application(
        "CREATE TABLE sorted (id INTEGER PRIMARY KEY, name TEXT COLLATE german)",
        "CREATE INDEX by_name ON sorted (name)",
        "CREATE TABLE checked (id INTEGER PRIMARY KEY, n INT CHECK (valid(n)))",
        "CREATE TABLE watched (id INTEGER PRIMARY KEY, n INT)",
        "INSERT INTO sorted VALUES (1, 'a'), (2, 'b')",
        "INSERT INTO checked VALUES (1, 1), (2, 2)",
        "INSERT INTO watched VALUES (1, 1), (2, 2)",
        "CREATE TRIGGER w AFTER INSERT ON watched BEGIN SELECT valid(new.n); END",
    )
    before = world.mark()
    application(*(f"DELETE FROM {name} WHERE id = 1" for name in ("sorted", "checked", "watched")))
    world.run("DELETE FROM plain")
    image = world.image()
    for name, word in (("sorted", "german"), ("checked", "valid"), ("watched", "valid")):
        blocked = world.merge(before, name, "plain")
        assert blocked.code == 1, blocked.error
        assert conflicts(plan_of(blocked)) == {("check_failed", name): 1}
        (blocker,) = plan_of(blocked).blockers
        assert word in blocker.detail
    assert world.changed_since(image) == {}
