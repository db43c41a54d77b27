"""What the row history says of a commit is what the statements of the writer reported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pitr.sqlite.pagelog.segment import CommitKind
from pitr.sqlite.rows.log import transactions
from pitr.vocabulary.change import TableChange
from tests.sqlite.recorded import Recorder, reference

LONG = 9000  # bytes: several overflow pages at every page size used here


@pytest.fixture(params=[0, 1], ids=["plain", "auto_vacuum"])
def recorder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Recorder]:
    """A writer with small pages, with and without a pointer map."""
    made = Recorder(tmp_path / "shop.db", page_size=1024, auto_vacuum=request.param)
    yield made
    made.close()


def told(recorder: Recorder, number: int | None = None, *tables: str) -> dict[str, TableChange]:
    """Return what the row history says of one commit, by table."""
    at = recorder.number if number is None else number
    found = transactions(recorder.archive(), tables or None, first=at, last=at)
    return {change.table: change for item in found for change in item.tables}


def a_shop(recorder: Recorder, rows: int = 300) -> None:
    """Write a table `orders` with an index, and the customers that it refers to."""
    recorder.run(
        "PRAGMA foreign_keys = ON",
        "CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT UNIQUE)",
        "CREATE TABLE orders(id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customer"
        " ON DELETE CASCADE, note TEXT, picture BLOB)",
        "CREATE INDEX orders_by_customer ON orders(customer)",
        "INSERT INTO customer SELECT value, 'name ' || value FROM json_each('[1, 2, 3, 4, 5, 6]')",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < "
        f"{rows}) INSERT INTO orders SELECT i, i % 6 + 1, 'note ' || i, NULL FROM n",
    )


@pytest.mark.parametrize(
    ("statement", "inserted", "updated", "deleted"),
    [
        ("INSERT INTO orders VALUES (1000, 1, 'new', NULL)", 1, 0, 0),
        ("INSERT INTO orders SELECT id + 5000, customer, note, NULL FROM orders", 300, 0, 0),
        ("UPDATE orders SET note = 'x' WHERE id BETWEEN 10 AND 19", 0, 10, 0),
        ("UPDATE orders SET note = note || hex(zeroblob(300))", 0, 300, 0),
        ("DELETE FROM orders WHERE id % 2", 0, 0, 150),
        ("REPLACE INTO orders VALUES (7, 2, 'other', NULL)", 0, 1, 0),
        (
            "INSERT INTO orders VALUES (7, 1, 'y', NULL) ON CONFLICT DO UPDATE SET note = 'y'",
            0,
            1,
            0,
        ),
        ("INSERT OR IGNORE INTO orders VALUES (7, 1, 'y', NULL), (999, 1, 'z', NULL)", 1, 0, 0),
        ("UPDATE orders SET note = note", 0, 0, 0),
        ("UPDATE orders SET id = id + 1000 WHERE id < 10", 9, 0, 9),
    ],
)
def test_statement_changes_rows_as_it_reported(
    recorder: Recorder, statement: str, inserted: int, updated: int, deleted: int
) -> None:
    """One statement: as many rows as SQLite says; a changed rowid is one row gone and one come."""
    a_shop(recorder)
    before = recorder.number
    recorder.run(statement)

    if recorder.number == before:  # nothing was written at all
        assert (inserted, updated, deleted) == (0, 0, 0)
        return
    expected = TableChange(table="orders", inserted=inserted, updated=updated, deleted=deleted)
    found = told(recorder)
    assert found == ({"orders": expected} if inserted or updated or deleted else {})


def test_delete_without_where_is_truncation_with_exact_count(recorder: Recorder) -> None:
    """DELETE of everything frees leaves that no commit writes; every row is counted."""
    a_shop(recorder)
    recorder.run("DELETE FROM orders")

    assert told(recorder) == {"orders": TableChange(table="orders", deleted=300, truncated=True)}


def test_cascade_and_trigger_are_told_of_their_own_tables(recorder: Recorder) -> None:
    """Rows that a foreign key deleted and a trigger wrote count where they are."""
    a_shop(recorder)
    recorder.run(
        "CREATE TABLE audit(at INTEGER PRIMARY KEY, what TEXT)",
        "CREATE TRIGGER gone AFTER DELETE ON customer"
        " BEGIN INSERT INTO audit(what) VALUES (OLD.name); END",
    )
    orders = recorder.connection.execute("SELECT count(*) FROM orders WHERE customer < 3")
    count = orders.fetchone()[0]
    recorder.run("DELETE FROM customer WHERE id < 3")

    assert told(recorder) == {
        "customer": TableChange(table="customer", deleted=2),
        "orders": TableChange(table="orders", deleted=count),
        "audit": TableChange(table="audit", inserted=2),
    }


def test_rolled_back_savepoint_leaves_no_trace(recorder: Recorder) -> None:
    """What a savepoint took back was not done."""
    a_shop(recorder)
    recorder.transaction(
        "UPDATE orders SET note = 'kept' WHERE id = 1",
        "SAVEPOINT s",
        "DELETE FROM orders",
        "ROLLBACK TO s",
        "RELEASE s",
        "INSERT INTO orders VALUES (900, 1, 'kept', NULL)",
    )

    assert told(recorder) == {"orders": TableChange(table="orders", inserted=1, updated=1)}


def test_row_inserted_and_deleted_in_one_transaction_is_not_told(recorder: Recorder) -> None:
    """Counts are net: what came and went within a transaction nobody else ever saw."""
    a_shop(recorder)
    recorder.transaction(
        "INSERT INTO orders VALUES (900, 1, 'short', NULL)",
        "DELETE FROM orders WHERE id = 900",
        "UPDATE customer SET name = 'A' WHERE id = 1",
    )

    assert told(recorder) == {"customer": TableChange(table="customer", updated=1)}


# --- overflow pages ------------------------------------------------------------------------------


def with_pictures(recorder: Recorder, rows: int = 12) -> None:
    a_shop(recorder)
    recorder.run(
        f"UPDATE orders SET picture = zeroblob({LONG}) WHERE id <= {rows}",
        "CREATE TABLE file(path TEXT PRIMARY KEY, content BLOB, version INTEGER)",
        f"INSERT INTO file SELECT 'f' || id, zeroblob({LONG}), 1 FROM orders WHERE id <= {rows}",
    )


def pages_changed(recorder: Recorder) -> int:
    archive = recorder.archive()
    return len(archive.window(recorder.number, recorder.number).changed(recorder.number))


def test_blob_write_on_overflow_page_alone_is_an_update(recorder: Recorder) -> None:
    """A write through a blob handle leaves the b-tree page as it is; the row is told."""
    with_pictures(recorder)
    with recorder.connection.blobopen("orders", "picture", 7) as blob:
        blob.seek(LONG - 3)
        blob.write(b"end")
    recorder.take()

    assert pages_changed(recorder) == 1
    assert told(recorder) == {"orders": TableChange(table="orders", updated=1)}
    assert told(recorder, None, "file") == {}
    assert told(recorder, None, "orders")["orders"].updated == 1


def test_update_behind_a_long_column_is_told_with_its_table(recorder: Recorder) -> None:
    """A counter behind a long column changes overflow pages alone, of several rows at once."""
    with_pictures(recorder)
    recorder.run("UPDATE file SET version = version + 1 WHERE path <> 'f1'")

    assert told(recorder) == {"file": TableChange(table="file", updated=11)}
    assert told(recorder, None, "orders") == {}


def test_overflow_update_beside_rows_of_untouched_leaves_is_told(recorder: Recorder) -> None:
    """The rows of new leaves and a row on an old one, changed on overflow alone, are both told."""
    with_pictures(recorder)
    recorder.connection.execute("BEGIN")
    recorder.connection.execute(
        "INSERT INTO orders SELECT id + 9000, customer, note, NULL FROM orders"
    )
    with recorder.connection.blobopen("orders", "picture", 2) as blob:
        blob.seek(LONG - 3)
        blob.write(b"end")
    recorder.connection.execute("COMMIT")
    recorder.take()

    assert told(recorder) == {"orders": TableChange(table="orders", inserted=300, updated=1)}


def test_overflow_pages_that_change_hands_are_no_update(recorder: Recorder) -> None:
    """Pages of deleted rows that another table takes over in the same commit update nothing."""
    with_pictures(recorder)
    recorder.transaction(
        "UPDATE orders SET picture = NULL WHERE id <= 6",
        f"INSERT INTO file SELECT 'g' || id, randomblob({LONG}), 1 FROM orders WHERE id <= 6",
    )

    assert told(recorder) == {
        "orders": TableChange(table="orders", updated=6),
        "file": TableChange(table="file", inserted=6),
    }
    assert told(recorder, None, "customer") == {}


def test_long_index_keys_that_change_hands_are_no_update(recorder: Recorder) -> None:
    """Overflow pages of an index are nobody's rows."""
    a_shop(recorder)
    recorder.run(
        "CREATE TABLE page(id INTEGER PRIMARY KEY, text TEXT)",
        "CREATE INDEX page_text ON page(text)",
        f"INSERT INTO page SELECT id, hex(zeroblob({LONG})) || id FROM orders WHERE id < 9",
    )
    recorder.run("UPDATE page SET text = replace(text, '0', '1') WHERE id IN (3, 4)")

    assert told(recorder) == {"page": TableChange(table="page", updated=2)}
    assert told(recorder, None, "orders") == {}


