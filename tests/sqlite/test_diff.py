"""Rows of a real database before, after and now: each gets its class, and its columns."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pitr.sqlite.diff.classified import classify, let_go_of_live, stream_rows
from pitr.sqlite.diff.states import BEFORE, LIVE, open_states
from pitr.sqlite.statement.literal import literal
from pitr.vocabulary.row_class import RowClass
from tests.sqlite.diff_world import WHOLE, DiffWorld, Found, both_ways, classes, making_worlds, mask
from tests.sqlite.past_files import APPLICATION, ODD_NAMES, quoted, write_database

FILL = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {})"


Make = Callable[..., DiffWorld]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a function that makes a world of the test's own."""
    with making_worlds(tmp_path) as function:
        yield function


def compared(world: DiffWorld, before: int, table: str, after: int | None = None) -> Found:
    """Return the classes of one table; the archive is up to date, so both ways are tried."""
    with world.states(before, table, after=after) as states:
        assert states.live_commit is not None
        (found,) = both_ways(states)
        return classes(found[1])


# --- every class ---------------------------------------------------------------------------------

# One row each: what the damage does, what happens later; the class and the columns with the state
# after the damage known, and without it. The rows are (id, 'was', 'kept').
DELETE, CHANGE = "DELETE FROM t WHERE id = {}", "UPDATE t SET a = 'bad' WHERE id = {}"
SAME, OTHER = "INSERT INTO t VALUES ({}, 'was', 'kept')", "INSERT INTO t VALUES ({}, 'new', 'kept')"
CASES = {
    "deleted": (DELETE, "", ("lost", ""), ("lost", "")),
    "deleted and put back": (DELETE, SAME, ("already_back", ""), None),
    "deleted and the key taken": (DELETE, OTHER, ("key_reused", "t0"), ("differs", "r0")),
    "changed": (CHANGE, "", ("damaged", "r0"), ("differs", "r0")),
    "changed, another column newer": (
        CHANGE,
        "UPDATE t SET b = 'newer' WHERE id = {}",
        ("damaged", "r0"),
        ("differs", "r0r1"),
    ),
    "changed and set back": (
        CHANGE,
        "UPDATE t SET a = 'was' WHERE id = {}",
        ("already_back", ""),
        None,
    ),
    "changed and written again": (
        CHANGE,
        "UPDATE t SET a = 'mine' WHERE id = {}",
        ("touched_since", "t0"),
        ("differs", "r0"),
    ),
    "two columns changed, one written again": (
        "UPDATE t SET a = 'bad', b = 'bad' WHERE id = {}",
        "UPDATE t SET a = 'mine' WHERE id = {}",
        ("touched_since", "r1t0"),
        ("differs", "r0r1"),
    ),
    "two columns changed, one set back": (
        "UPDATE t SET a = 'bad', b = 'bad' WHERE id = {}",
        "UPDATE t SET a = 'was' WHERE id = {}",
        ("damaged", "r1"),
        ("differs", "r1"),
    ),
    "changed and deleted later": (CHANGE, DELETE, ("deleted_since", ""), ("lost", "")),
    "left alone, changed later": ("", CHANGE, None, ("differs", "r0")),
    "left alone, deleted later": ("", DELETE, None, ("lost", "")),
    "left alone": ("", "", None, None),
    "put in": (
        "INSERT INTO t VALUES ({} + 100, 'bad', 'bad')",
        "",
        ("bogus_insert", ""),
        None,
    ),
    "put in and changed later": (
        "INSERT INTO t VALUES ({} + 100, 'bad', 'bad')",
        "UPDATE t SET b = 'mine' WHERE id = {} + 100",
        ("bogus_touched", ""),
        None,
    ),
    "put in and deleted later": (
        "INSERT INTO t VALUES ({} + 100, 'bad', 'bad')",
        "DELETE FROM t WHERE id = {} + 100",
        ("already_back", ""),
        None,
    ),
    "put in later": ("", "INSERT INTO t VALUES ({} + 100, 'fine', 'fine')", None, None),
}


