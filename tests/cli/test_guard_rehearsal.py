"""`pitr guard check --rehearse` on SQLite: the true damage, and nothing of it in production."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import Done, pitr, succeed, write

SCHEMA = (
    "PRAGMA journal_mode = WAL",
    "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, cents INTEGER)",
    "CREATE TABLE lines (id INTEGER PRIMARY KEY, o REFERENCES orders ON DELETE CASCADE)",
    "CREATE TABLE log (text)",
    "CREATE TABLE spare (a, b)",
    "CREATE TRIGGER gone AFTER DELETE ON lines BEGIN INSERT INTO log VALUES (old.id); END",
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)"
    " INSERT INTO orders SELECT i, 'item ' || i, 100 FROM n",
    "INSERT INTO lines SELECT id, 1 + id % 20 FROM orders",
    "INSERT INTO spare SELECT id, item FROM orders WHERE id < 8",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with an archive; no capture runs."""
    folder = tmp_path_factory.mktemp("rehearsed")
    write(folder / "shop.db", *SCHEMA)
    succeed(folder, "init", "shop.db", "--archive", "archive")
    return folder


def rehearsed(place: Path, sql: str, *options: str) -> Done:
    """Rehearse a file; production is what it was, and of the copy nothing is left."""
    (place / "m.sql").write_text(sql)
    before = digest(place)
    done = pitr(place, "guard", "check", "m.sql", "--rehearse", *options)
    assert digest(place) == before
    assert not list((place / ".pitr" / "recoveries").iterdir())
    return done


def digest(place: Path) -> str:
    """Return a digest of all that the database holds."""
    with closing(sqlite3.connect(place / "shop.db")) as connection:
        return hashlib.sha256("\n".join(connection.iterdump()).encode()).hexdigest()


def tables(document: dict[str, Any]) -> dict[str, dict[str, object]]:
    """Return what was done to each table, without what says nothing and how it weighs."""
    return {
        table.pop("table"): {k: v for k, v in table.items() if v and k != "severity"}
        for table in document["tables"]
    }


def failures(done: Done) -> list[tuple[int, str, str]]:
    """Return line, kind and message of what a rehearsal itself found in statements."""
    kinds = ("failed", "uncommitted")
    findings = done.json["findings"]
    return [(f["line"], f["kind"], f["message"]) for f in findings if f["kind"] in kinds]


def test_rehearsal_says_what_guard_run_then_finds(place: Path, tmp_path: Path) -> None:
    """Cascades, triggers, OR REPLACE, dropped tables and columns: the same counts afterwards."""
    write(tmp_path / "shop.db", *SCHEMA)
    succeed(tmp_path, "init", "shop.db", "--archive", "archive")
    sql = (
        "PRAGMA foreign_keys = ON;\nDELETE FROM orders WHERE id > 15;\n"
        "INSERT OR REPLACE INTO orders VALUES (1, 'x', 1), (99, 'y', 2);\n"
        "ALTER TABLE orders DROP COLUMN cents;\nDROP TABLE spare;\n"
        "CREATE TABLE fresh AS SELECT 1 AS a;\nVACUUM;\n"
    )
    done = rehearsed(tmp_path, sql, "--json", "--forbid", "drop")
    assert done.code == 1, done.err
    assert not failures(done)
    document = done.json["rehearsal"]
    assert len(document["limits_passed"]) == 1
    assert document["statements"] == 7
    script = (
        "import sqlite3; c = sqlite3.connect('shop.db', isolation_level=None);"
        "c.executescript(open('m.sql').read())"
    )
    really = succeed(tmp_path, "guard", "run", "--json", "--", "python3", "-c", script)
    found = tables(document)
    assert found == tables(really.json)
    assert found["lines"]["deleted"] == 6  # OR REPLACE sets off the cascade as well
    assert found["log"]["inserted"] == 6
    assert found["orders"]["deleted"] == 5
    assert found["spare"] == {"deleted": 7, "dropped": True}


def test_statement_that_fails_is_a_finding_with_its_line(place: Path) -> None:
    """What it did in its transaction is rolled back, and nothing after it runs."""
    sql = "DELETE FROM log;\nBEGIN;\nDELETE FROM spare;\n\nINSERT INTO orders VALUES (1);\nCOMMIT;"
    done = rehearsed(place, sql, "--format", "sarif")
    assert done.code == 1, done.err
    run = json.loads(done.out)["runs"][0]
    [failed] = [one for one in run["results"] if one["ruleId"] == "failed"]
    assert failed["locations"][0]["physicalLocation"]["region"] == {"startLine": 5}
    assert "1 values were supplied" in failed["message"]["text"]
    document = run["properties"]["rehearsal"]
    assert (document["tables"], document["statements"]) == ([], 4)

    done = rehearsed(place, "BEGIN;\nDELETE FROM spare;\n", "--json", "--fail-on", "never")
    assert (done.code, tables(done.json["rehearsal"])) == (0, {})
    assert [one[:2] for one in failures(done)] == [(2, "uncommitted")]


def test_rehearsal_reaches_no_other_file(place: Path) -> None:
    """Not by ATTACH, not by VACUUM INTO, not by a command of the shell."""
    for sql in ("ATTACH 'new.db' AS n;", "VACUUM INTO 'new.db';"):
        done = rehearsed(place, f"DELETE FROM spare WHERE a > 5;\n{sql}", "--json")
        assert [one[:2] for one in failures(done)] == [(2, "failed")]
        assert tables(done.json["rehearsal"]) == {"spare": {"deleted": 2}}
    done = rehearsed(place, "DELETE FROM log;\n.read other.sql\n", "--json")
    assert done.code == 2
    assert done.error["message"] == "m.sql: this cannot be rehearsed, in line 2: .read other.sql"
    assert not (place / "new.db").exists()


def test_limits_and_engine_need_their_fellows(place: Path) -> None:
    """--max-deleted judges a rehearsal; --engine has no source to rehearse on."""
    (place / "m.sql").write_text("DELETE FROM spare WHERE a > 5;\n")
    check = ("guard", "check", "m.sql")
    assert pitr(place, *check, "--max-deleted", "1").code == 2
    assert pitr(place, *check, "--rehearse", "--engine", "sqlite").code == 2
    done = pitr(place, *check, "--rehearse", "--max-deleted", "1")
    assert done.code == 1
    assert "limit passed: 2 rows were deleted; at most 1 were allowed." in done.out
    assert pitr(place, *check, "--rehearse", "--max-deleted", "2").code == 0
