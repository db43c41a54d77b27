"""Tables of the past in a file of their own: exact where they can be, told where they cannot."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from pitr.errors import (
    CorruptObject,
    DatabaseRefused,
    PreconditionFailed,
    TableUnknown,
    UsageError,
)
from pitr.sqlite.past.replay import open_past
from pitr.sqlite.past.sidecar import RestoredTable, open_sidecar, restore_tables
from tests.sqlite.past_files import (
    ODD_NAMES,
    FilePages,
    assert_same,
    opened,
    quoted,
    restore,
    schema_of,
    write_database,
)

# --- what a table is ---------------------------------------------------------------------------

TABLES = {
    "integer key": ["CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT NOT NULL DEFAULT 'x')"]
    + [f"INSERT INTO t VALUES ({i * 7}, 'v{i}')" for i in range(50)],
    "no key": ["CREATE TABLE t (a, b)", "INSERT INTO t (rowid, a) VALUES (900, 1), (-5, 2)"],
    "rowid as a column": ["CREATE TABLE t (rowid TEXT, a)", "INSERT INTO t VALUES ('x', 1)"],
    "all three rowid names as columns": [
        "CREATE TABLE t (rowid, oid, _rowid_, a)",
        "INSERT INTO t VALUES (1, 2, 3, 4)",
    ],
    "rowid as integer key": [
        "CREATE TABLE t (a, rowid INTEGER PRIMARY KEY)",
        "INSERT INTO t VALUES (1, 77)",
    ],
    "descending integer key": [
        "CREATE TABLE t (id INTEGER PRIMARY KEY DESC, a)",
        "INSERT INTO t (rowid, id, a) VALUES (10, 2, 1), (20, 1, NULL)",
    ],
    "without rowid": [
        "CREATE TABLE t (a TEXT, b INT, c, PRIMARY KEY (b DESC, a COLLATE NOCASE)) WITHOUT ROWID",
        "INSERT INTO t VALUES ('x', 1, NULL), ('Y', 1, 2.5), ('z', -1, x'00')",
    ],
    "strict": [
        "CREATE TABLE t (id INT PRIMARY KEY, r REAL, b BLOB, x ANY) STRICT",
        "INSERT INTO t VALUES (1, 1, x'', '1'), (2, 2.5, NULL, 1)",
    ],
    "strict without rowid": [
        "CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER) STRICT, WITHOUT ROWID",
        "INSERT INTO t VALUES ('a', 1)",
    ],
    "generated": [
        "CREATE TABLE t (a INT, v AS (a * 2), s TEXT AS (a || 'x') STORED, b, UNIQUE (s))",
        "INSERT INTO t (a, b) VALUES (1, 'p'), (NULL, 'q'), (3, 'r')",
        "CREATE INDEX by_v ON t (v)",
    ],
    "indexes of all kinds": [
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT UNIQUE, b TEXT, c)",
        "CREATE INDEX i1 ON t (b COLLATE NOCASE DESC, c)",
        "CREATE UNIQUE INDEX i2 ON t (lower(a)) WHERE b IS NOT NULL",
        'CREATE INDEX "odd; name" ON t (c) WHERE c > 3',
        "INSERT INTO t VALUES (1, 'A', 'x', 5), (2, 'a', NULL, 1), (3, 'c', 'X', NULL)",
    ],
    "checks and keys": [
        "CREATE TABLE other (id INTEGER PRIMARY KEY)",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, o REFERENCES other ON DELETE CASCADE,"
        " n CHECK (n > 0), CONSTRAINT c CHECK (n < 100))",
        "INSERT INTO t VALUES (1, 999, 5)",
    ],
    "columns added later": [
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a)",
        "INSERT INTO t VALUES (1, 2)",
        "ALTER TABLE t ADD COLUMN b TEXT NOT NULL DEFAULT 'later'",
        "ALTER TABLE t ADD COLUMN c DEFAULT 1.5",
        "INSERT INTO t VALUES (2, 3, 'own', NULL)",
        "ALTER TABLE t RENAME COLUMN a TO first",
        "ALTER TABLE t ADD COLUMN g AS (c + 1)",
    ],
    "defaults": [
        'CREATE TABLE t (a DEFAULT (1 + 2), b DEFAULT CURRENT_TIMESTAMP, c DEFAULT "text",'
        " d DEFAULT -5, e DEFAULT (random()))",
        "INSERT INTO t DEFAULT VALUES",
    ],
    "values at the edges": [
        "CREATE TABLE t (a, i INTEGER, r REAL, x TEXT)",
        "INSERT INTO t VALUES (-0.0, 9223372036854775807, 1e308, ''),"
        " (NULL, -9223372036854775808, -9e999, NULL), (x'', 0, 9e999, CAST(x'610062' AS TEXT)),"
        " (CAST(x'ff00fe' AS TEXT), 1.5, 5, x'00'),"
        " (zeroblob(20000), '7', 1e-320, CAST(x'c3a900' AS TEXT))",
    ],
    "rows over many pages": [
        "CREATE TABLE t (id INTEGER PRIMARY KEY, b BLOB, c)",
        "INSERT INTO t VALUES (1, randomblob(100000), 1), (2, randomblob(4096), 2)",
        "UPDATE t SET c = hex(randomblob(5000)) WHERE id = 2",
    ],
    "created from a query": ["CREATE TABLE t AS SELECT 1 AS one, 'two' AS two"],
    "empty": ["CREATE TABLE t (a PRIMARY KEY, b) WITHOUT ROWID"],
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("first", ["PRAGMA encoding = 'UTF-8'", "PRAGMA encoding = 'UTF-16be'"])
def test_table_comes_back_as_it_was(tmp_path: Path, kind: str, first: str) -> None:
    """Text, indexes, storage class and bits of every value equal the file's."""
    path = write_database(tmp_path / "source.db", [first, *TABLES[kind]])

    (restored,) = restore(path, ["t"])

    assert restored.warnings == ()
    assert_same(path, tmp_path / "sidecar.db", "t")
    with opened(path) as native, opened(tmp_path / "sidecar.db") as sidecar:
        assert restored.rows == native.execute("SELECT count(*) FROM t").get
        assert sidecar.pragma("encoding") == native.pragma("encoding")