@pytest.fixture(scope="module", params=["WAL", "DELETE"])
def every_case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Found, Found]]:
    """Return the classes of all cases in one database, with the state after known and without."""
    world = DiffWorld(
        tmp_path_factory.mktemp("cases"),
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)",
        FILL.format(len(CASES)) + " INSERT INTO t SELECT i, 'was', 'kept' FROM n",
        mode=request.param,
    )
    before = world.mark()
    world.run("BEGIN", *(case[0].format(at) for at, case in numbered() if case[0]), "COMMIT")
    after = world.mark()
    world.run(*(case[1].format(at) for at, case in numbered() if case[1]))
    world.mark()
    yield compared(world, before, "t", after), compared(world, before, "t")
    world.close()


def numbered() -> Iterator[tuple[int, tuple]]:  # type: ignore[type-arg]
    yield from enumerate(CASES.values(), start=1)


@pytest.mark.parametrize("name", CASES)
def test_row_gets_the_class_of_what_happened_to_it(
    every_case: tuple[Found, Found], name: str
) -> None:
    """With the state after the damage known, and without it; in both journal modes."""
    number = list(CASES).index(name) + 1
    for found, expected in zip(every_case, CASES[name][2:], strict=True):
        keys = [(number,), (number + 100,)]
        got = [found[key] for key in keys if key in found]
        assert got == ([] if expected is None else [expected])


def test_counts_say_how_many_rows_each_class_has(make: Make) -> None:
    """The counts are those of the rows, and unrelated rows are in none."""
    world = make("CREATE TABLE t (id INTEGER PRIMARY KEY, a)", FILL.format(50) + INTO_T)
    before = world.mark()
    world.run("DELETE FROM t WHERE id <= 7", "UPDATE t SET a = 'x' WHERE id > 45")
    after = world.mark()
    with world.states(before, "t", after=after) as states:
        ((table, rows),) = both_ways(states)
    assert table.counts == {RowClass.LOST: 7, RowClass.DAMAGED: 5}
    assert [row.key for row in rows] == [(at,) for at in [*range(1, 8), *range(46, 51)]]


INTO_T = " INSERT INTO t SELECT i, i FROM n"


# --- what is equal -------------------------------------------------------------------------------

VALUES = {
    "integer to real": ("1", "1.0", True),
    "integer to text": ("1", "'1'", True),
    "text to blob": ("'a'", "x'61'", True),
    "another case": ("'Ann'", "'ANN'", True),
    "a blank at the end": ("'a'", "'a '", True),
    "null to empty": ("NULL", "''", True),
    "value to null": ("5", "NULL", True),
    "the same written again": ("'same'", "'same'", False),
    "null written again": ("NULL", "NULL", False),
    "the sign of zero": ("0.0", "-0.0", False),
    "a large integer": ("9007199254740992", "9007199254740993", True),
    "a byte at the end of a long value": (
        "cast(zeroblob(9000) || 'a' AS BLOB)",
        "cast(zeroblob(9000) || 'b' AS BLOB)",
        True,
    ),
}


def test_values_are_equal_by_value_and_type(make: Make) -> None:
    """Every way in which SQLite's `=` would say too much or too little."""
    world = make("CREATE TABLE t (id INTEGER PRIMARY KEY, a COLLATE NOCASE, b)")
    for number, (old, _, _) in enumerate(VALUES.values()):
        world.run(f"INSERT INTO t VALUES ({number}, {old}, 0)")
    before = world.mark()
    for number, (_, new, _) in enumerate(VALUES.values()):
        world.run(f"UPDATE t SET a = {new} WHERE id = {number}")
    after = world.mark()

    found = compared(world, before, "t", after)

    differing = {(at,) for at, (_, _, differs) in enumerate(VALUES.values()) if differs}
    assert found.keys() == differing
    assert set(found.values()) == {("damaged", "r0")}


# --- keys ----------------------------------------------------------------------------------------

KEYS = {
    "composite": "CREATE TABLE t (k TEXT, n INT, a, PRIMARY KEY (n, k))",
    "without rowid": "CREATE TABLE t (k TEXT, n INT, a, PRIMARY KEY (n, k)) WITHOUT ROWID",
    "descending": "CREATE TABLE t (k TEXT, n INT, a, PRIMARY KEY (n DESC, k)) WITHOUT ROWID",
    "strict": "CREATE TABLE t (k TEXT, n INT, a ANY, PRIMARY KEY (n, k)) STRICT, WITHOUT ROWID",
    "unique and not null": "CREATE TABLE t (a, k TEXT NOT NULL, n INT NOT NULL, UNIQUE (n, k))",
    "two keys": "CREATE TABLE t (a UNIQUE, k TEXT, n INT, PRIMARY KEY (n, k))",
}