def test_key_that_lies_on_overflow_pages_is_a_key(recorder: Recorder) -> None:
    """A WITHOUT ROWID row whose key changed far behind is a row gone and a row come."""
    recorder.run(
        "CREATE TABLE long(a TEXT, b INTEGER, c, PRIMARY KEY(a, b)) WITHOUT ROWID",
        f"INSERT INTO long SELECT hex(zeroblob({LONG})), value, 'c' FROM json_each('[1,2,3,4]')",
    )
    recorder.run("UPDATE long SET b = b + 100 WHERE b < 3")

    assert told(recorder) == {"long": TableChange(table="long", inserted=2, deleted=2)}


# --- keys ----------------------------------------------------------------------------------------


def test_key_of_other_case_under_nocase_is_an_update(recorder: Recorder) -> None:
    """Keys that the collation holds for equal are one row; under BINARY they are two."""
    recorder.run(
        "CREATE TABLE a(k TEXT COLLATE NOCASE, r TEXT COLLATE RTRIM, v, PRIMARY KEY(r, k))"
        " WITHOUT ROWID",
        "CREATE TABLE b(k TEXT PRIMARY KEY, v) WITHOUT ROWID",
        "INSERT INTO a VALUES ('Key', 'pad', 1), ('É', 'pad', 1)",
        "INSERT INTO b VALUES ('Key', 1)",
    )
    recorder.transaction(
        "UPDATE a SET k = 'KEY', r = 'pad   ' WHERE k = 'key'",
        "UPDATE a SET k = 'é' WHERE k = 'É'",
        "UPDATE b SET k = 'KEY'",
    )

    assert told(recorder) == {
        "a": TableChange(table="a", inserted=1, updated=1, deleted=1),
        "b": TableChange(table="b", inserted=1, deleted=1),
    }


