"""`when`: the commit in which a row vanished or changed, and the row as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.errors import TableUnknown, UsageError
from pitr.sqlite.rows.when import find_row
from pitr.vocabulary.change import WhenOutcome
from tests.sqlite.recorded import Recorder

SCHEMA = "CREATE TABLE orders(id INTEGER PRIMARY KEY, state TEXT, total REAL, big AS (total > 100))"


@pytest.fixture(params=["UTF-8", "UTF-16le"])
def recorder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Recorder]:
    """A writer with a table of a hundred orders."""
    made = Recorder(tmp_path / "when.db", page_size=512, encoding=request.param)
    made.run(
        SCHEMA,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)"
        " INSERT INTO orders SELECT i, 'ópen', i * 2 FROM n",
    )
    yield made
    made.close()


def gone(recorder: Recorder, condition: str, table: str = "orders") -> WhenOutcome:
    return find_row(recorder.archive(), table, condition, gone=True)


def changed(recorder: Recorder, condition: str, table: str = "orders") -> WhenOutcome:
    return find_row(recorder.archive(), table, condition, gone=False)


def position(outcome: WhenOutcome) -> str:
    assert outcome.transaction is not None, outcome.reason
    assert outcome.reason is None
    return outcome.transaction.position


def test_deleted_row_is_found_as_it_was(recorder: Recorder) -> None:
    """The commit that deleted it, a target before it, the row with values of their own types."""
    number = recorder.run("DELETE FROM orders WHERE id = 42")
    recorder.run("DELETE FROM orders WHERE id = 43", "UPDATE orders SET total = 0")

    found = gone(recorder, "id = 42")
    assert position(found) == f"commit:{number}"
    assert found.before == f"before:commit:{number}"
    assert found.row == {"id": 42, "state": "ópen", "total": 84.0, "big": 0}
    assert type(found.row["total"]) is float
    assert found.transaction is not None
    assert [change.table for change in found.transaction.tables] == ["orders"]


def test_condition_is_asked_of_the_row_as_it_was_before(recorder: Recorder) -> None:
    """What the row had become matters, not what it was long before."""
    recorder.run("UPDATE orders SET state = 'shut' WHERE id = 42")
    number = recorder.run("DELETE FROM orders WHERE id = 42")

    assert position(gone(recorder, "id = 42 AND state = 'shut'")) == f"commit:{number}"
    assert gone(recorder, "id = 42 AND state = 'ópen'").transaction is None


def test_row_that_came_back_and_went_again_is_found_at_its_last_end(recorder: Recorder) -> None:
    """Of several ends the newest counts; a row that is there again vanished all the same."""
    recorder.run("DELETE FROM orders WHERE id = 42", "INSERT INTO orders VALUES (42, 'new', 1)")
    second = recorder.run("DELETE FROM orders WHERE id = 42")
    recorder.run("INSERT INTO orders VALUES (42, 'newer', 2)")

    assert position(gone(recorder, "id = 42")) == f"commit:{second}"
    assert gone(recorder, "id = 42").row == {"id": 42, "state": "new", "total": 1.0, "big": 0}


def test_row_lost_with_all_others_or_its_table_is_found(recorder: Recorder) -> None:
    """DELETE without WHERE and DROP TABLE are ends of every row."""
    cleared = recorder.run("DELETE FROM orders")
    recorder.run("INSERT INTO orders VALUES (1, 'x', 1)")
    dropped = recorder.run("DROP TABLE orders")

    assert position(gone(recorder, "id = 77")) == f"commit:{cleared}"
    assert position(gone(recorder, "id = 1")) == f"commit:{dropped}"


def test_changed_row_is_found_by_what_it_was_or_became(recorder: Recorder) -> None:
    """An update is found by its old and by its new values, and shows the row before it."""
    number = recorder.run("UPDATE orders SET state = 'shut', total = 7 WHERE id = 9")
    recorder.run("UPDATE orders SET state = 'other' WHERE id = 10")

    for condition in ("id = 9", "state = 'shut'", "id = 9 AND total = 18.0"):
        found = changed(recorder, condition)
        assert position(found) == f"commit:{number}", condition
        assert found.row == {"id": 9, "state": "ópen", "total": 18.0, "big": 0}


def test_inserted_row_is_a_change_and_shows_itself(recorder: Recorder) -> None:
    """A row that was not there before is shown as it came."""
    number = recorder.run("INSERT INTO orders VALUES (500, 'new', 500)")

    found = changed(recorder, "id = 500")
    assert position(found) == f"commit:{number}"
    assert found.row == {"id": 500, "state": "new", "total": 500.0, "big": 1}


def test_generated_column_can_be_asked_for(recorder: Recorder) -> None:
    """Values that are not stored are computed for the row of the past."""
    number = recorder.run("DELETE FROM orders WHERE id = 60")
    recorder.run("DELETE FROM orders WHERE id = 10")

    assert position(gone(recorder, "big AND id < 70")) == f"commit:{number}"


def test_row_that_never_vanished_is_said_to_be_there(recorder: Recorder) -> None:
    """Nothing found is an answer with a reason."""
    recorder.run("DELETE FROM orders WHERE id = 1")

    there = gone(recorder, "id = 42")
    assert (there.transaction, there.before, there.row) == (None, None, None)
    assert "still there" in (there.reason or "")
    never = gone(recorder, "id = 4242")
    assert "no such row vanished" in (never.reason or "")
    assert "no such row" in (changed(recorder, "id = 4242").reason or "")


def test_column_of_later_times_is_understood_where_it_was(recorder: Recorder) -> None:
    """A condition over a column that came later matches no row from before it."""
    recorder.run("DELETE FROM orders WHERE id = 5")
    recorder.run("ALTER TABLE orders ADD COLUMN note TEXT DEFAULT 'none'")
    number = recorder.run("DELETE FROM orders WHERE id = 6")

    assert position(gone(recorder, "note = 'none'")) == f"commit:{number}"
    assert gone(recorder, "note = 'none' AND id = 5").transaction is None
    assert gone(recorder, "id = 6").row == {
        "id": 6, "state": "ópen", "total": 12.0, "big": 0, "note": "none",
    }  # fmt: skip


def test_keys_without_rowid_and_collations_are_compared_as_sqlite_does(recorder: Recorder) -> None:
    """The condition follows the columns' collations; a collation of the application is refused."""
    recorder.connection.create_collation("odd", lambda a, b: (a > b) - (a < b))
    recorder.run(
        "CREATE TABLE tag(name TEXT COLLATE NOCASE PRIMARY KEY, odd TEXT COLLATE odd)"
        " WITHOUT ROWID",
        "INSERT INTO tag VALUES ('Red', 'x'), ('Blue', 'y')",
    )
    number = recorder.run("DELETE FROM tag WHERE name = 'RED'")

    assert position(gone(recorder, "name = 'red'", "tag")) == f"commit:{number}"
    assert gone(recorder, "name = 'red'", "tag").row == {"name": "Red", "odd": "x"}
    with pytest.raises(UsageError, match="collation odd"):
        gone(recorder, "odd = 'x'", "tag")