@pytest.mark.parametrize("kind", KEYS)
def test_rows_are_matched_by_whatever_key_there_is(make: Make, kind: str) -> None:
    """In the order of the key, each row with its class."""
    world = make(
        KEYS[kind],
        FILL.format(40) + " INSERT INTO t (k, n, a) SELECT 'k' || (i % 7), i, i FROM n",
    )
    before = world.mark()
    world.run("DELETE FROM t WHERE n = 3", "UPDATE t SET a = 'bad' || n WHERE n IN (9, 30)")
    after = world.mark()
    world.run("UPDATE t SET a = 'mine' WHERE n = 30", "DELETE FROM t WHERE n = 12", "VACUUM")
    world.mark()

    assert compared(world, before, "t", after) == {
        (3, "k3"): ("lost", ""),
        (9, "k2"): ("damaged", "r0"),
        (30, "k2"): ("touched_since", "t0"),
    }
    assert [*compared(world, before, "t")] == [(3, "k3"), (9, "k2"), (12, "k5"), (30, "k2")]


def test_changed_key_is_a_row_lost_and_a_row_put_in(make: Make) -> None:
    """An UPDATE of the key makes another row of it."""
    world = make("CREATE TABLE t (id INTEGER PRIMARY KEY, a)", FILL.format(9) + INTO_T)
    before = world.mark()
    world.run("UPDATE t SET id = 90 WHERE id = 9")
    after = world.mark()
    assert compared(world, before, "t", after) == {
        (9,): ("lost", ""),
        (90,): ("bogus_insert", ""),
    }


@pytest.mark.parametrize(
    ("declared", "old", "new"),
    [
        ("TEXT COLLATE NOCASE", "'Ann'", "'ANN'"),
        ("TEXT COLLATE RTRIM", "'Ann'", "'Ann  '"),
        ("", "1", "1.0"),
    ],
)
def test_key_that_matches_and_is_another_value_is_compared_as_well(
    make: Make, declared: str, old: str, new: str
) -> None:
    """Under NOCASE 'Ann' and 'ANN' name one row, and the damage to its name is seen."""
    world = make(
        f"CREATE TABLE t (k {declared} PRIMARY KEY, a) WITHOUT ROWID",
        f"INSERT INTO t VALUES ({old}, 1), ('other', 2)",
    )
    before = world.mark()
    world.run(f"UPDATE t SET k = {new} WHERE k = {old}")
    after = world.mark()
    with world.states(before, "t", after=after) as states:
        ((table, rows),) = both_ways(states)
    assert (table.key, table.columns) == (("k",), ("k", "a"))
    assert table.insert_columns == ("k", "a")
    assert [(row.row_class, mask(row)) for row in rows] == [("damaged", "r0")]
    assert rows[0].key == (rows[0].before or ())[:1]


def test_key_with_null_names_no_row(make: Make) -> None:
    """SQLite takes NULL in a primary key as often as it likes: then content has to tell."""
    world = make(
        "CREATE TABLE t (k TEXT PRIMARY KEY, a)",
        "INSERT INTO t VALUES (NULL, 1), (NULL, 2), ('x', 3)",
    )
    before = world.mark()
    world.run("DELETE FROM t WHERE a IN (1, 3)")
    world.mark()
    with world.states(before, "t") as states:
        ((table, rows),) = both_ways(states)
    assert table.keyless
    assert sorted((row.before for row in rows), key=str) == [("x", 3), (None, 1)]


