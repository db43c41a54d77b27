"""restore --until, revert and diff as a user types them: output, JSON, exit codes."""

from __future__ import annotations

import csv
import io
import os
import pty
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import PITR, WAIT_SECONDS, Done, capturing, environment, pitr
from tests.sqlite.capture_world import App

NASTY = "line\nDROP TABLE orders; -- 'quote' \t \x00 end"


def run(folder: Path, *words: str, code: int = 0, **changes: str) -> Done:
    """Run a command that must end with this code; `changes` go into its environment."""
    done = pitr(folder, *words, **changes)
    assert done.code == code, f"{words}: {done.out}\n{done.err}"
    return done


def document(folder: Path, *words: str, code: int = 0) -> dict[str, Any]:
    """Run a command and return its JSON document."""
    return dict(run(folder, *words, "--json", code=code).json)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A captured shop: an accident of one transaction among the work of others.

    commit 2 ends the good time; commit 3 is the accident; later work follows. Orders are 1 to 6.
    """
    folder = tmp_path_factory.mktemp("shop")
    with App(folder / "shop.db", "PRAGMA journal_mode = WAL") as app:
        app.run("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, cents INT, photo BLOB)")
        app.run('CREATE TABLE "odd \'name" (k TEXT, n INT, a, PRIMARY KEY (k, n)) WITHOUT ROWID')
        run(folder, "init", "shop.db", "--archive", "archive")
        run(folder, "capture", "--once")
        app.run("BEGIN")
        for at in range(1, 7):
            app.run("INSERT INTO orders VALUES (?, 'tea', ?, x'00ff')", at, at * 100)
        app.run("UPDATE orders SET item = ? WHERE id = 2", NASTY)
        app.run("UPDATE orders SET cents = 9007199254740993 WHERE id = 3")
        app.run("INSERT INTO \"odd 'name\" VALUES ('a', 1, 1.5), ('b', 2, NULL)")
        app.run("COMMIT")
        run(folder, "capture", "--once")
        app.run("BEGIN")
        app.run("DELETE FROM orders WHERE id <= 3")
        app.run("UPDATE orders SET cents = 0 WHERE id IN (4, 5)")
        app.run("INSERT INTO orders VALUES (50, 'bad', 0, NULL)")
        app.run("DELETE FROM \"odd 'name\" WHERE k = 'a'")
        app.run("COMMIT")
        run(folder, "capture", "--once")
        app.run("UPDATE orders SET item = 'coffee' WHERE id = 4")
        app.run("UPDATE orders SET cents = 7 WHERE id = 5")
        app.run("DELETE FROM orders WHERE id = 6")
        run(folder, "capture", "--once")
        run(folder, "restore", "-t", "orders", "--at", "commit:2")
        yield folder


def recovery_of(folder: Path, *words: str) -> str:
    return str(document(folder, *words)["recovery"])


@pytest.fixture(scope="module")
def reverted(damaged: Path) -> str:
    return recovery_of(damaged, "revert", "commit:3")


@pytest.fixture(scope="module")
def restored(damaged: Path) -> str:
    return recovery_of(damaged, "restore", "-t", "orders", "--at", "commit:2")


def rows_by_key(table: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {row["key"]["id"]: row for row in table["rows"]}


def test_revert_json_has_the_keys_of_restore(damaged: Path) -> None:
    """The tables are those that the transaction changed, as they were before it."""
    found = document(damaged, "revert", "commit:3")
    assert found["target"]["position"] == "commit:2"
    assert found["until"]["position"] == "commit:3"
    assert {(table["table"], table["rows"]) for table in found["tables"]} == {
        ("orders", 6),
        ("odd 'name", 2),
    }
    orders = next(table for table in found["tables"] if table["table"] == "orders")
    assert (orders["missing_in_live"], orders["differs"], orders["extra_in_live"]) == (4, 2, 1)
    assert Path(found["sidecar"]).is_file()
    assert found["bytes_read"] > 0


def test_revert_of_one_table_holds_that_one(damaged: Path) -> None:
    """-t narrows, in whatever case it is written."""
    found = document(damaged, "revert", "commit:3", "-t", "ORDERS")
    assert [table["table"] for table in found["tables"]] == ["orders"]


def test_patterns_choose_tables_in_every_command(damaged: Path) -> None:
    """-t takes * and ? as on PostgreSQL, in restore as in what comes after it."""
    found = document(damaged, "restore", "-t", "O*", "--at", "commit:2")
    assert [one["table"] for one in found["tables"]] == ["orders", "odd 'name"]
    odd = [found["recovery"], "-t", "odd*"]
    assert [one["table"] for one in document(damaged, "diff", *odd)["tables"]] == ["odd 'name"]
    plan = document(damaged, "plan", *odd)
    assert plan["counts"] == {"lost": 1}
    whole = document(damaged, "plan", found["recovery"], "-t", "?????*")
    assert [one["table"] for one in whole["tables"]] == ["orders", "odd 'name"]
    logged = document(damaged, "log", "-t", "odd*")["transactions"]
    assert {table["table"] for one in logged for table in one["tables"]} == {"odd 'name"}
    assert "no table o?x" in run(damaged, "log", "-t", "o?x", code=2).err
    assert "has no table o?x" in run(damaged, "diff", found["recovery"], "-t", "o?x", code=2).err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["revert", "commit:1"], 4, "not known by itself"),
        (["revert", "commit:99"], 4, "does not hold commit:99"),
        (["revert", "before:commit:3"], 2, "names no transaction"),
        (["revert", "latest"], 2, "names no transaction"),
        (["revert", "commit:3", "-t", "nothing"], 2, "changed no rows of nothing"),
        (
            ["restore", "-t", "orders", "--at", "commit:3", "--until", "commit:2"],
            2,
            "before the target",
        ),
        (["diff", "no-such-recovery"], 2, "no recovery"),
        (["diff", "-t", "other"], 2, "has no table other"),
        (["sql", "--at", "latest", "--database", "x", "SELECT 1"], 2, "no database x"),
        (["restore", "-t", "orders", "--at", "latest", "--database", "x"], 2, "no database x"),
        (["diff", "--class", "unrelated"], 2, "unrelated"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_code(
    damaged: Path, words: list[str], code: int, told: str
) -> None:
    """One line that says what, and nothing is left behind."""
    before = os.listdir(damaged / ".pitr" / "recoveries")
    done = run(damaged, *words, code=code)
    assert told in done.err
    assert sorted(os.listdir(damaged / ".pitr" / "recoveries")) == sorted(before)


def test_diff_of_a_reverted_transaction_tells_its_damage_from_later_work(
    damaged: Path, reverted: str
) -> None:
    """Every class with its three states; nothing about the row that others deleted."""
    found = document(damaged, "diff", reverted)
    assert (found["recovery"], found["until"]["position"]) == (reverted, "commit:3")
    tables = {table["table"]: table for table in found["tables"]}
    orders = rows_by_key(tables["orders"])
    assert {key: row["class"] for key, row in orders.items()} == {
        1: "lost",
        2: "lost",
        3: "lost",
        4: "damaged",
        5: "touched_since",
        50: "bogus_insert",
    }
    assert orders[1]["before"] == {"id": 1, "item": "tea", "cents": 100, "photo": "\\x00ff"}
    assert (orders[1]["after"], orders[1]["live"]) == (None, None)
    assert orders[2]["before"]["item"] == NASTY
    assert orders[3]["before"]["cents"] == "9007199254740993"
    assert (orders[4]["repair"], orders[4]["touched"]) == (["cents"], [])
    assert orders[4]["live"] == {"id": 4, "item": "coffee", "cents": 0, "photo": "\\x00ff"}
    assert (orders[5]["repair"], orders[5]["touched"]) == ([], ["cents"])
    assert orders[50]["before"] is None
    assert tables["orders"]["lost_by"] == []
    (odd,) = tables["odd 'name"]["rows"]
    assert (odd["key"], odd["class"]) == ({"k": "a", "n": 1}, "lost")
    assert odd["before"] == {"k": "a", "n": 1, "a": 1.5}


def test_restore_until_is_what_revert_is_over_the_same_commits(
    damaged: Path, reverted: str
) -> None:
    """The two roads to the state after the damage lead to the same rows."""
    ranged = recovery_of(
        damaged, "restore", "-t", "orders", "--at", "commit:2", "--until", "commit:3"
    )
    one = document(damaged, "diff", ranged)["tables"]
    other = document(damaged, "diff", reverted, "-t", "orders")["tables"]
    assert one == other


def test_diff_without_after_attributes_lost_rows_and_claims_nothing_else(
    damaged: Path, restored: str
) -> None:
    """A legitimate delete is lost as well, but by another transaction; and that is said."""
    found = document(damaged, "diff", restored)
    (orders,) = found["tables"]
    assert orders["counts"] == {"differs": 2, "lost": 4}
    assert [(one["transaction"], one["rows"]) for one in orders["lost_by"]] == [
        ("commit:3", 3),
        ("commit:6", 1),
    ]
    assert all(one["time"].endswith("Z") for one in orders["lost_by"])
    (warning,) = orders["warnings"]
    assert "pitr revert commit:3 -t orders" in warning
    assert {row["after"] for row in orders["rows"]} == {None}
    assert [row["key"]["id"] for row in orders["rows"]] == [1, 2, 3, 4, 5, 6]


def test_diff_classes_and_limit_choose_rows_and_counts_stay_whole(
    damaged: Path, reverted: str
) -> None:
    """--class repeats, --limit counts rows of each table."""
    words = ["diff", reverted, "--class", "lost", "--class", "damaged", "--limit", "2"]
    tables = document(damaged, *words)["tables"]
    assert [len(table["rows"]) for table in tables] == [2, 1]
    orders = next(table for table in tables if table["table"] == "orders")
    assert sum(orders["counts"].values()) == 6


def test_diff_exit_code_answers_whether_there_are_differences(damaged: Path, reverted: str) -> None:
    """1 when there are, 0 when there are none of the classes asked for; without it always 0."""
    run(damaged, "diff", reverted, "--exit-code", code=1)
    run(damaged, "diff", reverted, "--exit-code", "--class", "key_reused", code=0)
    run(damaged, "diff", reverted, code=0)


def test_diff_table_shows_changed_cells_and_totals(damaged: Path, reverted: str) -> None:
    """Old value, arrow, new value; one line a row whatever is in it; no colour in a file."""
    done = run(damaged, "diff", reverted, FORCE_COLOR="1")
    lines = done.out.splitlines()
    assert any(line.startswith("orders") and "3 lost" in line for line in lines)
    (line,) = (one for one in lines if one.split()[:1] == ["damaged"])
    assert "id=4" in line
    assert "cents: 400 -> 0" in line
    assert "coffee" not in line
    assert sum(line.split()[:1] == ["lost"] for line in lines) == 4
    assert "\x1b" not in done.out
    assert "line\\nDROP TABLE" in done.out


@pytest.mark.parametrize(("changes", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_diff_on_a_terminal_is_coloured_unless_forbidden(
    damaged: Path, reverted: str, changes: dict[str, str], coloured: bool
) -> None:
    """The value before and the live one stand out."""
    master, terminal = pty.openpty()
    try:
        command = [*PITR, "diff", reverted, "--class", "damaged"]
        subprocess.run(
            command,
            cwd=damaged,
            env=environment(**changes),
            stdout=terminal,
            check=True,
            timeout=60,
        )
        shown = os.read(master, 65536).decode()
    finally:
        os.close(terminal)
        os.close(master)
    assert ("\x1b[32m400\x1b[0m -> \x1b[31m0\x1b[0m" in shown) is coloured
    assert ("400 -> 0" in shown) is not coloured


def test_diff_sql_runs_and_repairs_what_is_certain(damaged: Path, reverted: str) -> None:
    """What needs a decision is a comment, and no value or name can break out of it."""
    script = run(damaged, "diff", reverted, "--format", "sql").out
    live = damaged / "copy.db"
    subprocess.run(
        [sys.executable, "-c", COPY, str(damaged / "shop.db"), str(live)], check=True, timeout=30
    )
    with closing(sqlite3.connect(live)) as connection:
        connection.executescript(script)
        found = dict(connection.execute("SELECT id, cents FROM orders"))
        assert found == {1: 100, 2: 200, 3: 9007199254740993, 4: 400, 5: 7, 50: 0}
        nasty = connection.execute("SELECT item FROM orders WHERE id = 2").fetchone()
        assert nasty == (NASTY,)
        assert connection.execute('SELECT count(*) FROM "odd \'name"').fetchone() == (2,)
    assert '-- DELETE FROM "orders" WHERE "id" = 50' in script
    assert '-- UPDATE "orders" SET "cents" = 500 WHERE "id" = 5 AND "cents" IS 7;' in script


COPY = """
import sqlite3, sys
source, target = sqlite3.connect(sys.argv[1]), sqlite3.connect(sys.argv[2])
source.backup(target)
"""


def test_diff_csv_has_a_line_for_each_cell_that_matters(damaged: Path, reverted: str) -> None:
    """The same columns for every table, so that a spreadsheet can read it."""
    done = run(
        damaged, "diff", reverted, "--format", "csv", "--class", "damaged", "--class", "lost"
    )
    lines = list(csv.DictReader(io.StringIO(done.out)))
    assert [line for line in lines if line["class"] == "damaged"] == [
        {
            "table": "orders",
            "class": "damaged",
            "key": "4",
            "column": "cents",
            "before": "400",
            "after": "0",
            "live": "0",
        }
    ]
    assert {line["key"] for line in lines if line["table"] != "orders"} == {'["a", 1]'}
    assert [line["column"] for line in lines if line["key"] == "1"] == ["item", "cents", "photo"]


def test_diff_without_archive_goes_by_sidecar_and_live(damaged: Path, restored: str) -> None:
    """A store that cannot be reached takes attribution away, not the comparison."""
    away = damaged / "archive.away"
    (damaged / "archive").rename(away)
    try:
        found = document(damaged, "diff", restored)
    finally:
        away.rename(damaged / "archive")
    (orders,) = found["tables"]
    assert orders["counts"] == {"differs": 2, "lost": 4}
    assert [(one["transaction"], one["rows"]) for one in orders["lost_by"]] == [(None, 4)]
    assert any("archive cannot be used" in warning for warning in found["warnings"])


def test_diff_without_its_live_database_says_so(damaged: Path, restored: str) -> None:
    """The sidecar can still be asked by itself."""
    away = damaged / "shop.away"
    (damaged / "shop.db").rename(away)
    try:
        done = run(damaged, "diff", restored, code=3)
    finally:
        away.rename(damaged / "shop.db")
    assert "no live database" in done.err
    assert "pitr recoveries sql" in done.err


def test_revert_of_a_dropped_table_brings_it_whole(tmp_path: Path) -> None:
    """Also of a truncated one; while the application goes on."""
    with App(tmp_path / "shop.db", "PRAGMA journal_mode = WAL") as app:
        app.run("CREATE TABLE a (id INTEGER PRIMARY KEY, v TEXT NOT NULL)")
        app.run("CREATE TABLE b (id INTEGER PRIMARY KEY, v)")
        app.run("CREATE INDEX a_v ON a (v)")
        run(tmp_path, "init", "shop.db", "--archive", "archive")
        run(tmp_path, "capture", "--once")
        app.run("INSERT INTO a VALUES (1, 'x'), (2, 'y')")
        app.run("INSERT INTO b VALUES (1, 'x'), (2, 'y')")
        for statement in ("BEGIN", "DROP TABLE a", "DELETE FROM b", "CREATE TABLE c (x)", "COMMIT"):
            app.run(statement)
        app.run("INSERT INTO b VALUES (3, 'new')")
        run(tmp_path, "capture", "--once")
        found = document(tmp_path, "revert", "commit:4")
        assert {(table["table"], table["rows"]) for table in found["tables"]} == {
            ("a", 2),
            ("b", 2),
        }
        assert any("c: the transaction created it" in text for text in found["warnings"])
        tables = {table["table"]: table for table in document(tmp_path, "diff")["tables"]}
    assert tables["a"]["drift"]["missing"] is True
    assert {name: table["counts"] for name, table in tables.items()} == {
        "a": {"lost": 2},
        "b": {"lost": 2},
    }


def test_diff_beside_a_live_capture_knows_which_state_live_is(tmp_path: Path) -> None:
    """With a writer at work the snapshot is found in the archive; until then the answer is right.

    A capture that gets no time on a busy machine is too late for a diff that waits two seconds.
    """
    with App(tmp_path / "shop.db", "PRAGMA journal_mode = WAL") as app:
        app.run("CREATE TABLE a (id INTEGER PRIMARY KEY, v)")
        app.run("INSERT INTO a VALUES (1, 'x'), (2, 'y')")
        run(tmp_path, "init", "shop.db", "--archive", "archive")
        with capturing(tmp_path, "--poll", "50ms"):
            before = document(tmp_path, "restore", "-t", "a", "--at", "latest")
            app.run("DELETE FROM a WHERE id = 1")
            stop = threading.Event()
            writer = threading.Thread(target=insert_until, args=(app, stop))
            writer.start()
            try:
                deadline = time.monotonic() + WAIT_SECONDS
                found = document(tmp_path, "diff", before["recovery"])
                while found["live_position"] is None and time.monotonic() < deadline:
                    assert [table["counts"] for table in found["tables"]] == [{"lost": 1}]
                    found = document(tmp_path, "diff", before["recovery"])
            finally:
                stop.set()
                writer.join()
    assert found["live_position"].startswith("commit:")
    (table,) = found["tables"]
    assert table["counts"] == {"lost": 1}
    assert [one["rows"] for one in table["lost_by"]] == [1]


def insert_until(app: App, stop: threading.Event) -> None:
    at = 10
    while not stop.is_set():
        app.run("INSERT INTO a VALUES (?, 0)", at)
        at += 1
        time.sleep(0.002)  # faster than one core archives them commits are folded