def test_rowid_can_be_asked_for_where_there_is_one(recorder: Recorder) -> None:
    """Tables without a key of their own have their rowid."""
    recorder.run("CREATE TABLE plain(v)", "INSERT INTO plain VALUES ('a'), ('b'), ('c')")
    number = recorder.run("DELETE FROM plain WHERE v = 'b'")

    assert position(gone(recorder, "rowid = 2", "plain")) == f"commit:{number}"
    assert gone(recorder, "rowid = 2", "plain").row == {"v": "b"}


def test_unknown_function_matters_only_where_it_is_asked_for(recorder: Recorder) -> None:
    """A generated column of the application's own function is left out of the row."""
    recorder.connection.create_function("secret", 1, lambda x: x, deterministic=True)
    recorder.run(
        "CREATE TABLE s(id INTEGER PRIMARY KEY, v, w AS (secret(v)), x AS (secret(v)) STORED)",
        "INSERT INTO s(id, v) VALUES (1, 'a'), (2, 'b')",
    )
    number = recorder.run("DELETE FROM s WHERE id = 1")

    found = gone(recorder, "id = 1 AND x = 'a'", "s")
    assert position(found) == f"commit:{number}"
    assert found.row == {"id": 1, "v": "a", "x": "a"}
    with pytest.raises(UsageError) as caught:
        gone(recorder, "w = 'a'", "s")
    assert "no such column: w" in (caught.value.detail or "")


@pytest.mark.parametrize(
    ("condition", "part"),
    [
        ("id IN (SELECT id FROM orders)", "a subselect at character 8"),
        ("EXISTS (select 1)", "a subselect"),
        ("id IN orders", "the table orders"),
        ("id = 1; DROP TABLE orders", "The ;"),
        ("nope = 1", "no such column: nope"),
        ("id = ?", "bind parameter"),
        ("", "empty"),
    ],
)
def test_condition_that_cannot_be_asked_is_refused_by_its_part(
    recorder: Recorder, condition: str, part: str
) -> None:
    """What looks at other rows, or is no condition, is refused and the part named."""
    recorder.run("DELETE FROM orders WHERE id = 1")
    with pytest.raises(UsageError) as caught:
        gone(recorder, condition)

    assert part in (caught.value.detail or "")


def test_virtual_and_unknown_tables_are_refused(recorder: Recorder) -> None:
    """Rows of a virtual table are not pages that one could ask."""
    recorder.run("CREATE VIRTUAL TABLE text USING fts5(body)", "INSERT INTO text VALUES ('x')")
    recorder.run("DELETE FROM text")

    with pytest.raises(UsageError, match="virtual table text"):
        gone(recorder, "body = 'x'", "text")
    assert position(gone(recorder, "c0 = 'x'", "text_content")) == f"commit:{recorder.number}"
    with pytest.raises(TableUnknown):
        gone(recorder, "id = 1", "nowhere")


def test_text_that_is_no_text_is_shown_with_replacement_characters(tmp_path: Path) -> None:
    """Bytes that an application wrote as text, and that are none, do not stop the search."""
    recorder = Recorder(tmp_path / "x.db")
    recorder.run("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
    recorder.run("INSERT INTO t VALUES (1, CAST(x'61ff' AS TEXT)), (2, 'b')")
    number = recorder.run("DELETE FROM t")

    found = gone(recorder, "id = 1", "t")
    assert position(found) == f"commit:{number}"
    assert found.row == {"id": 1, "v": "a\ufffd"}