@pytest.mark.parametrize("kind", ["no key", "descending integer key", "generated", "strict"])
def test_rowids_are_kept(tmp_path: Path, kind: str) -> None:
    """A rowid that is no column of its own is the same as it was."""
    path = write_database(tmp_path / "source.db", TABLES[kind])
    restore(path, ["t"])

    with opened(path) as native, opened(tmp_path / "sidecar.db") as sidecar:
        statement = "SELECT rowid, * FROM t ORDER BY rowid"
        assert sidecar.execute(statement).fetchall() == native.execute(statement).fetchall()


def test_nan_on_disk_reads_as_null_on_both_sides(tmp_path: Path) -> None:
    """SQLite reads a NaN as NULL; the row comes back all the same."""
    path = write_database(
        tmp_path / "source.db",
        ["CREATE TABLE t (id INTEGER PRIMARY KEY, r, n)", "INSERT INTO t VALUES (1, 1.5e77, 2)"],
    )
    data = path.read_bytes()
    marker = struct.pack(">d", 1.5e77)
    assert data.count(marker) == 1
    path.write_bytes(data.replace(marker, struct.pack(">d", float("nan"))))

    restore(path, ["t"])

    assert_same(path, tmp_path / "sidecar.db", "t")
    with opened(tmp_path / "sidecar.db") as sidecar:
        assert sidecar.execute("SELECT * FROM t").get == (1, None, 2)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_name_of_table_column_and_index_works(tmp_path: Path, name: str) -> None:
    """Quotes, newlines, statement ends, other scripts: names are names."""
    path = write_database(
        tmp_path / "source.db",
        [
            f"CREATE TABLE {quoted(name)} (id INTEGER PRIMARY KEY, {quoted('c ' + name)} TEXT)",
            f"CREATE INDEX {quoted('i ' + name)} ON {quoted(name)} ({quoted('c ' + name)})",
            f"INSERT INTO {quoted(name)} VALUES (1, 'one'), (2, 'two')",
            "CREATE TABLE bystander (a)",
        ],
    )

    (restored,) = restore(path, [name], where=f"{quoted('c ' + name)} <> 'two'")

    assert restored == RestoredTable(name, 1, ())
    with opened(path) as native, opened(tmp_path / "sidecar.db") as sidecar:
        assert schema_of(sidecar, name) == schema_of(native, name)
        assert sidecar.execute("SELECT count(*) FROM sqlite_schema").get == 2


def test_name_matches_as_in_sqlite_and_counts_once(tmp_path: Path) -> None:
    """A to Z in either case are one name, other letters are not; the spelling of the time wins."""
    path = write_database(tmp_path / "source.db", ['CREATE TABLE "OrdersÄ" (a)'])

    (restored,) = restore(path, ["ordersÄ", "ORDERSÄ"])

    assert restored.table == "OrdersÄ"
    with pytest.raises(TableUnknown):
        restore(path, ["ordersä"], tmp_path / "other.db")


