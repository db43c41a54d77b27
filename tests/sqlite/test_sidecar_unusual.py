"""Virtual tables, and what only the application knows: back as far as can be, and said how far."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest

from pitr.errors import (
    UsageError,
)
from pitr.sqlite.past.sidecar import RestoredTable
from tests.sqlite.past_files import (
    APPLICATION,
    assert_same,
    opened,
    restore,
    schema_of,
    write_database,
)

# --- virtual tables ----------------------------------------------------------------------------

TEXTS = "INSERT INTO {}(rowid, a, b) VALUES (3, 'red fish', 'one'), (9, 'blue bird', NULL)"
VIRTUAL = {
    "fts5": ("fts5(a, b UNINDEXED, tokenize = 'porter')", TEXTS, "f MATCH 'fishes'"),
    "fts5 without sizes": ("fts5(a, b, columnsize=0, detail=none)", TEXTS, "f MATCH 'red'"),
    "fts4": ("fts4(a, b, tokenize=porter)", TEXTS, "f MATCH 'fishes'"),
    "fts4 with languages": (
        'fts4(a, b, languageid="lang")',
        "INSERT INTO {}(docid, a, b, lang) VALUES (3, 'red fish', 'one', 7)",
        "f MATCH 'fish' AND lang = 7",
    ),
    "fts3": ("fts3(a, b)", TEXTS, "f MATCH 'fish'"),
    "rtree": (
        "rtree(id, x0, x1, y0, y1, +label)",
        "INSERT INTO {} VALUES (3, 0.1, 1.7, -2, 3, 'box'), (8, 10, 20, 10, 20, NULL)",
        "x0 >= 0 AND x1 < 5",
    ),
    "rtree of integers": (
        "rtree_i32(id, x0, x1)",
        "INSERT INTO {} VALUES (3, -7, 2147483647), (1, 100, 200)",
        "x0 < 0",
    ),
    "geopoly": (
        "geopoly(label)",
        "INSERT INTO {}(rowid, _shape, label) VALUES (3, '[[0,0],[1,0],[1,1],[0,0]]', 'x')",
        "geopoly_overlap(_shape, '[[0,0],[2,0],[2,2],[0,0]]')",
    ),
}
# The library of the standard Python may lack geopoly.
_APSW_WRITER = (
    "import apsw, json, sys\npath, statements = json.load(sys.stdin)\n"
    "c = apsw.Connection(path)\nfor s in statements: c.execute(s).fetchall()\nc.close()"
)


def write_with_apsw(path: Path, statements: Sequence[str]) -> Path:
    subprocess.run(
        [sys.executable, "-c", _APSW_WRITER],
        input=json.dumps([str(path), list(statements)]),
        check=True,
        text=True,
    )
    return path


@pytest.mark.parametrize("kind", VIRTUAL)
def test_virtual_table_comes_back_and_answers_searches(tmp_path: Path, kind: str) -> None:
    """Its rows go in through the module, so that its own index is whole."""
    module, insert, search = VIRTUAL[kind]
    path = write_with_apsw(
        tmp_path / "source.db",
        [
            f"CREATE VIRTUAL TABLE f USING {module}",
            insert.format("f"),
            "CREATE TABLE bystander AS SELECT 1",
        ],
    )

    (restored,) = restore(path, ["F"])

    assert restored.warnings == ()
    with opened(path) as native, opened(tmp_path / "sidecar.db") as sidecar:
        everything = "SELECT rowid, * FROM f ORDER BY rowid"
        rows = native.execute(everything).fetchall()
        assert sidecar.execute(everything).fetchall() == rows
        assert restored.rows == len(rows) > 0
        found = f"SELECT rowid FROM f WHERE {search}"
        assert sidecar.execute(found).fetchall() == native.execute(found).fetchall() == [(3,)]
        assert sidecar.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_virtual_table_takes_a_condition(tmp_path: Path) -> None:
    """A condition chooses rows of a full-text table too, MATCH included."""
    path = write_database(
        tmp_path / "source.db",
        ["CREATE VIRTUAL TABLE f USING fts5(a, b)", TEXTS.format("f")],
    )

    assert restore(path, ["f"], where="f MATCH 'blue'")[0].rows == 1
    assert restore(path, ["f"], tmp_path / "none.db", where="b = 'two'")[0].rows == 0


@pytest.mark.parametrize(
    ("module", "key"),
    [("fts5(a, b, content='docs', content_rowid='id')", "id"), ("fts4(a, b, content=docs)", "id")],
)
def test_full_text_index_over_a_table_is_built_anew(tmp_path: Path, module: str, key: str) -> None:
    """With its table it comes back, whatever the order; without it the error names both."""
    path = write_database(
        tmp_path / "source.db",
        [
            f"CREATE TABLE docs ({key} INTEGER PRIMARY KEY, a, b)",
            f"CREATE VIRTUAL TABLE f USING {module}",
            "INSERT INTO docs VALUES (3, 'red fish', 'one'), (9, 'blue bird', NULL)",
            "INSERT INTO f(f) VALUES ('rebuild')",
        ],
    )

    assert [(t.table, t.rows) for t in restore(path, ["f", "docs"])] == [("f", 2), ("docs", 2)]
    with opened(tmp_path / "sidecar.db") as sidecar:
        assert sidecar.execute("SELECT rowid FROM f WHERE f MATCH 'bird'").fetchall() == [(9,)]

    chosen = restore(path, ["docs", "f"], tmp_path / "some.db", where="id = 3")
    assert [table.rows for table in chosen] == [1, 1]

    with pytest.raises(UsageError) as caught:
        restore(path, ["f"], tmp_path / "alone.db")
    assert caught.value.hint == "Restore both: -t docs -t f"


@pytest.mark.parametrize(
    ("create", "table", "says"),
    [
        ("CREATE VIRTUAL TABLE f USING fts5(a, content='')", "f", "contentless"),
        ('CREATE VIRTUAL TABLE f USING fts4(a, content="")', "f", "contentless"),
        ("CREATE VIRTUAL TABLE f USING fts5(a)", "F_content", "-t f"),
        ("CREATE VIRTUAL TABLE f USING rtree(id, x0, x1)", "f_node", "-t f"),
        ("CREATE VIRTUAL TABLE f USING fts4aux(g)", "f", "fts4aux"),
        ("CREATE VIEW f AS SELECT 1", "f", "is a view"),
        ("CREATE TABLE f (id INTEGER PRIMARY KEY AUTOINCREMENT)", "sqlite_sequence", "internal"),
    ],
)
def test_what_holds_no_rows_of_its_own_is_refused(
    tmp_path: Path, create: str, table: str, says: str
) -> None:
    """The refusal says why and what to do instead, and leaves no file."""
    path = write_database(tmp_path / "source.db", ["CREATE VIRTUAL TABLE g USING fts4(a)", create])

    with pytest.raises(UsageError) as caught:
        restore(path, [table])

    error = caught.value
    assert says in f"{error.message} {error.detail} {error.hint}"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source.db"]


def test_full_text_table_with_unknown_tokenizer_becomes_an_ordinary_one(tmp_path: Path) -> None:
    """The rows come back under their rowids; that the index does not is said."""
    path = write_database(
        tmp_path / "source.db",
        ["CREATE VIRTUAL TABLE f USING fts5(a, b, tokenize = 'ascii')", TEXTS.format("f")],
    )
    path.write_bytes(path.read_bytes().replace(b"'ascii'", b"'klezm'"))

    (restored,) = restore(path, ["f"])

    assert restored.rows == 2
    assert "restored as an ordinary table" in restored.warnings[0]
    with opened(tmp_path / "sidecar.db") as sidecar:
        rows = sidecar.execute("SELECT rowid, * FROM f").fetchall()
        assert rows == [(3, "red fish", "one"), (9, "blue bird", None)]


def test_full_text_table_that_cannot_be_opened_points_to_its_content(tmp_path: Path) -> None:
    """What cannot be read here is told, and its content can be had as an ordinary table."""
    path = write_database(
        tmp_path / "source.db",
        ["CREATE VIRTUAL TABLE f USING fts4(a, b, tokenize=porter)", TEXTS.format("f")],
    )
    path.write_bytes(path.read_bytes().replace(b"tokenize=porter", b"tokenize=klezmr"))

    with pytest.raises(UsageError) as caught:
        restore(path, ["f"])
    assert "klezm" in str(caught.value.detail)
    assert "-t f_content" in str(caught.value.hint)

    (restored,) = restore(path, ["f_content"])
    assert restored.rows == 2
    assert_same(path, tmp_path / "sidecar.db", "f_content")


# --- what only the application knows -----------------------------------------------------------


def application_file(folder: Path, *statements: str) -> Path:
    return write_database(folder / "source.db", statements, APPLICATION)


def test_check_with_unknown_function_is_kept_as_text(tmp_path: Path) -> None:
    """The definition stays exact; the rows passed the check when they were written."""
    path = application_file(
        tmp_path,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a CHECK (secret(a) <> 'x'),"
        " b DEFAULT (secret(1)))",
        "INSERT INTO t VALUES (1, 'abc', 2)",
    )

    (restored,) = restore(path, ["t"])

    assert restored == RestoredTable("t", 1, ())
    with opened(path) as native, opened(tmp_path / "sidecar.db") as sidecar:
        assert schema_of(sidecar, "t") == schema_of(native, "t")
        assert sidecar.execute("SELECT * FROM t").get == (1, "abc", 2)


def test_index_with_unknown_function_or_collation_is_left_out(tmp_path: Path) -> None:
    """Each index that cannot be built is named; the others and the rows are there."""
    path = application_file(
        tmp_path,
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a, n TEXT COLLATE backwards)",
        "CREATE INDEX i1 ON t (secret(a))",
        "CREATE INDEX i2 ON t (a) WHERE secret(a) > 'b'",
        "CREATE INDEX i3 ON t (n)",
        "CREATE INDEX i4 ON t (a)",
        "INSERT INTO t VALUES (1, 'abc', 'x'), (2, 'def', 'y')",
    )

    (restored,) = restore(path, ["t"])

    assert restored.rows == 2
    assert len(restored.warnings) == 3
    for name, warning in zip(("i1", "i2", "i3"), restored.warnings, strict=True):
        assert f"the index {name} is left out" in warning
    with opened(tmp_path / "sidecar.db") as sidecar:
        assert [row[1] for row in schema_of(sidecar, "t")] == ["i4", "t"]
        assert sidecar.execute("SELECT id, a FROM t ORDER BY a").fetchall() == [
            (1, "abc"),
            (2, "def"),
        ]


def test_unique_index_that_the_rows_break_is_left_out(tmp_path: Path) -> None:
    """Rows that a damaged index let in come back; the index that forbids them does not."""
    path = write_database(
        tmp_path / "source.db",
        [
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a)",
            "CREATE INDEX i ON t (a)",
            "INSERT INTO t VALUES (1, 'x'), (2, 'x')",
            "PRAGMA writable_schema = ON",
            "UPDATE sqlite_schema SET sql = 'CREATE UNIQUE INDEX i ON t (a)' WHERE name = 'i'",
        ],
    )

    (restored,) = restore(path, ["t"])

    assert restored.rows == 2
    assert "the index i is left out" in restored.warnings[0]
    with opened(tmp_path / "sidecar.db") as sidecar:
        assert sidecar.execute("PRAGMA integrity_check").get == "ok"


def test_generated_columns_with_unknown_function_become_data_or_are_left_out(
    tmp_path: Path,
) -> None:
    """Stored values come back as data; values that were never stored cannot, and that is said."""
    path = application_file(
        tmp_path,
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT NOT NULL DEFAULT 'd',"
        " s TEXT AS (secret(a)) STORED, v AS (secret(a)), w AS (a || '!'),"
        " u UNIQUE COLLATE NOCASE)",
        "CREATE INDEX by_v ON t (v)",
        "CREATE INDEX by_s ON t (s)",
        "INSERT INTO t (id, a, u) VALUES (1, 'abc', 'P'), (7, 'def', 'q')",
    )

    (restored,) = restore(path, ["t"])

    told = "\n".join(restored.warnings)
    assert "generated column s is kept as plain data" in told
    assert "generated column v is left out" in told
    assert "index by_v is left out" in told
    assert "index by_s" not in told
    with opened(tmp_path / "sidecar.db") as sidecar:
        assert sidecar.execute("SELECT * FROM t").fetchall() == [
            (1, "abc", "cba", "abc!", "P"),
            (7, "def", "fed", "def!", "q"),
        ]
        assert sidecar.execute("SELECT seq FROM sqlite_sequence").get == 7
        with pytest.raises(apsw.ConstraintError):
            sidecar.execute("INSERT INTO t (a, u) VALUES ('x', 'p')")
        with pytest.raises(apsw.ConstraintError):
            sidecar.execute("INSERT INTO t (a, u) VALUES (NULL, 'z')")


@pytest.mark.parametrize("where", [None, "v > 1"])
def test_key_ordered_by_unknown_collation_comes_back_in_binary_order(
    tmp_path: Path, where: str | None
) -> None:
    """A key in an unknown order would be a broken index: it gets an order that SQLite knows."""
    path = application_file(
        tmp_path,
        "CREATE TABLE t (k TEXT COLLATE backwards, v INT, PRIMARY KEY (k, v))"
        " STRICT, WITHOUT ROWID",
        "INSERT INTO t VALUES ('ab', 1), ('ba', 2), ('zzz', 3), ('aaz', 4)",
    )

    (restored,) = restore(path, ["t"], where=where)

    assert restored.rows == (3 if where else 4)
    assert "backwards" in restored.warnings[0]
    with opened(tmp_path / "sidecar.db") as sidecar:
        assert sidecar.execute("SELECT v FROM t WHERE k = 'ba'").get == 2
        assert sidecar.execute("PRAGMA integrity_check").get == "ok"
        with pytest.raises(apsw.ConstraintError):
            sidecar.execute("INSERT INTO t VALUES ('ba', 2)")
