"""plan, merge and undo as a user types them: output, JSON, exit codes, and asking first."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import Done, environment, pitr, succeed, told, write
from tests.processes import beside

TABLE = "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, cents INT)"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A captured shop with a recovery of the three orders that an accident took or damaged."""
    write(tmp_path / "shop.db", TABLE)
    succeed(tmp_path, "init", "shop.db", "--archive", "archive")
    write(
        tmp_path / "shop.db",
        "INSERT INTO orders VALUES (1, 'tea', 100), (2, 'cup', 200), (3, 'pot', 300)",
    )
    capture(tmp_path)
    write(tmp_path / "shop.db", "UPDATE orders SET cents = 0 WHERE id = 3")
    capture(tmp_path)
    write(tmp_path / "shop.db", "DELETE FROM orders WHERE id < 3")
    capture(tmp_path)
    succeed(tmp_path, "restore", "-t", "orders", "--at", "commit:1", "--until", "commit:3")
    return tmp_path


def capture(folder: Path) -> None:
    succeed(folder, "capture", "--once")


def orders(folder: Path) -> list[Any]:
    with closing(sqlite3.connect(folder / "shop.db")) as connection:
        return connection.execute("SELECT * FROM orders ORDER BY id").fetchall()


WHOLE = [(1, "tea", 100), (2, "cup", 200), (3, "pot", 300)]
LEFT = [(3, "pot", 0)]


def test_story_ends_where_it_began(shop: Path) -> None:
    """Promise: plan, merge, undo; and each says what it did and what comes next."""
    shown = succeed(shop, "plan").out
    assert "lost" in shown
    assert "damaged" in shown
    merged = succeed(shop, "merge", "--yes", "--json").json
    assert (merged["inserted"], merged["updated"], merged["deleted"]) == (2, 1, 0)
    assert merged["skipped"] == 0
    assert orders(shop) == WHOLE
    assert merged["undo"] == f"pitr undo {merged['merge']} --yes"
    again = succeed(shop, "merge", "--yes", "--json").json
    assert again["merge"] is None
    assert "nothing to do" in succeed(shop, "merge", "--yes").out
    undone = succeed(shop, *merged["undo"].split()[1:], "--json").json
    assert (undone["inserted"], undone["updated"], undone["deleted"]) == (0, 1, 2)
    assert orders(shop) == LEFT
    listed = succeed(shop, "recoveries", "--json").json["recoveries"][0]["merges"]
    assert [(one["merge"], one["outcome"], one["undoes"]) for one in listed] == [
        (merged["merge"], "happened", None),
        (undone["merge"], "happened", merged["merge"]),
    ]


def test_merge_without_terminal_and_without_yes_writes_nothing(shop: Path) -> None:
    """Promise: exit 2 and the line to use; host, database and counts are shown first."""
    done = pitr(shop, "merge", "--on-conflict", "skip")
    assert done.code == 2
    assert told(done.err)[-1] == "hint: Run: pitr merge --on-conflict skip --yes"
    for word in ("host", str(shop / "shop.db"), "2 rows to insert", "1 rows to update"):
        assert word in done.err
    assert orders(shop) == LEFT
    error = pitr(shop, "merge", "--json")
    assert error.error["kind"] == "ConfirmationNeeded"