def test_rows_without_key_are_counted_by_content(make: Make) -> None:
    """Of equal rows as many are lost as the damage took and nobody put back."""
    world = make("CREATE TABLE t (a COLLATE NOCASE, b)")
    world.run(
        "INSERT INTO t VALUES (1, NULL), (1, NULL), (1, NULL), ('x', 2), ('X', 2), (1.0, NULL)"
    )
    before = world.mark()
    world.run("DELETE FROM t WHERE rowid IN (1, 2, 4)")
    after = world.mark()
    world.run("INSERT INTO t VALUES (1, NULL)", "DELETE FROM t WHERE a = 'X'")
    world.mark()
    for known, expected in (
        (after, [(1, None), ("x", 2)]),
        (None, [(1, None), ("X", 2), ("x", 2)]),
    ):
        with world.states(before, "t", after=known) as states:
            ((table, rows),) = both_ways(states)
        assert [row.before for row in rows] == expected
        assert table.counts == {RowClass.LOST: len(expected)}
        assert {row.row_class for row in rows} == {RowClass.LOST}
        assert any("no key" in warning for warning in table.warnings)


def test_keys_under_a_collation_of_the_application_are_matched_exactly(make: Make) -> None:
    """A collation that nobody here knows does not stop the comparison."""
    world = make()
    live = write_database(
        world.path,
        [
            "PRAGMA journal_mode = WAL",
            "CREATE TABLE t (k TEXT COLLATE backwards PRIMARY KEY, a) WITHOUT ROWID",
            "INSERT INTO t VALUES ('ab', 1), ('ba', 2), ('cc', 3)",
        ],
        APPLICATION,
    )
    before = world.mark()
    write_database(live, ["DELETE FROM t WHERE k = 'ab'", "UPDATE t SET a = 9"], APPLICATION)
    after = world.mark()
    with world.states(before, "t", after=after) as states:
        ((_, rows),) = both_ways(states)
    assert classes(rows) == {
        ("ab",): ("lost", ""),
        ("ba",): ("damaged", "r0"),
        ("cc",): ("damaged", "r0"),
    }


# --- columns and names ---------------------------------------------------------------------------


def test_generated_columns_are_not_compared(make: Make) -> None:
    """They cannot be given a value: what they are computed from is what counts."""
    world = make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a, g AS (a * 2), s AS (a * 3) STORED)",
        "INSERT INTO t (id, a) VALUES (1, 1), (2, 2)",
    )
    before = world.mark()
    world.run("UPDATE t SET a = 5 WHERE id = 1")
    after = world.mark()
    with world.states(before, "t", after=after) as states:
        ((table, rows),) = both_ways(states)
    assert table.columns == ("a",)
    assert classes(rows) == {(1,): ("damaged", "r0")}
    assert table.warnings == ()


def test_generated_column_that_is_computed_otherwise_is_reported(make: Make) -> None:
    """The same values and another result: a warning with the number of rows."""
    world = make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a, g AS (a * 2))",
        "INSERT INTO t (id, a) VALUES (1, 1), (2, 2), (3, 0)",
    )
    before = world.mark()
    world.run("ALTER TABLE t DROP COLUMN g", "ALTER TABLE t ADD COLUMN g AS (a * 5)")
    world.mark()
    with world.states(before, "t") as states:
        ((table, rows),) = both_ways(states)
    assert rows == []
    assert any("generated column g differs in 2 rows" in warning for warning in table.warnings)


def test_odd_names_are_quoted(make: Make) -> None:
    """Tables and columns may be called what they like."""
    columns = ", ".join(map(quoted, ODD_NAMES))
    tables = [quoted(name) for name in ODD_NAMES]
    world = make()
    for table in tables:
        world.run(
            f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, {columns})",
            f"INSERT INTO {table} (id, {quoted(ODD_NAMES[-1])}) VALUES (1, 1), (2, 2)",
        )
    before = world.mark()
    for table in tables:
        world.run(
            f"DELETE FROM {table} WHERE id = 1", f"UPDATE {table} SET {quoted(ODD_NAMES[0])} = 0"
        )
    after = world.mark()
    with world.states(before, *ODD_NAMES, after=after) as states:
        found = both_ways(states)
    assert [table.name for table, _ in found] == ODD_NAMES
    for _, rows in found:
        assert classes(rows) == {(1,): ("lost", ""), (2,): ("damaged", "r0")}


