"""Recovered rows against live ones: exact counts, and no trace in the live database."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pitr.sqlite.diff.compare import Comparison, compare_with_live, compare_with_past
from pitr.sqlite.past.replay import open_past
from pitr.sqlite.past.sidecar import restore_tables
from tests.sqlite.past_files import APPLICATION, FilePages, opened, quoted, write_database

FILL = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {})"
BASE = [
    "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b TEXT COLLATE NOCASE)",
    FILL.format(20) + " INSERT INTO t SELECT i, i, 'row ' || i FROM n",
]


def prepare(
    folder: Path,
    before: Sequence[str],
    since: Sequence[str],
    *,
    mode: str = "WAL",
    where: str | None = None,
    preparation: str = "",
    table: str = "t",
) -> tuple[Path, Path]:
    """Make a live database, restore a table from it, let life go on; return (live, sidecar)."""
    live = write_database(
        folder / "live.db", [f"PRAGMA journal_mode = {mode}", *before], preparation
    )
    with open_past(FilePages(live)) as past:
        restore_tables(past, [table], folder / "sidecar.db", where=where)
    write_database(live, since, preparation)
    return live, folder / "sidecar.db"


def counts(result: Comparison) -> tuple[int | None, int | None, int | None]:
    return result.missing_in_live, result.differs, result.extra_in_live


CHANGES = {
    "nothing": ([], (0, 0, 0)),
    "deleted": (["DELETE FROM t WHERE id > 15"], (5, 0, 0)),
    "updated": (["UPDATE t SET a = a + 1 WHERE id <= 3"], (0, 3, 0)),
    "inserted": (["INSERT INTO t VALUES (100, 1, 1), (101, 1, 1)"], (0, 0, 2)),
    "set to null": (["UPDATE t SET a = NULL WHERE id = 1"], (0, 1, 0)),
    "another storage class": (["UPDATE t SET a = a || '' WHERE id = 1"], (0, 1, 0)),
    "a real of the same value": (["UPDATE t SET a = a * 1.0 WHERE id = 1"], (0, 1, 0)),
    "another case": (["UPDATE t SET b = upper(b) WHERE id = 1"], (0, 1, 0)),
    "a blob of the same bytes": (["UPDATE t SET b = CAST(b AS BLOB) WHERE id = 1"], (0, 1, 0)),
    "the key": (["UPDATE t SET id = 500 WHERE id = 5"], (1, 0, 1)),
    "everything": (["DELETE FROM t"], (20, 0, 0)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_each_change_is_counted_as_what_it_is(tmp_path: Path, change: str, mode: str) -> None:
    """Missing, differing and extra rows by key, in both journal modes."""
    since, expected = CHANGES[change]
    live, sidecar = prepare(tmp_path, BASE, since, mode=mode)

    result = compare_with_live(live, sidecar, "t")

    assert counts(result) == expected
    assert result.warnings == ()


def test_comparison_with_a_later_past_gives_the_same(tmp_path: Path) -> None:
    """The newest archived state can stand in for live."""
    live, sidecar = prepare(tmp_path, BASE, ["DELETE FROM t WHERE id > 15"])
    with open_past(FilePages(live)) as past:
        assert compare_with_past(past, sidecar, "t") == compare_with_live(live, sidecar, "t")


KEYS = {
    "without rowid": "CREATE TABLE t (k TEXT, n INT, a, PRIMARY KEY (n, k)) WITHOUT ROWID",
    "declared key": "CREATE TABLE t (k TEXT, n INT, a, PRIMARY KEY (n, k))",
    "unique and not null": "CREATE TABLE t (a, k TEXT NOT NULL, n INT NOT NULL, UNIQUE (k, n))",
    "generated column": (
        "CREATE TABLE t (k TEXT, n INT, a, g AS (a || n) STORED, PRIMARY KEY (n, k))"
    ),
    "unknown collation": (
        "CREATE TABLE t (k TEXT COLLATE backwards, n INT, a, PRIMARY KEY (n, k)) WITHOUT ROWID"
    ),
    "no key": "CREATE TABLE t (k TEXT, n INT, a)",
}


@pytest.mark.parametrize("kind", KEYS)
def test_rows_are_matched_by_whatever_key_there_is(tmp_path: Path, kind: str) -> None:
    """With a key an update differs; without one it is a row missing and a row extra."""
    live, sidecar = prepare(
        tmp_path,
        [
            KEYS[kind],
            FILL.format(30) + " INSERT INTO t (k, n, a) SELECT 'k' || i, i % 3, i FROM n",
        ],
        [
            "DELETE FROM t WHERE k IN ('k1', 'k2')",
            "UPDATE t SET a = 'new' WHERE k = 'k5'",
            "INSERT INTO t (k, n, a) VALUES ('x', 1, 1), ('y', 1, 1), ('z', 1, 1)",
        ],
        preparation=APPLICATION,
    )

    result = compare_with_live(live, sidecar, "t")

    assert counts(result) == ((3, 0, 4) if kind == "no key" else (2, 1, 3))


def test_rows_without_key_are_counted_as_often_as_they_come(tmp_path: Path) -> None:
    """Equal rows are not one row: three then and one now are two missing."""
    live, sidecar = prepare(
        tmp_path,
        ["CREATE TABLE t (a, b)", "INSERT INTO t VALUES (1, NULL), (1, NULL), (1, NULL), (2, 'x')"],
        ["DELETE FROM t WHERE rowid < 3", "INSERT INTO t VALUES (2, 'x'), (1.0, NULL)"],
    )

    assert counts(compare_with_live(live, sidecar, "t")) == (2, 0, 2)


def test_null_in_a_declared_key_does_not_multiply_rows(tmp_path: Path) -> None:
    """Rows that share a NULL key are counted one by one."""
    live, sidecar = prepare(
        tmp_path,
        ["CREATE TABLE t (k TEXT PRIMARY KEY, a)", "INSERT INTO t VALUES (NULL, 1), (NULL, 2)"],
        ["INSERT INTO t VALUES (NULL, 3)"],
    )

    assert counts(compare_with_live(live, sidecar, "t")) == (0, 0, 1)


def test_condition_limits_the_extra_rows(tmp_path: Path) -> None:
    """New rows that the restore would not have chosen are not extra."""
    live, sidecar = prepare(
        tmp_path,
        BASE,
        ["INSERT INTO t VALUES (100, 1, 'x'), (5000, 1, 'x')", "DELETE FROM t WHERE id = 1"],
        where="t.id < 1000 -- small ones",
    )

    result = compare_with_live(live, sidecar, "t", where="t.id < 1000 -- small ones")

    assert counts(result) == (1, 0, 1)


def test_condition_that_fails_on_live_leaves_the_rest(tmp_path: Path) -> None:
    """A column that is gone makes extra rows uncountable; missing and differing ones are not."""
    live, sidecar = prepare(
        tmp_path, BASE, ["ALTER TABLE t DROP COLUMN a", "DELETE FROM t WHERE id = 1"], where="a > 0"
    )

    result = compare_with_live(live, sidecar, "t", where="a > 0")

    assert counts(result) == (1, 0, None)
    assert "gone since: a" in result.warnings[0]
    assert "no such column: a" in result.warnings[1]


def test_columns_of_both_are_compared_after_a_change_of_schema(tmp_path: Path) -> None:
    """Added and dropped columns are named; what is common still counts."""
    live, sidecar = prepare(
        tmp_path,
        BASE,
        [
            "ALTER TABLE t ADD COLUMN c DEFAULT 5",
            "ALTER TABLE t DROP COLUMN b",
            "UPDATE t SET a = 0 WHERE id = 7",
        ],
    )

    result = compare_with_live(live, sidecar, "t")

    assert counts(result) == (0, 1, 0)
    assert result.warnings == ("t: compared by the columns of both; added since: c; gone since: b",)


@pytest.mark.parametrize("since", [["DROP TABLE t"], ["ALTER TABLE t RENAME TO u"]])
def test_absent_live_table_gives_no_counts(tmp_path: Path, since: list[str]) -> None:
    """Nothing to compare with is not zero."""
    live, sidecar = prepare(tmp_path, BASE, since)

    result = compare_with_live(live, sidecar, "t")

    assert counts(result) == (None, None, None)
    assert result.warnings


def test_absent_live_file_gives_no_counts_and_is_not_made(tmp_path: Path) -> None:
    """A source that is gone stays gone."""
    live, sidecar = prepare(tmp_path, BASE, [])
    live.unlink()

    assert counts(compare_with_live(live, sidecar, "t")) == (None, None, None)
    assert not live.exists()


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100])
def test_live_file_that_is_no_database_gives_no_counts(tmp_path: Path, content: bytes) -> None:
    """Whatever stands in the file's place now is reported, not raised."""
    live, sidecar = prepare(tmp_path, BASE, [])
    live.write_bytes(content)

    result = compare_with_live(live, sidecar, "t")

    assert counts(result) == (None, None, None)
    assert "no SQLite database" in result.warnings[0]


