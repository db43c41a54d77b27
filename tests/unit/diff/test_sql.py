"""The generated SQL, run by SQLite, against classification in Python."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import pytest

from pitr.diff.sql import SQLITE, ClassSql, Dialect, RowSource, class_sql
from pitr.vocabulary.diff_row import Verdict
from pitr.vocabulary.row_class import RowClass
from tests.unit.diff.classify import classify
from tests.unit.diff.model import States, states_of_three_columns, states_of_two_columns

SOURCES = ("b", "d", "c")
BY_TYPE_TOO_LITTLE = Dialect(equal=lambda left, right: f"({left} IS {right})", quote=SQLITE.quote)
TWO, THREE = ("one", "two"), ("one", "two", "three")


def expressions(
    columns: Sequence[str],
    *,
    after_known: bool = True,
    dialect: Dialect = SQLITE,
    judged: Sequence[str] | None = None,
    owned: Sequence[str] = (),
) -> ClassSql:
    before, after, live = (RowSource(name, f'("{name}".id IS NOT NULL)') for name in SOURCES)
    return class_sql(
        columns,
        before=before,
        after=after if after_known else None,
        live=live,
        dialect=dialect,
        judged=judged,
        owned=owned,
    )


def database(
    columns: Sequence[str], states: Iterable[States], *, declared: str = ""
) -> sqlite3.Connection:
    """Return a database with one table for each state and `ids`, which names every row."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE ids(id INTEGER PRIMARY KEY)")
    names = "".join(f", {SQLITE.quote(column)} {declared}" for column in columns)
    for source in SOURCES:
        connection.execute(f"CREATE TABLE {source}(id INTEGER PRIMARY KEY{names})")
    marks = ", ?" * len(columns)
    for number, rows in enumerate(states):
        connection.execute("INSERT INTO ids VALUES (?)", (number,))
        for source, row in zip(SOURCES, rows, strict=True):
            if row is not None:
                connection.execute(f"INSERT INTO {source} VALUES (?{marks})", (number, *row))
    return connection


def verdicts(connection: sqlite3.Connection, sql: ClassSql) -> list[Verdict]:
    """Return what SQLite makes of every row, in the order of the ids."""
    width = len(sql.repair)
    joins = " ".join(f"LEFT JOIN {source} USING (id)" for source in SOURCES)
    chosen = ", ".join((sql.row_class, *sql.repair, *sql.touched))
    found = connection.execute(f"SELECT {chosen} FROM ids {joins} ORDER BY ids.id")
    return [
        Verdict(
            RowClass(row[0]),
            tuple(place for place in range(width) if row[1 + place]),
            tuple(place for place in range(width) if row[1 + width + place]),
        )
        for row in found
    ]


@pytest.mark.parametrize(
    ("columns", "states"),
    [(TWO, list(states_of_two_columns())), (THREE, list(states_of_three_columns()))],
)
def test_class_sql_every_combination_equals_classify(
    columns: Sequence[str], states: list[States]
) -> None:
    """SQLite gives each row of the join the class and the columns that Python gives it."""
    found = verdicts(database(columns, states), expressions(columns))

    for rows, verdict in zip(states, found, strict=True):
        assert verdict == classify(*rows, after_known=True), rows


@pytest.mark.parametrize(
    ("columns", "states"),
    [(TWO, list(states_of_two_columns())), (THREE, list(states_of_three_columns()))],
)
def test_class_sql_without_after_every_combination_equals_classify(
    columns: Sequence[str], states: list[States]
) -> None:
    """The two-state form does not look at the third state, also when it stands in the join."""
    found = verdicts(database(columns, states), expressions(columns, after_known=False))

    for (before, after, live), verdict in zip(states, found, strict=True):
        assert verdict == classify(before, None, live, after_known=False), (before, after, live)


@pytest.mark.parametrize("after_known", [True, False])
def test_class_sql_of_one_column_sees_that_column_alone(*, after_known: bool) -> None:
    """What the other column does changes no verdict; but the damage's own rows are seen whole."""
    states = list(states_of_two_columns())
    sql = expressions(TWO, after_known=after_known, judged=["one"])

    for rows, verdict in zip(states, verdicts(database(TWO, states), sql), strict=True):
        before, after, live = rows if after_known else (rows[0], None, rows[2])
        if before is not None:
            before, after, live = (row and row[:1] for row in (before, after, live))
        assert verdict == classify(before, after, live, after_known=after_known), rows