def test_unknown_function_and_collation_do_not_matter(recorder: Recorder) -> None:
    """Tables that only the application can write are told like any other."""
    recorder.connection.create_function("secret", 1, lambda x: x, deterministic=True)
    recorder.connection.create_collation("odd", lambda a, b: (a > b) - (a < b))
    recorder.run(
        "CREATE TABLE t(id TEXT COLLATE odd PRIMARY KEY, a CHECK(secret(a) > 0), b AS (secret(a)),"
        " c AS (secret(a)) STORED) WITHOUT ROWID",
        "CREATE INDEX t_a ON t(secret(a))",
        "INSERT INTO t(id, a) VALUES ('x', 1), ('y', 2)",
        "UPDATE t SET a = 3 WHERE id = 'x'",
    )

    assert told(recorder) == {"t": TableChange(table="t", updated=1)}


# --- schema --------------------------------------------------------------------------------------


def test_table_that_comes_and_goes_is_told_with_its_rows(recorder: Recorder) -> None:
    """CREATE TABLE AS and DROP TABLE count every row; indexes alone are not listed."""
    a_shop(recorder)
    recorder.run("CREATE TABLE copy AS SELECT * FROM orders")
    assert told(recorder) == {"copy": TableChange(table="copy", inserted=300, created=True)}
    recorder.run("CREATE INDEX copy_id ON copy(id)")
    assert told(recorder) == {}
    recorder.run("DROP TABLE copy")
    assert told(recorder) == {"copy": TableChange(table="copy", deleted=300, dropped=True)}