def test_live_table_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    """A virtual table whose tokenizer only the application has is no reason to fail."""
    live, sidecar = prepare(
        tmp_path,
        ["CREATE VIRTUAL TABLE t USING fts4(a, tokenize=porter)", "INSERT INTO t VALUES ('x')"],
        [],
    )
    live.write_bytes(live.read_bytes().replace(b"tokenize=porter", b"tokenize=klezmr"))

    result = compare_with_live(live, sidecar, "t")

    assert counts(result) == (None, None, None)
    assert "cannot be opened here" in result.warnings[0]


@pytest.mark.parametrize("module", ["fts5(a, b)", "fts4(a, b)", "rtree(id, a, b)"])
def test_virtual_tables_are_compared_by_row(tmp_path: Path, module: str) -> None:
    """Their rows have a key as well."""
    values = "(1, 2, 3), (2, 3, 4), (3, 4, 5)" if "rtree" in module else "(1, 2), (2, 3), (3, 4)"
    live, sidecar = prepare(
        tmp_path,
        [f"CREATE VIRTUAL TABLE t USING {module}", f"INSERT INTO t VALUES {values}"],
        ["DELETE FROM t WHERE rowid = 1", "UPDATE t SET a = 1 WHERE rowid = 2"],
    )

    assert counts(compare_with_live(live, sidecar, "t")) == (1, 1, 0)