def test_class_sql_of_an_owned_column_takes_no_value_of_it_for_later_work() -> None:
    """Unless it is as the damage left it, it counts as back, where a row was there before."""
    states = list(states_of_two_columns())
    sql = expressions(TWO, owned=["two"])

    for (before, after, live), verdict in zip(
        states, verdicts(database(TWO, states), sql), strict=True
    ):
        seen = live
        if before is not None and live is not None:
            is_as_left = after is not None and typed(after[1]) == typed(live[1])
            seen = live if is_as_left else (live[0], before[1])
        assert verdict == classify(before, after, seen, after_known=True), (before, after, live)


def typed(value: object) -> tuple[type, object]:
    """Return a value with its type: 1 is not 1.0."""
    return type(value), value


def test_class_sql_that_ignores_types_is_caught_by_the_combinations() -> None:
    """The comparison above can fail: SQLite's bare IS takes 1 for 1.0."""
    states = list(states_of_two_columns())
    found = verdicts(database(TWO, states), expressions(TWO, dialect=BY_TYPE_TOO_LITTLE))

    assert found != [classify(*rows, after_known=True) for rows in states]


def test_class_sql_column_with_nocase_sees_a_changed_letter() -> None:
    """A column's own collation does not hide damage."""
    states: list[States] = [(("Ann",), ("ANN",), ("ANN",)), (("Ann",), ("Ann",), ("ann",))]
    connection = database(("name",), states, declared="TEXT COLLATE NOCASE")

    assert [verdict.row_class for verdict in verdicts(connection, expressions(("name",)))] == [
        RowClass.DAMAGED,
        RowClass.UNRELATED,
    ]


def test_class_sql_unknown_collation_is_not_needed() -> None:
    """An application's collation that is not registered here does not stop the comparison."""
    connection = sqlite3.connect(":memory:")
    connection.create_collation("house", lambda _left, _right: 0)
    connection.executescript("CREATE TABLE ids(id INTEGER PRIMARY KEY); INSERT INTO ids VALUES (0)")
    for source, value in zip(SOURCES, "abb", strict=True):
        connection.execute(f"CREATE TABLE {source}(id INTEGER PRIMARY KEY, x COLLATE house)")
        connection.execute(f"INSERT INTO {source} VALUES (0, ?)", value)
    connection.create_collation("house", None)

    assert verdicts(connection, expressions(("x",))) == [Verdict(RowClass.DAMAGED, (0,))]


@pytest.mark.parametrize("declared", ["", "REAL", "INTEGER"])
def test_class_sql_sign_of_zero_is_not_a_change(declared: str) -> None:
    """SQLite and Python agree that -0.0 is 0.0, in whatever column."""
    states: list[States] = [((0.0,), (-0.0,), (0.0,))]
    found = verdicts(database(("x",), states, declared=declared), expressions(("x",)))

    assert found == [classify(*states[0], after_known=True)] == [Verdict(RowClass.UNRELATED)]


def test_class_sql_names_that_need_quoting_are_quoted() -> None:
    """A column may be called what it likes."""
    columns = ('say "so"', "select", "b.c; --", "")
    states: list[States] = [((1, 2, 3, 4), (1, 2, 0, 0), (1, 2, 0, 5))]

    assert verdicts(database(columns, states), expressions(columns)) == [
        Verdict(RowClass.TOUCHED_SINCE, (2,), (3,))
    ]


def test_class_sql_table_of_key_columns_only_goes_by_existence() -> None:
    """Without a column to compare, rows that exist are equal."""
    states: list[States] = [((), None, None), ((), None, ()), ((), (), None), (None, (), ())]
    found = verdicts(database((), states), expressions(()))

    assert found == [classify(*rows, after_known=True) for rows in states]


@pytest.mark.parametrize("after_known", [False, True])
def test_class_sql_widest_table_stays_within_the_depth_of_sqlite(after_known: bool) -> None:
    """1999 columns beside the key, as many as SQLite allows, make an expression it accepts."""
    columns = [f"c{number}" for number in range(1999)]
    row = tuple(range(1999))
    damaged = (*row[:-1], -1)
    connection = database(columns, [(row, damaged, damaged)])
    sql = expressions(columns, after_known=after_known)
    joins = " ".join(f"LEFT JOIN {source} USING (id)" for source in SOURCES)

    found = connection.execute(
        f"SELECT {sql.row_class}, {sql.repair[0]}, {sql.repair[-1]} FROM ids {joins}"
    ).fetchall()

    assert found == [("damaged" if after_known else "differs", 0, 1)]
