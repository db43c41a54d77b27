"""`pitr guard check` as a user types it: text, JSON, SARIF and exit codes; SQLite's findings."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pitr.sqlite.guard.checking import check
from tests.cli.commands import pitr, succeed, write

SCHEMA = (
    "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT UNIQUE, cents INTEGER)",
    "CREATE TABLE lines (id INTEGER PRIMARY KEY, o REFERENCES orders ON DELETE CASCADE)",
    "CREATE TABLE hints (id INTEGER PRIMARY KEY, o REFERENCES orders ON DELETE SET NULL)",
    "CREATE TABLE log (text)",
    "CREATE TABLE spare (a, b)",
    "CREATE VIEW dear AS SELECT * FROM orders WHERE cents > 100",
    "CREATE TRIGGER gone AFTER DELETE ON orders BEGIN DELETE FROM log; END",
    "CREATE TRIGGER dear_gone INSTEAD OF DELETE ON dear"
    " BEGIN DELETE FROM orders WHERE id = old.id; END",
    "INSERT INTO orders VALUES (1, 'lamp', 1)",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checked")
    write(folder / "shop.db", *SCHEMA)
    succeed(folder, "init", "shop.db", "--archive", "archive")
    return folder


def findings(folder: Path, sql: str, *options: str) -> list[tuple[int, str, str | None, str]]:
    """Return line, kind, table and severity of each finding of a text."""
    (folder / "m.sql").write_text(sql)
    done = pitr(folder, "guard", "check", "m.sql", "--json", "--fail-on", "never", *options)
    assert done.code == 0, done.err
    return [(f["line"], f["kind"], f["table"], f["severity"]) for f in done.json["findings"]]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("DELETE FROM log", [("delete", "log", "error")]),
        ("DELETE FROM log WHERE 1", [("delete", "log", "warning")]),
        ("UPDATE orders SET cents = 0", [("update", "orders", "error")]),
        ("WITH a AS (SELECT 1 WHERE 1) UPDATE log SET text = 1", [("update", "log", "error")]),
        (
            "DELETE FROM orders WHERE id = 1",
            [("delete", "orders", "warning"), ("delete", "log", "warning"),
             ("update", "hints", "warning"), ("delete", "lines", "warning")],
        ),
        ("DROP TABLE log", [("drop_table", "log", "error")]),
        ("DROP TABLE IF EXISTS none", []),
        ("ALTER TABLE spare DROP COLUMN b", [("drop_column", "spare", "error")]),
        (
            "ALTER TABLE orders DROP COLUMN cents",  # which SQLite refuses: a view needs it
            [("opaque", None, "warning"), ("drop_column", "orders", "error")],
        ),
        ("INSERT OR REPLACE INTO log VALUES (1)", [("overwrite", "log", "warning")]),
        ("REPLACE INTO log VALUES (1)", [("overwrite", "log", "warning")]),
        (
            "INSERT INTO orders VALUES (1, 'a', 1) ON CONFLICT (item) DO UPDATE SET cents = 1",
            [("overwrite", "orders", "warning")],
        ),
        ("INSERT INTO log SELECT item FROM orders", []),
        ("CREATE TABLE own (a); DELETE FROM own; DROP TABLE own", []),
        ("SELECT of_the_application(1)", [("opaque", None, "warning")]),
        ("ATTACH 'other.db' AS other", [("opaque", None, "warning")]),
        (".read other.sql", [("opaque", None, "warning")]),
        ("PRAGMA writable_schema = 1", [("opaque", None, "warning")]),
        (
            "CREATE TABLE new (a); INSERT INTO new SELECT a FROM spare; DROP TABLE spare;"
            " ALTER TABLE new RENAME TO spare",
            [("rewrite", "spare", "warning")],
        ),
        ("CREATE TRIGGER later AFTER INSERT ON log BEGIN DELETE FROM log; END", []),
    ],
)  # fmt: skip
def test_statement_has_its_findings_on_sqlite(
    sql: str, expected: list[tuple[str, str | None, str]]
) -> None:
    """SQLite itself says which tables are written, by triggers and foreign keys too."""
    text = f"-- a comment; with a sign\n{sql};\n"
    found = check(text, SCHEMA[:-1])
    assert [(one.kind, one.table, one.severity.name.lower()) for one in found] == expected
    assert all(text.count("\n", 0, one.begin) == 1 for one in found)


def test_nothing_is_run_on_the_source(place: Path) -> None:
    """The file is the same byte for byte, nothing is attached, and no file is made."""
    before = hashlib.sha256((place / "shop.db").read_bytes()).hexdigest()
    found = findings(
        place, "DELETE FROM dear;\nATTACH 'new.db' AS n;\nVACUUM INTO 'copy.db';\nDROP TABLE orders"
    )
    assert (1, "delete", "orders", "error") in found
    assert (4, "drop_table", "orders", "error") in found
    assert hashlib.sha256((place / "shop.db").read_bytes()).hexdigest() == before
    assert not (place / "new.db").exists()
    assert not (place / "copy.db").exists()


def test_without_the_source_the_words_tell_the_table(tmp_path: Path) -> None:
    """--engine needs no pitr.toml."""
    sql = "DELETE FROM a WHERE 1;\nUPDATE main.b SET c = 1;\nDROP TABLE IF EXISTS d;\nSELECT 1"
    assert findings(tmp_path, sql, "--engine", "sqlite") == [
        (1, "delete", "a", "warning"),
        (2, "update", "b", "error"),
        (3, "drop_table", "d", "error"),
    ]
    assert pitr(tmp_path, "guard", "check", "m.sql").code == 3


def test_exit_code_follows_fail_on(place: Path) -> None:
    """1 at or above the limit, which is `error` unless said otherwise."""
    (place / "some.sql").write_text("DELETE FROM log WHERE 1;\n")
    codes = {
        limit: pitr(place, "guard", "check", "some.sql", "--fail-on", limit).code
        for limit in ("note", "warning", "error", "never")
    }
    assert codes == {"note": 1, "warning": 1, "error": 0, "never": 0}
    (place / "none.sql").write_text("CREATE TABLE later (a);\n")
    done = succeed(place, "guard", "check", "none.sql")
    assert done.out == "no statement destroys anything\n"
    assert pitr(place, "guard", "check", "not-there.sql").code == 2


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_odd_files_are_not_taken_for_harmless(tmp_path: Path, engine: str) -> None:
    """What cannot be read or understood is exit 2, with the name of the file; a BOM is neither."""
    (tmp_path / "fine.sql").write_bytes(b"\xef\xbb\xbfDELETE FROM a;\r\nDROP TABLE b;\r\n")
    (tmp_path / "empty.sql").touch()
    check = ("guard", "check", "--engine", engine, "--json", "fine.sql", "empty.sql")
    done = pitr(tmp_path, *check)
    assert done.code == 1
    assert [(f["line"], f["table"]) for f in done.json["findings"]] == [(1, "a"), (2, "b")]
    odd = {
        "zero.sql": b"SELECT 1;\0 DELETE FROM a;",
        "latin.sql": b"SELECT 'caf\xe9'",
        "wrong.sql": b"SELECT 1;\nDELETE FORM a;",
    }
    for name, data in odd.items():
        (tmp_path / name).write_bytes(data)
        done = pitr(tmp_path, *check, name)
        assert done.code == 2
        assert name in done.error["message"]
    assert "in line 2" in done.error["message"]


def test_text_and_sarif_name_file_and_line(place: Path) -> None:
    """A terminal, an editor and a code host find the place."""
    (place / "a.sql").write_text("\n\nDELETE FROM log;\n")
    done = pitr(place, "guard", "check", "a.sql")
    assert done.code == 1
    assert done.out.splitlines()[0] == (
        "a.sql:3: error: log: deletes every row: it has no WHERE [delete]"
    )
    assert "pitr revert TRANSACTION -t log" in done.out

    done = pitr(place, "guard", "check", "a.sql", "--format", "sarif")
    document = json.loads(done.out)
    [result] = document["runs"][0]["results"]
    assert (document["version"], result["ruleId"], result["level"]) == ("2.1.0", "delete", "error")
    location = result["locations"][0]["physicalLocation"]
    assert location == {"artifactLocation": {"uri": "a.sql"}, "region": {"startLine": 3}}