# --- no trace ----------------------------------------------------------------------------------

_APPLICATION = """
import os, sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA wal_autocheckpoint = 0")
for statement in sys.argv[2:]:
    c.execute(statement)
print("ready", flush=True)
sys.stdin.readline()
"""


@contextmanager
def application(path: Path, *statements: str, killed: bool = False) -> Iterator[None]:
    """Keep a process connected to the live database that has run these statements."""
    process = subprocess.Popen(
        [sys.executable, "-c", _APPLICATION, str(path), *statements],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    if killed:
        process.send_signal(signal.SIGKILL)
        process.wait()
    try:
        yield
    finally:
        process.communicate("\n")


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if "-shm" not in file.name}


def test_wal_database_at_rest_gets_no_files_beside_it(tmp_path: Path) -> None:
    """No process has it open: no -wal and no -shm appear."""
    live, sidecar = prepare(tmp_path, BASE, ["DELETE FROM t WHERE id = 1"])
    before = files(tmp_path)

    assert counts(compare_with_live(live, sidecar, "t")) == (1, 0, 0)

    assert files(tmp_path) == before
    assert not live.with_name("live.db-shm").exists()


@pytest.mark.parametrize("killed", [False, True])
def test_rows_still_in_the_wal_are_seen(tmp_path: Path, killed: bool) -> None:
    """What is committed and not yet checkpointed counts, whether the writer lives or was killed."""
    live, sidecar = prepare(tmp_path, BASE, [])
    with application(live, "DELETE FROM t WHERE id < 4", killed=killed):
        before = files(tmp_path)

        assert counts(compare_with_live(live, sidecar, "t")) == (3, 0, 0)

        assert files(tmp_path) == before


def test_wal_that_nobody_shares_is_left_alone(tmp_path: Path) -> None:
    """Rows in a -wal whose -shm is gone cannot be read without making files: said instead."""
    live, sidecar = prepare(tmp_path, BASE, [])
    with application(live, "DELETE FROM t WHERE id < 4", killed=True):
        os.remove(f"{live}-shm")
        before = files(tmp_path)

        result = compare_with_live(live, sidecar, "t")

        assert counts(result) == (None, None, None)
        assert "Open it once with the application" in result.warnings[0]
        assert files(tmp_path) == before
        assert not live.with_name("live.db-shm").exists()