def test_wide_table_is_compared_column_by_column(make: Make) -> None:
    """1999 columns beside the key, as many as SQLite allows."""
    columns = [f"c{number}" for number in range(1999)]
    world = make(
        f"CREATE TABLE t (id INTEGER PRIMARY KEY, {', '.join(columns)})",
        "INSERT INTO t (id, c0, c1998) VALUES (1, 1, 1), (2, 2, 2)",
    )
    before = world.mark()
    world.run("UPDATE t SET c1998 = 0, c5 = 0 WHERE id = 1", "DELETE FROM t WHERE id = 2")
    after = world.mark()
    world.run("UPDATE t SET c5 = 7 WHERE id = 1")
    world.mark()
    assert compared(world, before, "t", after) == {
        (1,): ("touched_since", "r1998t5"),
        (2,): ("lost", ""),
    }


def test_table_of_nothing_but_its_key_goes_by_existence(make: Make) -> None:
    """There is nothing to be damaged."""
    world = make("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    world.run("INSERT INTO t VALUES (1), (2), (3)")
    before = world.mark()
    world.run("DELETE FROM t WHERE id = 2")
    after = world.mark()
    assert compared(world, before, "t", after) == {(2,): ("lost", "")}


def test_full_text_rows_are_matched_by_rowid(make: Make) -> None:
    """A virtual table is compared whole, by what it shows."""
    world = make("CREATE VIRTUAL TABLE t USING fts5(a, b)")
    world.run("INSERT INTO t (rowid, a, b) VALUES (1, 'one', 'x'), (2, 'two', 'y'), (3, 'w', 'z')")
    before = world.mark()
    world.run("DELETE FROM t WHERE rowid = 1", "UPDATE t SET b = 'bad' WHERE rowid = 2")
    after = world.mark()
    world.mark()
    assert compared(world, before, "t", after) == {(1,): ("lost", ""), (2,): ("damaged", "r1")}


# --- a condition, and rows as they stream --------------------------------------------------------


def test_condition_of_the_restore_hides_no_row_as_put_in(make: Make) -> None:
    """A row that was there before and was not restored is nobody's damage."""
    world = make("CREATE TABLE t (id INTEGER PRIMARY KEY, a)", FILL.format(20) + INTO_T)
    before = world.mark()
    world.run(
        "UPDATE t SET a = 'bad'", "INSERT INTO t VALUES (100, 'bad')", "DELETE FROM t WHERE id = 2"
    )
    after = world.mark()
    with world.states(before, "t", after=after, where="id <= 3") as states:
        ((table, rows),) = both_ways(states)
    assert classes(rows) == {
        (1,): ("damaged", "r0"),
        (2,): ("lost", ""),
        (3,): ("damaged", "r0"),
    }
    assert any("rows put in since are not looked for" in warning for warning in table.warnings)


def test_rows_stream_by_class_and_limit_with_their_three_images(make: Make) -> None:
    """In the order of the key; an absent row is None."""
    world = make("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)", "INSERT INTO t VALUES (1, 1, 1)")
    world.run("INSERT INTO t VALUES (2, 2, 2), (3, 3, 3), (4, 4, 4)")
    before = world.mark()
    world.run("DELETE FROM t WHERE id > 2", "UPDATE t SET a = 0 WHERE id < 3")
    after = world.mark()
    world.run("UPDATE t SET b = 'later' WHERE id = 2")
    world.mark()
    with world.states(before, "t", after=after) as states:
        (table,) = classify(states, WHOLE)
        for _ in range(2):
            damaged = list(stream_rows(states, table, {RowClass.DAMAGED}))
            assert [(row.key, row.before, row.after, row.live) for row in damaged] == [
                ((1,), (1, 1), (0, 1), (0, 1)),
                ((2,), (2, 2), (0, 2), (0, "later")),
            ]
            (lost,) = stream_rows(states, table, {RowClass.LOST}, 1)
            assert (lost.key, lost.before, lost.after, lost.live) == ((3,), (3, 3), None, None)
            assert list(stream_rows(states, table, limit=0)) == []
            if not states.has_ended:
                let_go_of_live(states, [table])


def test_rows_shown_are_those_of_the_snapshot_and_nothing_holds_it(make: Make) -> None:
    """While a person reads, the application writes on and the WAL can be started anew."""
    world = make("CREATE TABLE t (id INTEGER PRIMARY KEY, a)", FILL.format(50) + INTO_T)
    before = world.mark()
    world.run("UPDATE t SET a = 'bad' WHERE id < 4")
    world.mark()
    with world.states(before, "t") as states:
        (table,) = classify(states, WHOLE)
        let_go_of_live(states, [table])
        world.run("UPDATE t SET a = 'newer'")
        assert world.app.run("PRAGMA wal_checkpoint(TRUNCATE)") == [[0, 0, 0]]
        assert [row.live for row in stream_rows(states, table)] == [("bad",)] * 3


def test_names_and_matches_join_the_states(make: Make) -> None:
    """What a plan needs to find the rows again in every state."""
    world = make(
        "CREATE TABLE t (k TEXT COLLATE NOCASE PRIMARY KEY, a)",
        "INSERT INTO t VALUES ('A', 1)",
    )
    before = world.mark()
    world.run(
        "DELETE FROM t", "ALTER TABLE t RENAME COLUMN a TO b", "INSERT INTO t VALUES ('a', 2)"
    )
    world.mark()
    with world.states(before, "t") as states:
        (table,) = classify(states)
        assert (table.name_in(BEFORE, "b"), table.name_in(LIVE, "b")) == ("a", "b")
        join = (
            f"SELECT b.a, l.b FROM {table.rows_table} AS r"
            f" JOIN before.t AS b ON {table.match(BEFORE, alias='b')}"
            f" JOIN main.t AS l ON {table.match(LIVE, alias='l')}"
        )
        assert states.connection.execute(join).fetchall() == [(1, 2)]


def test_writable_states_can_be_written_after_they_were_classified(make: Make) -> None:
    """A merge classifies inside its own transaction and applies by the table of the rows."""
    world = make("CREATE TABLE t (id INTEGER PRIMARY KEY, a)", FILL.format(9) + INTO_T)
    before = world.mark()
    world.run("DELETE FROM t WHERE id < 4")
    after = world.mark()
    with open_states(world.sources(before, "t", after=after), writable=True) as states:
        execute = states.connection.execute
        execute("BEGIN IMMEDIATE")
        (table,) = classify(states)
        execute(
            f"INSERT INTO main.t SELECT b.* FROM {table.rows_table} AS r"
            f" JOIN before.t AS b ON {table.match(BEFORE, alias='b')}"
        )
        execute("COMMIT")
    assert world.app.run("SELECT count(*) FROM t") == [[9]]


@pytest.mark.parametrize("seed", [random.randrange(1 << 30)], ids=["random"])
def test_order_is_that_of_the_key(make: Make, seed: int) -> None:
    """Whatever the order in which the rows were written."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    keys = [(rng.randrange(30), rng.choice("abcABC") * rng.randrange(3)) for _ in range(200)]
    world = make("CREATE TABLE t (n INT, k TEXT, a, PRIMARY KEY (n, k)) WITHOUT ROWID")
    for n, k in dict.fromkeys(keys):
        world.app.run("INSERT INTO t VALUES (?, ?, 1)", n, k)
    before = world.mark()
    world.run("DELETE FROM t")
    world.mark()
    assert [*compared(world, before, "t")] == sorted(set(keys))


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
def test_literals_give_the_same_value_back(encoding: str) -> None:
    """Whatever the value and the encoding of the database; and in one line."""
    values = [
        *(None, 0, -1, 2**63 - 1, -(2**63), 0.1, -1e300, 1e-320, float("inf"), float("-inf")),
        *(
            "",
            "it's",
            "line\nend",
            "\0",
            "a\0b",
            "é\u2028",
            "\x1b[31m",
            "'",
            "''\r\n--",
            "\U0001f600",
        ),
        *(b"", b"\0\xff'"),
    ]
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"PRAGMA encoding = '{encoding}'")
        connection.execute("CREATE TABLE t (a)")
        for value in values:
            text = literal(value)
            assert text.isprintable()
            connection.execute("DELETE FROM t")
            connection.execute(f"INSERT INTO t VALUES ({text})")
            ((found,),) = connection.execute("SELECT a FROM t")
            assert (type(found), found) == (type(value), value)