def test_renamed_table_is_told_under_its_new_name_and_followed(recorder: Recorder) -> None:
    """A rename is an alteration; whoever asks for the new name sees what came before, too."""
    a_shop(recorder)
    recorder.run("ALTER TABLE orders RENAME TO sales", "DELETE FROM sales WHERE id = 3")

    found = transactions(recorder.archive(), ["sales"])
    assert [(item.tables[0].table, item.tables[0].altered) for item in found[1:]] == [
        ("orders", False),  # created
        ("orders", False),  # filled
        ("sales", True),
        ("sales", False),
    ]


def test_table_dropped_and_another_made_in_its_place_are_two(recorder: Recorder) -> None:
    """The same root page and the same place in sqlite_schema do not make one table of two."""
    a_shop(recorder)
    recorder.run("CREATE TABLE last(id INTEGER PRIMARY KEY, v)", "INSERT INTO last VALUES (1, 2)")
    recorder.transaction(
        "DROP TABLE last",
        "CREATE TABLE next(id INTEGER PRIMARY KEY, v)",
        "INSERT INTO next VALUES (1, 3)",
    )

    assert told(recorder) == {
        "last": TableChange(table="last", deleted=1, dropped=True),
        "next": TableChange(table="next", inserted=1, created=True),
    }


def test_table_made_anew_under_its_name_is_compared_row_by_row(recorder: Recorder) -> None:
    """The twelve steps of an ALTER by hand rewrite the table; rows that stayed are not told."""
    a_shop(recorder)
    recorder.run("PRAGMA foreign_keys = OFF")
    recorder.transaction(
        "CREATE TABLE new(id INTEGER PRIMARY KEY, customer INTEGER, note TEXT, picture BLOB)",
        "INSERT INTO new SELECT * FROM orders WHERE id <> 5",
        "UPDATE new SET note = 'x' WHERE id = 6",
        "DROP TABLE orders",
        "ALTER TABLE new RENAME TO orders",
    )

    change = told(recorder)["orders"]
    assert (change.inserted, change.updated, change.deleted) == (0, 1, 1)
    assert change.altered
    assert (change.created, change.dropped, change.truncated) == (False, False, False)


def test_added_column_takes_its_default_in_old_rows(recorder: Recorder) -> None:
    """ADD COLUMN changes no row; writing the default into it neither; another value does."""
    a_shop(recorder)
    recorder.run("ALTER TABLE orders ADD COLUMN state TEXT DEFAULT 'open'")
    assert told(recorder) == {"orders": TableChange(table="orders", altered=True)}
    recorder.run("UPDATE orders SET state = 'open' WHERE id < 10")
    assert told(recorder) == {}
    recorder.run("UPDATE orders SET state = 'shut' WHERE id < 10")
    assert told(recorder) == {"orders": TableChange(table="orders", updated=9)}
    recorder.transaction(
        "ALTER TABLE orders ADD COLUMN rank INTEGER DEFAULT 1",
        "UPDATE orders SET rank = 2 WHERE id < 4",
    )
    assert told(recorder) == {"orders": TableChange(table="orders", updated=3, altered=True)}


def test_dropped_column_rewrites_the_table_without_updates(recorder: Recorder) -> None:
    """DROP COLUMN stores every row anew; the values of the columns that stay are the same."""
    a_shop(recorder)
    recorder.run("ALTER TABLE orders DROP COLUMN note")
    expected = TableChange(table="orders", rewritten=True, altered=True)
    assert told(recorder) == {"orders": expected}
    recorder.run("ALTER TABLE customer RENAME COLUMN name TO title")
    assert told(recorder)["customer"] == TableChange(table="customer", altered=True)


@pytest.mark.parametrize("kind", [CommitKind.COMMIT, CommitKind.GAP])
def test_vacuum_changes_no_row_and_rewrites_every_table(
    recorder: Recorder, kind: CommitKind
) -> None:
    """VACUUM may renumber rows that have no key of their own; that is no change either."""
    a_shop(recorder)
    recorder.run(
        "CREATE TABLE plain(v)",
        "INSERT INTO plain SELECT id % 7 FROM orders",
        "DELETE FROM plain WHERE rowid % 3 = 0",
        "DELETE FROM orders WHERE id % 2",
    )
    recorder.run("VACUUM", kind=kind)

    found = told(recorder)
    assert {replace(change, rewritten=False) for change in found.values()} <= {
        TableChange(table=name) for name in ("plain", "orders", "customer")
    }
    if kind is CommitKind.COMMIT:
        assert [change.rewritten for change in found.values()] == [True] * 3