def test_rollback_journal_database_is_held_for_a_moment_only(tmp_path: Path) -> None:
    """A comparison that would hold up writers is given up, and says what to do instead."""
    rows = FILL.format(300_000)
    live, sidecar = prepare(
        tmp_path,
        ["CREATE TABLE t (a, b)", f"{rows} INSERT INTO t SELECT i, 'row ' || i FROM n"],
        [],
        mode="DELETE",
    )

    result = compare_with_live(live, sidecar, "t")

    assert counts(result) == (None, None, None)
    assert "compare with the archive instead" in result.warnings[0]


def test_database_locked_by_a_writer_gives_no_counts(tmp_path: Path) -> None:
    """A writer that holds the file is waited for a little, then left to its work."""
    live, sidecar = prepare(tmp_path, BASE, [], mode="DELETE")
    with application(live, "BEGIN EXCLUSIVE", "DELETE FROM t WHERE id = 1"):
        result = compare_with_live(live, sidecar, "t")

    assert counts(result) == (None, None, None)
    assert "locked" in result.warnings[0]


def test_another_text_encoding_gives_no_counts(tmp_path: Path) -> None:
    """A live database made anew in another encoding cannot be joined with, and that is said."""
    live, sidecar = prepare(tmp_path, BASE, [])
    live.unlink()
    write_database(live, ["PRAGMA encoding = 'UTF-16'", *BASE])

    result = compare_with_live(live, sidecar, "t")

    assert counts(result) == (None, None, None)
    assert "encoding" in result.warnings[0]


# --- against an oracle -------------------------------------------------------------------------

VALUES = ["NULL", "0", "1", "1.0", "'1'", "'a'", "'A'", "x'61'", "''", "x''", "2.5", "-0.5"]


@pytest.mark.parametrize("_round", range(6))
@pytest.mark.parametrize("keyed", [True, False])
def test_random_changes_are_counted_exactly(tmp_path: Path, keyed: bool, _round: int) -> None:
    """Counts equal those of plain Python over both tables, with odd names of table and column."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    name, column = quoted('a "t;'), quoted("side; --")

    def values() -> str:
        return f"{rng.choice(VALUES)}, {rng.choice(VALUES)}"

    key = "PRIMARY KEY" if keyed else ""
    before = [f"CREATE TABLE {name} (id INT NOT NULL {key}, {column}, b TEXT COLLATE NOCASE)"]
    before += [
        f"INSERT INTO {name} VALUES ({i if keyed else i % 4}, {values()})" for i in range(40)
    ]
    since = []
    for _ in range(30):
        where = f"WHERE id = {rng.randrange(60)}"
        since.append(
            rng.choice(
                [
                    f"DELETE FROM {name} {where}",
                    f"UPDATE {name} SET {column} = {rng.choice(VALUES)} {where}",
                    f"UPDATE {name} SET b = {rng.choice(VALUES)} {where}",
                    f"INSERT OR IGNORE INTO {name} VALUES ({rng.randrange(80)}, {values()})",
                ]
            )
        )
    live, sidecar = prepare(tmp_path, before, since, table='a "t;')

    with opened(live) as native, opened(sidecar) as then:
        everything = f"SELECT * FROM {name}"
        rows_now = [tuple(map(repr, row)) for row in native.execute(everything)]
        rows_then = [tuple(map(repr, row)) for row in then.execute(everything)]
    if keyed:
        now = {row[0]: row for row in rows_now}
        past = {row[0]: row for row in rows_then}
        both = now.keys() & past.keys()
        differing = sum(now[key] != past[key] for key in both)
        expected = (len(past) - len(both), differing, len(now) - len(both))
    else:
        gone = Counter(rows_then) - Counter(rows_now)
        new = Counter(rows_now) - Counter(rows_then)
        expected = (gone.total(), 0, new.total())
    assert counts(compare_with_live(live, sidecar, 'a "t;')) == expected