@pytest.mark.parametrize("seen", [[5], [5, 9], []], ids=["rows", "deleted", "never used"])
def test_autoincrement_value_is_that_of_the_time(tmp_path: Path, seen: list[int]) -> None:
    """The next key handed out in the sidecar is the one that was next then."""
    path = write_database(
        tmp_path / "source.db",
        [
            "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, a)",
            "CREATE TABLE u (id INTEGER PRIMARY KEY AUTOINCREMENT, a)",
            "INSERT INTO u VALUES (1000, 1)",
            *[f"INSERT INTO t VALUES ({number}, 1)" for number in seen],
            "DELETE FROM t WHERE id > 5",
        ],
    )

    restore(path, ["t"])

    with opened(path) as native, opened(tmp_path / "sidecar.db") as sidecar:
        statement = "SELECT * FROM sqlite_sequence WHERE name = 't'"
        assert sidecar.execute(statement).fetchall() == native.execute(statement).fetchall()
        assert sidecar.execute("SELECT count(*) FROM sqlite_sequence").get == min(1, len(seen))


def test_only_the_chosen_tables_come_without_triggers_and_views(tmp_path: Path) -> None:
    """The sidecar holds the chosen tables and their indexes and nothing else."""
    path = write_database(
        tmp_path / "source.db",
        [
            "PRAGMA page_size = 8192",
            "CREATE TABLE t (a PRIMARY KEY)",
            "CREATE TABLE u (a)",
            "CREATE TABLE other (a)",
            "CREATE VIEW v AS SELECT * FROM t",
            "CREATE TRIGGER fires AFTER INSERT ON t BEGIN INSERT INTO other VALUES (1); END",
            "INSERT INTO t VALUES (1)",
        ],
    )

    assert [table.table for table in restore(path, ["u", "t"])] == ["u", "t"]

    with opened(tmp_path / "sidecar.db") as sidecar:
        names = {row[0] for row in sidecar.execute("SELECT name FROM sqlite_schema")}
        assert names == {"t", "u", "sqlite_autoindex_t_1"}
        assert sidecar.pragma("page_size") == 8192


# --- the condition -----------------------------------------------------------------------------


def test_condition_chooses_rows_and_sees_only_the_past(tmp_path: Path) -> None:
    """A subselect reads the table as it was, although the sidecar has one of the same name."""
    path = write_database(
        tmp_path / "source.db",
        [
            "CREATE TABLE t (id INTEGER PRIMARY KEY, parent, g AS (id * 2))",
            "INSERT INTO t (id, parent) VALUES (1, NULL), (2, 1), (3, 2), (4, 99)",
        ],
    )

    (restored,) = restore(
        path, ["t"], where="parent IN (SELECT id FROM t) -- whose parent was there"
    )

    assert restored.rows == 2
    with opened(tmp_path / "sidecar.db") as sidecar:
        assert sidecar.execute("SELECT id, g FROM t").fetchall() == [(2, 4), (3, 6)]


def test_condition_is_checked_for_every_table(tmp_path: Path) -> None:
    """A condition that one of the tables does not understand is refused before anything is made."""
    path = write_database(tmp_path / "source.db", ["CREATE TABLE t (a)", "CREATE TABLE u (b)"])

    with pytest.raises(UsageError) as caught:
        restore(path, ["t", "u"], where="a = 1")

    assert "no such column: a" in str(caught.value.detail)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source.db"]


def test_condition_by_key_reads_only_its_pages(tmp_path: Path) -> None:
    """One row out of many costs a path through the tree, not the table."""
    path = write_database(
        tmp_path / "source.db",
        [
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a)",
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 50000)"
            " INSERT INTO t SELECT i, 'row ' || i FROM n",
        ],
    )
    source = FilePages(path)
    with open_past(source) as past:
        (restored,) = restore_tables(past, ["t"], tmp_path / "one.db", where="id = 4711")

    assert restored.rows == 1
    assert len(set(source.read)) <= 5


# --- fetching ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", "WITHOUT ROWID"])
def test_pages_of_the_table_are_fetched_together(tmp_path: Path, options: str) -> None:
    """A remote store is asked for runs of pages, and only for those of the chosen table."""
    rows = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 40000)"
    path = write_database(
        tmp_path / "source.db",
        [
            f"CREATE TABLE t (id INTEGER PRIMARY KEY, a, b) {options}",
            "CREATE TABLE other (id INTEGER PRIMARY KEY, a)",
            f"{rows} INSERT INTO t SELECT i, 'row ' || i, i FROM n",
            f"{rows} INSERT INTO other SELECT i, 'row ' || i FROM n",
            "CREATE INDEX by_a ON t (a)",
        ],
    )
    source = FilePages(path)
    with open_past(source) as past:
        restore_tables(past, ["t"], tmp_path / "sidecar.db")

    assert_same(path, tmp_path / "sidecar.db", "t")
    assert len(source.read) > 100
    assert len(set(source.surprises)) <= 5
    assert source.prefetch_calls <= 10
    assert len(source.read) < 0.6 * source.page_count


