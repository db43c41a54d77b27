"""A merge and an undo on SQLite are targets: the states just before and just after them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pitr.archive.archive import read_marks
from pitr.archive.local import LocalStore
from pitr.config import load
from pitr.operations.sql import query_past
from tests.cli.commands import (
    PITR,
    WAIT_SECONDS,
    capturing,
    environment,
    succeed,
    wait_until_current,
    write,
)
from tests.processes import beside

FAST = {"PITR_POLL": "100ms", "PITR_FLUSH": "20ms"}
TABLES = ("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)", "CREATE TABLE work (n)")
ROWS = "INSERT INTO orders VALUES (1, 'tea'), (2, 'cup'), (3, 'pot')"
NO_MARKS = {"before": None, "after": None}
NO_MARKS_BUT_MADE = "the merge was made, but the states around it have no marks: "
WAITING = "the merge is made; its marks wait for the capture"
# Commits as fast as they come, so that many share one poll interval with the merge.
WRITER = """
import sqlite3, time
c = sqlite3.connect('shop.db', isolation_level=None, timeout=10)
end = time.monotonic() + 60
while time.monotonic() < end:
    c.execute('INSERT INTO work VALUES (1)')
    time.sleep(0.004)
"""


def damaged(folder: Path, mode: str) -> None:
    """Make an archive of a shop whose orders were deleted, and a recovery of them."""
    write(folder / "shop.db", *TABLES, ROWS, mode=mode)
    succeed(folder, "init", "shop.db", "--archive", "archive")
    succeed(folder, "capture", "--once")
    write(folder / "shop.db", "DELETE FROM orders", mode=mode)
    succeed(folder, "restore", "-t", "orders", "--at", "commit:1")


def orders_at(folder: Path, mark: str) -> object:
    """Return how many orders there were at a mark."""
    settings = load(None, environ={}, cwd=folder).choose(None, flags={})
    asked = query_past(
        settings, f"name:{mark}", "SELECT count(*) FROM orders", on_target=lambda _: None
    )
    with asked as found:
        return next(iter(found.rows))[0]


def test_t61_merge_and_undo_are_marked(tmp_path: Path) -> None:
    """The states before and after come back by name; of a journal as well, which has no frames."""
    damaged(tmp_path, "DELETE")
    with capturing(tmp_path, **FAST):
        done = succeed(tmp_path, "merge", "--yes", "--json", **FAST)
        merged = done.json
        marks = {name: f"{merged['merge']}-{name}" for name in ("before", "after")}
        assert (merged["marks"], merged["warnings"]) == (marks | {"note": None}, [])
        assert WAITING in done.err
        shown = succeed(tmp_path, "undo", merged["merge"], "--yes", **FAST).out.splitlines()
    assert [line.split()[0] for line in shown] == [
        "merge", "rows", "locked", "undo", "before", "after",
    ]  # fmt: skip
    names = [*marks.values(), *(line.split("name:")[1] for line in shown[-2:])]
    assert [orders_at(tmp_path, name) for name in names] == [0, 3, 3, 0]


def test_merge_among_commits_of_others_is_told_by_its_frame(tmp_path: Path) -> None:
    """Nothing but the merge lies between its marks, though its poll interval has many commits."""
    damaged(tmp_path, "WAL")
    with (
        capturing(tmp_path, **FAST),
        beside([sys.executable, "-c", WRITER], cwd=tmp_path, env=environment()) as writer,
    ):
        merged = succeed(tmp_path, "merge", "--yes", "--json", **FAST).json
        assert writer.poll() is None
        writer.terminate()
        writer.wait(10)
    assert merged["marks"]["note"] is None, merged
    before, after = merged["marks"]["before"], merged["marks"]["after"]
    marks = read_marks(LocalStore(tmp_path / "archive"))
    numbers = {mark.name: int(mark.position.removeprefix("commit:")) for mark in marks}
    assert numbers[after] == numbers[before] + 1
    assert (orders_at(tmp_path, before), orders_at(tmp_path, after)) == (0, 3)


def test_merge_that_cannot_be_marked_is_made_all_the_same(tmp_path: Path) -> None:
    """A capture that does not get on is not waited for beyond Ctrl-C, nor beyond its own end.

    Without a capture there are no marks, with an archive that is away there is a warning.
    """
    damaged(tmp_path, "WAL")
    with beside([*PITR, "capture"], cwd=tmp_path, env=environment(**FAST)) as capture:
        wait_until_current(tmp_path)
        capture.send_signal(signal.SIGSTOP)
        merged = written(tmp_path, "merge", lambda merge: merge.send_signal(signal.SIGINT))
        assert (merged["inserted"], merged["marks"]) == (3, NO_MARKS | {"note": None})
        assert merged["warnings"][-1] == f"{NO_MARKS_BUT_MADE}it was interrupted"

        undone = written(tmp_path, "undo", lambda _: capture.kill(), merged["merge"])
        assert (undone["deleted"], undone["marks"]) == (3, NO_MARKS | {"note": None})
        assert undone["warnings"][-1].startswith(f"{NO_MARKS_BUT_MADE}the capture ended")

    done = succeed(tmp_path, "merge", "--yes", "--json")
    assert done.json["inserted"] == 3
    assert done.json["marks"] == NO_MARKS | {"note": "no capture is running"}
    assert "marks" not in " ".join(done.json["warnings"]) + done.err

    shutil.move(tmp_path / "archive", tmp_path / "away")
    undone = succeed(tmp_path, "undo", done.json["merge"], "--yes", "--json").json
    assert (undone["deleted"], undone["marks"]) == (3, NO_MARKS | {"note": None})
    assert undone["warnings"][-1].startswith(f"{NO_MARKS_BUT_MADE}no folder at ")


def written(
    folder: Path, verb: str, meanwhile: Callable[[subprocess.Popen[str]], None], *words: str
) -> dict[str, Any]:
    """Run a command that writes, do something while it waits for its marks, return its document."""
    with beside(
        [*PITR, verb, *words, "--yes", "--json"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        assert any(WAITING in line for line in process.stderr)
        meanwhile(process)
        out, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0, out + errors
    document: dict[str, Any] = json.loads(out)
    return document