def test_moved_root_page_of_auto_vacuum_is_not_told(tmp_path: Path) -> None:
    """DROP TABLE moves the last root into the hole; the table that it belongs to did not change."""
    recorder = Recorder(tmp_path / "a.db", page_size=512, auto_vacuum=1)
    a_shop(recorder)
    recorder.run("CREATE TABLE other(id INTEGER PRIMARY KEY, v)")
    recorder.run("INSERT INTO other SELECT id, note FROM orders")
    recorder.run("DROP TABLE orders")

    assert set(told(recorder)) == {"orders"}
    recorder.run("INSERT INTO other VALUES (5000, 'x')")
    assert told(recorder) == {"other": TableChange(table="other", inserted=1)}


# --- tables that are not plain -------------------------------------------------------------------


def test_own_tables_of_sqlite_are_told_when_asked_for(recorder: Recorder) -> None:
    """sqlite_sequence is not listed among the tables, and is there for who asks."""
    recorder.run("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v)")
    recorder.run("INSERT INTO t(v) VALUES (1)")

    assert told(recorder) == {"t": TableChange(table="t", inserted=1)}
    sequence = TableChange(table="sqlite_sequence", inserted=1)
    assert told(recorder, None, "sqlite_sequence") == {"sqlite_sequence": sequence}


@pytest.mark.parametrize("module", ["fts5(title, body)", "fts4(title, body)"])
def test_full_text_rows_are_told_of_the_virtual_table(recorder: Recorder, module: str) -> None:
    """Rows count on the virtual table; its shadow tables are listed for who asks only."""
    recorder.run(f"CREATE VIRTUAL TABLE text USING {module}")
    assert told(recorder) == {"text": TableChange(table="text", created=True)}
    recorder.run("INSERT INTO text VALUES ('a', 'b c'), ('d', 'e f'), ('g', 'h')")
    assert told(recorder) == {"text": TableChange(table="text", inserted=3)}
    content = TableChange(table="text_content", inserted=3)
    assert told(recorder, None, "text_content") == {"text_content": content}
    recorder.run("UPDATE text SET body = 'new words' WHERE rowid = 2")
    assert told(recorder) == {"text": TableChange(table="text", updated=1)}
    recorder.run("DELETE FROM text WHERE rowid = 1")
    assert told(recorder) == {"text": TableChange(table="text", deleted=1)}
    recorder.run("INSERT INTO text(text) VALUES ('optimize')")
    assert told(recorder) == {}
    recorder.run("DROP TABLE text")
    assert told(recorder)["text"].dropped


def test_boxes_are_told_of_the_r_tree(recorder: Recorder) -> None:
    """Boxes rest inside blobs of nodes; moved boxes, labels and rows are told apart exactly."""
    recorder.run("CREATE VIRTUAL TABLE place USING rtree(id, x0, x1, y0, y1, +label TEXT)")
    recorder.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)"
        " INSERT INTO place SELECT i, i, i + 1, i % 20, i % 20 + 1, 'label ' || i FROM n"
    )
    assert told(recorder) == {"place": TableChange(table="place", inserted=400)}
    recorder.run("UPDATE place SET x1 = x1 + 1000 WHERE id BETWEEN 11 AND 20")
    assert told(recorder) == {"place": TableChange(table="place", updated=10)}
    recorder.run("UPDATE place SET label = 'x', x0 = x0 - 1 WHERE id IN (5, 6)")
    assert told(recorder) == {"place": TableChange(table="place", updated=2)}
    recorder.run("DELETE FROM place WHERE id > 100")
    assert told(recorder) == {"place": TableChange(table="place", deleted=300)}
    recorder.run("DELETE FROM place")
    assert told(recorder) == {"place": TableChange(table="place", deleted=100, truncated=True)}


def test_rollback_journal_history_is_told_by_page_difference(tmp_path: Path) -> None:
    """Without a WAL a commit is what differs between two readings, and is told the same."""
    recorder = Recorder(tmp_path / "a.db", wal=False)
    a_shop(recorder)
    recorder.run("DELETE FROM orders WHERE id < 100", "UPDATE customer SET name = id")

    for number in (recorder.number - 1, recorder.number):
        expected = reference(recorder.states[number - 1], recorder.states[number])
        assert told(recorder, number) == expected