# --- the file ----------------------------------------------------------------------------------


def simple_file(folder: Path) -> Path:
    return write_database(
        folder / "source.db",
        [
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, a UNIQUE)",
            "CREATE TABLE customers (id INTEGER PRIMARY KEY)",
            "INSERT INTO orders VALUES (1, 'x'), (2, 'y')",
        ],
    )


def test_destination_that_exists_is_never_overwritten(tmp_path: Path) -> None:
    """A file, a folder, a dangling link: refused, and left as it is."""
    path = simple_file(tmp_path)
    there = tmp_path / "there"
    there.write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")

    for destination in (there, tmp_path, link):
        with pytest.raises(PreconditionFailed, match="exists already"):
            restore(path, ["orders"], destination)

    assert there.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_missing_folder_is_told(tmp_path: Path) -> None:
    """The system's reason is passed on."""
    with pytest.raises(PreconditionFailed) as caught:
        restore(simple_file(tmp_path), ["orders"], tmp_path / "no" / "where.db")
    assert "No such file" in str(caught.value.detail)


def test_sidecar_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    """It holds rows of production: mode 0600, and nothing lies beside it."""
    restore(simple_file(tmp_path), ["orders"])

    assert (tmp_path / "sidecar.db").stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in tmp_path.iterdir()) == ["sidecar.db", "source.db"]


@pytest.mark.parametrize("name", ["a b.db", "per%20cent?.db", "hash#.db", "Größe.db", "quo'te.db"])
def test_odd_name_of_the_file_works(tmp_path: Path, name: str) -> None:
    """Names that mean something in a URI are names all the same."""
    restore(simple_file(tmp_path), ["orders"], tmp_path / name)

    sidecar = open_sidecar(tmp_path / name)
    assert sidecar.execute("SELECT count(*) FROM orders").get == 2
    with pytest.raises(apsw.ReadOnlyError):
        sidecar.execute("DELETE FROM orders")
    sidecar.close()


def test_unknown_table_is_refused_with_the_nearest_names(tmp_path: Path) -> None:
    """A mistyped name shows what was meant, and what the caller knows about its history."""
    source = FilePages(simple_file(tmp_path))
    with open_past(source) as past, pytest.raises(TableUnknown) as caught:
        restore_tables(
            past,
            ["ordres"],
            tmp_path / "x.db",
            explain_absence=lambda name: f"{name} was dropped in commit:7.",
        )
    assert caught.value.hint == "Did you mean orders?"
    assert caught.value.detail == "ordres was dropped in commit:7."


def test_fault_of_the_archive_leaves_no_file(tmp_path: Path) -> None:
    """A page that cannot be read is reported as what it is, and nothing stays behind."""
    source = FilePages(simple_file(tmp_path))
    with open_past(source) as past:
        root = past.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'orders'").get
        source.fails[root] = CorruptObject("log/1", "Its checksum is wrong.")
        with pytest.raises(CorruptObject):
            restore_tables(past, ["orders"], tmp_path / "sidecar.db")

    assert sorted(file.name for file in tmp_path.iterdir()) == ["source.db"]


def test_rows_that_break_their_own_constraint_are_told(tmp_path: Path) -> None:
    """What the database itself says about such rows is passed on, and nothing stays behind."""
    path = write_database(
        tmp_path / "source.db",
        [
            "CREATE TABLE t (a, b)",
            "INSERT INTO t VALUES (NULL, 1)",
            "PRAGMA writable_schema = ON",
            "UPDATE sqlite_schema SET sql = 'CREATE TABLE t (a NOT NULL, b)' WHERE name = 't'",
        ],
    )

    with pytest.raises(DatabaseRefused) as caught:
        restore(path, ["t"])

    assert "NOT NULL constraint failed" in str(caught.value.detail)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source.db"]


_KILLED = """
import sys
from pathlib import Path
from pitr.sqlite.past.replay import open_past
from pitr.sqlite.past.sidecar import restore_tables
from tests.sqlite.past_files import FilePages
with open_past(FilePages(Path(sys.argv[1]))) as past:
    restore_tables(past, ["orders"], Path(sys.argv[2]))
"""


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_kill_leaves_the_whole_file_or_none(tmp_path: Path, step: int) -> None:
    """Killed at any step of publishing, the name is there with everything or not at all."""
    path = simple_file(tmp_path)
    target = tmp_path / "sidecar.db"
    ended = subprocess.run(
        [sys.executable, "-c", _KILLED, str(path), str(target)],
        env=os.environ | {"PITR_CRASH_AT": str(step)},
        check=False,
    )

    assert ended.returncode in (0, -signal.SIGKILL)
    if target.exists():
        assert_same(path, target, "orders")