def on_terminal(folder: Path, answer: str, *words: str) -> tuple[int, str]:
    """Run a command on a terminal, and type an answer."""
    ours, theirs = pty.openpty()
    with beside(
        [sys.executable, "-m", "pitr", *words],
        cwd=folder,
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        os.write(ours, answer.encode())
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:
            pass  # the terminal ends with its last user
        code = process.wait(timeout=30)
    os.close(ours)
    return code, shown.decode()


def test_terminal_is_asked_and_no_means_no(shop: Path) -> None:
    """Promise: only a yes writes."""
    code, shown = on_terminal(shop, "n\n", "merge")
    assert "Merge now?" in shown
    assert code == 130
    assert orders(shop) == LEFT
    code, shown = on_terminal(shop, "y\n", "merge")
    assert code == 0, shown
    assert orders(shop) == WHOLE


def test_saved_plan_is_run_as_it_was_shown_or_not_at_all(shop: Path) -> None:
    """Promise: a plan that moved is exit 7; one that did not is run under its own options."""
    succeed(shop, "plan", "-t", "orders", "--delete-extra", "-o", "plan.json")
    document = json.loads((shop / "plan.json").read_text())
    assert list(document)[:2] == ["schema", "plan_format"]
    assert document["counts"] == {"lost": 2, "damaged": 1}
    assert document["options"]["delete_extra"] is True
    assert {"counts", "conflicts", "warnings", "fingerprint", "sql", "recovery"} <= set(document)
    assert document["chosen"] == ["orders"]
    both = pitr(shop, "merge", "--plan", "plan.json", "--update", "--yes")
    assert both.code == 2
    write(shop / "shop.db", "UPDATE orders SET item = 'jug' WHERE id = 3")
    stale = pitr(shop, "merge", "--plan", "plan.json", "--yes")
    assert stale.code == 7
    assert orders(shop) == [(3, "jug", 0)]
    write(shop / "shop.db", "UPDATE orders SET item = 'pot' WHERE id = 3")
    assert succeed(shop, "merge", "--plan", "plan.json", "--yes", "--json").json["inserted"] == 2
    assert orders(shop) == WHOLE
    assert pitr(shop, "merge", "--plan", "shop.db", "--yes").code == 5
    assert pitr(shop, "merge", "--plan", "none.json", "--yes").code == 2


def test_plan_as_sql_is_a_script(shop: Path) -> None:
    """Promise: --format sql prints the script, -o writes it."""
    shown = succeed(shop, "plan", "--format", "sql").out
    assert "BEGIN IMMEDIATE" in shown
    succeed(shop, "plan", "--format", "sql", "-o", "plan.sql")
    assert (shop / "plan.sql").read_text().splitlines() == shown.splitlines()
    assert succeed(shop, "plan", "--json").json["sql"].splitlines() == shown.splitlines()


def test_conflict_is_exit_1_with_its_rows(shop: Path) -> None:
    """Promise: nothing is written; the rows are named, in text and in JSON."""
    write(shop / "shop.db", "INSERT INTO orders VALUES (2, 'mine', 5)")
    now = orders(shop)
    done = pitr(shop, "merge", "--yes")
    assert done.code == 1
    assert "key_reused" in done.out
    assert "id = 2" in done.out
    found = pitr(shop, "merge", "--yes", "--json")
    assert found.code == 1
    document = found.json
    assert document["merge"] is None
    assert [(c["kind"], c["rows"], c["keys"]) for c in document["conflicts"]] == [
        ("key_reused", 1, [{"id": 2}])
    ]
    assert orders(shop) == now
    planned: Done = succeed(shop, "plan", "--json")
    assert planned.json["sql"] is None
    assert planned.json["conflicts"] == document["conflicts"]
    skipped = succeed(shop, "merge", "--yes", "--on-conflict", "skip", "--json")
    assert skipped.json["skipped"] == 1
    assert "not all of the target or nothing" in skipped.err
    changed = pitr(shop, "undo", "m-none", "--yes")
    assert changed.code == 2


def test_locked_database_is_exit_6(shop: Path) -> None:
    """Promise: --lock-timeout is a limit."""
    with closing(sqlite3.connect(shop / "shop.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        done = pitr(shop, "merge", "--yes", "--lock-timeout", "200ms")
        assert done.code == 6
        assert "stayed locked for 0.2 s" in done.err
        other.execute("ROLLBACK")
    assert orders(shop) == LEFT
    assert pitr(shop, "merge", "--yes", "--lock-timeout", "soon").code == 2


def test_more_rows_than_allowed_are_exit_1(shop: Path) -> None:
    """Promise: --max-rows is a limit, of a saved plan as well."""
    succeed(shop, "plan", "--max-rows", "1", "-o", "plan.json")
    for words in (["--max-rows", "1"], ["--plan", "plan.json"]):
        done = pitr(shop, "merge", "--yes", "--json", *words)
        assert done.code == 1
        assert [one["kind"] for one in done.json["conflicts"]] == ["too_many_rows"]
    assert orders(shop) == LEFT


def test_rows_differ_without_until_and_wait_for_update(shop: Path) -> None:
    """Promise: rows that only differ are left aside with exit 0 until --update is said."""
    succeed(shop, "restore", "-t", "orders", "--at", "commit:1")
    done = succeed(shop, "merge", "--yes", "--json").json
    assert (done["inserted"], done["updated"], done["skipped"]) == (2, 0, 1)
    more = succeed(shop, "merge", "--update", "--yes", "--json").json
    assert more["updated"] == 1
    assert orders(shop) == WHOLE


def test_restore_of_columns_says_so_and_sets_back_no_others(shop: Path) -> None:
    """Promise: --columns holds from the counts of the restore to the merge."""
    words = ("restore", "-t", "orders", "--at", "commit:1", "--until", "commit:3")
    done = succeed(shop, *words, "--columns", "item, orders.ID", "--json")
    assert done.json["tables"][0]["columns"] == ["id", "item"]
    plan = succeed(shop, "plan", "--json").json
    assert any("only id, item" in warning for warning in plan["warnings"])
    unknown = pitr(shop, *words, "--columns", "price")
    assert unknown.code == 2
    assert "orders had no column price" in unknown.err
    assert pitr(shop, *words, "--columns", "item,,cents").code == 2


def test_rows_written_since_an_earlier_merge_are_told_as_such(shop: Path) -> None:
    """Promise: nobody is told that a stranger took the key of a row that pitr brought back."""
    done = succeed(shop, "merge", "--yes", "--json").json
    write(shop / "shop.db", "UPDATE orders SET cents = 7 WHERE id = 1")
    again = pitr(shop, "merge", "--yes", "--json")
    assert again.code == 1
    [conflict] = again.json["conflicts"]
    assert (conflict["kind"], conflict["rows"], conflict["keys"]) == ("key_reused", 1, [{"id": 1}])
    assert conflict["detail"].startswith("an earlier merge brought the row back")
    succeed(shop, "undo", str(done["merge"]), "--on-conflict", "skip", "--yes")
    [conflict] = succeed(shop, "plan", "--json").json["conflicts"]
    assert conflict["detail"] == "another row has taken the key"


def test_parents_asked_for_by_restore_come_with_its_merge(shop: Path) -> None:
    """Promise: --with-parents of restore holds for the merges of that recovery."""
    write(
        shop / "shop.db",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)",
        "CREATE TABLE bills (id INTEGER PRIMARY KEY, person INT REFERENCES people (id))",
        "INSERT INTO people VALUES (1, 'Ann'), (2, 'Bob')",
        "INSERT INTO bills VALUES (10, 1), (20, 2)",
    )
    capture(shop)
    before = succeed(shop, "mark", "before", "--json").json["position"]
    write(shop / "shop.db", "DELETE FROM bills WHERE id = 10", "DELETE FROM people WHERE id = 1")
    capture(shop)
    words = ("restore", "-t", "bills", "--at", str(before))
    succeed(shop, *words)
    assert pitr(shop, "merge", "--yes").code == 1
    succeed(shop, *words, "--with-parents")
    done = succeed(shop, "merge", "--yes", "--json").json
    assert done["inserted"] == 2


def test_restore_goes_on_into_a_merge(shop: Path) -> None:
    """Promise: one command and one document; without a terminal nothing is even restored."""
    words = ("restore", "-t", "orders", "--at", "commit:1", "--until", "commit:3", "--merge")
    refused = pitr(shop, *words)
    assert refused.code == 2
    assert told(refused.err)[-1].endswith("--merge --yes")
    assert len(succeed(shop, "recoveries", "--json").json["recoveries"]) == 1
    done = succeed(shop, *words, "--yes", "--json").json
    assert (done["inserted"], done["updated"]) == (2, 1)
    assert {"recovery", "sidecar", "tables", "target", "merge", "undo"} <= set(done)
    assert done["tables"][0]["missing_in_live"] == 2
    assert orders(shop) == WHOLE
    assert pitr(shop, "restore", "-t", "orders", "--at", "commit:1", "--yes").code == 2
    write(shop / "shop.db", "DELETE FROM orders", "INSERT INTO orders VALUES (1, 'mine', 5)")
    blocked = pitr(shop, *words, "--yes")
    assert blocked.code == 1
    assert "key_reused" in blocked.out
