"""SIGKILL of a merge at every step: production is as before or as after, and pitr tells which.

Method: one folder with a database, its archive and a recovery; each round puts it back as it was,
runs a real merge that is killed at a step of the merge or at a step of `pitr.durable`, and looks.
Then any command of pitr has to say what became of the merge.
"""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pitr.vocabulary.plan import MergeStep
from tests.cli.commands import PITR, environment, pitr, succeed, write
from tests.processes import beside

_DURABLE_STEPS_MAX = 80
TABLE = "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, cents INT)"
FILL = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
INSERT INTO orders SELECT i, 'item ' || i, i FROM n
"""
MOVED = """
WITH RECURSIVE n(i) AS (SELECT 3 UNION ALL SELECT i + 3 FROM n WHERE i < 3000)
INSERT INTO orders SELECT i, 'x', -9 FROM n
"""


class Scene:
    """The folder of a shop after an accident, and how to put it back there."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.folder = folder / "shop"
        self._kept = folder / "kept"
        self.folder.mkdir()
        self._mode = mode
        self.write(TABLE, FILL)
        succeed(self.folder, "init", "shop.db", "--archive", "archive")
        succeed(self.folder, "capture", "--once")
        self.write(
            "BEGIN", "DELETE FROM orders WHERE id % 3 = 0", "UPDATE orders SET cents = 0",
            "INSERT INTO orders VALUES (9999, 'bad', 0)", "COMMIT",
        )  # fmt: skip
        succeed(self.folder, "capture", "--once")
        arguments = ("-t", "orders", "--at", "commit:1", "--until", "commit:2")
        succeed(self.folder, "restore", *arguments)
        self.before = self.rows()
        shutil.copytree(self.folder, self._kept)
        succeed(self.folder, "merge", "--delete-extra", "--yes")
        self.after = self.rows()
        assert self.before != self.after
        self.put_back()

    def write(self, *statements: str) -> None:
        write(self.folder / "shop.db", *statements, mode=self._mode)

    def put_back(self) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self._kept, self.folder)

    def keep(self) -> None:
        """Let the scene be as it is now from here on."""
        shutil.rmtree(self._kept)
        shutil.copytree(self.folder, self._kept)

    def rows(self) -> list[Any]:
        with closing(sqlite3.connect(self.folder / "shop.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return connection.execute("SELECT * FROM orders ORDER BY id").fetchall()

    def kill_at(self, step: MergeStep, *words: str) -> None:
        """Run a merge or an undo that dies at a step."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.crash.merge_at_step", step, *words],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()

    def merges(self) -> list[dict[str, Any]]:
        """Return what `pitr recoveries` says of the merges."""
        found = json.loads(succeed(self.folder, "recoveries", "--json").out)
        merges: list[dict[str, Any]] = found["recoveries"][0]["merges"]
        return merges

    def assert_told(
        self, *, was: list[Any], becomes: list[Any], application_first: bool = False
    ) -> str:
        """Look at production, and compare it with what pitr says; return what it is.

        Whoever opens the database first rolls back what is left of the transaction.
        """
        rows = self.rows() if application_first else None
        told = succeed(self.folder, "recoveries")
        rows = rows or self.rows()
        assert rows in (was, becomes), "neither as before nor as after"
        outcome = "happened" if rows == becomes else "did_not_happen"
        last = self.merges()[-1:]
        if last and last[0]["outcome"] is not None:
            assert last[0]["outcome"] == outcome, last
            assert "cut off" not in told.err or outcome.replace("_", " ")[:7] in told.err
        else:
            # Without a record nothing was committed.
            assert not last
            assert outcome == "did_not_happen"
        return outcome


@pytest.fixture(scope="module", params=["WAL", "DELETE"])
def scene(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Scene:
    return Scene(tmp_path_factory.mktemp("crash"), request.param)


_HAPPENED = (MergeStep.COMMITTED, MergeStep.NOTED)


# What a journal decides is whether COMMIT happened; with a rollback journal the rest is for soak.
_STEPS = [("WAL", step) for step in MergeStep] + [
    ("DELETE", step)
    if step in (MergeStep.RECORDED, MergeStep.COMMITTED)
    else pytest.param("DELETE", step, marks=pytest.mark.soak)
    for step in MergeStep
]


@pytest.mark.parametrize(("scene", "step"), _STEPS, indirect=["scene"])
def test_merge_killed_at_a_step_is_all_or_nothing_and_told(scene: Scene, step: MergeStep) -> None:
    """Promise: before COMMIT as before, after it as after; and the next merge goes through."""
    scene.put_back()
    scene.kill_at(step, "merge")
    outcome = scene.assert_told(was=scene.before, becomes=scene.after)
    assert (outcome == "happened") is (step in _HAPPENED)
    done = succeed(scene.folder, "merge", "--delete-extra", "--yes", "--json").json
    assert (done["merge"] is None) is (outcome == "happened")
    assert scene.rows() == scene.after
    merge = scene.merges()[-1]["merge"] if done["merge"] is None else done["merge"]
    succeed(scene.folder, "undo", merge, "--yes")
    assert scene.rows() == scene.before


@pytest.mark.parametrize("step", [MergeStep.RECORDED, MergeStep.COMMITTED])
def test_undo_killed_around_commit_is_told(scene: Scene, step: MergeStep) -> None:
    """Promise: an undo is a merge: the same holds of it."""
    scene.put_back()
    merge = succeed(scene.folder, "merge", "--delete-extra", "--yes", "--json").json["merge"]
    scene.kill_at(step, "undo", merge)
    outcome = scene.assert_told(was=scene.after, becomes=scene.before)
    assert (outcome == "happened") is (step is MergeStep.COMMITTED)
    succeed(scene.folder, "undo", merge, "--yes")
    assert scene.rows() == scene.before


@pytest.mark.soak
def test_merge_killed_at_every_durable_step_is_told(scene: Scene) -> None:
    """Promise: whatever file of the record was being written, the answer is the truth."""
    outcomes = []
    for number in range(1, _DURABLE_STEPS_MAX):
        scene.put_back()
        done = subprocess.run(
            [*PITR, "merge", "--delete-extra", "--yes"],
            cwd=scene.folder,
            env=environment(PITR_CRASH_AT=str(number)),
            capture_output=True,
            timeout=60,
            check=False,
        )
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        outcomes.append(
            scene.assert_told(was=scene.before, becomes=scene.after, application_first=True)
        )
    assert number > 10, "the merge came to no durable step"
    assert number < _DURABLE_STEPS_MAX - 1
    assert outcomes == sorted(outcomes), "it happened, and at a later step it did not"
    assert set(outcomes) == {"did_not_happen", "happened"}


def test_rows_that_all_moved_leave_it_untold(scene: Scene) -> None:
    """Promise: what cannot be told is said to be so, and is not guessed."""
    scene.put_back()
    scene.kill_at(MergeStep.RECORDED, "merge")
    scene.write("UPDATE orders SET cents = -7, item = 'moved'", MOVED)
    told = pitr(scene.folder, "recoveries")
    assert "cannot be told" in told.err
    assert scene.merges()[-1]["outcome"] == "cannot_be_told"


def test_merge_that_still_runs_is_not_judged(scene: Scene) -> None:
    """Promise: a record whose process lives is left alone."""
    scene.put_back()
    held = sqlite3.connect(scene.folder / "shop.db", isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    with beside(
        [*PITR, "merge", "--delete-extra", "--yes"],
        cwd=scene.folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        try:
            told = succeed(scene.folder, "recoveries")
            assert "cut off" not in told.err
        finally:
            held.execute("ROLLBACK")
            held.close()
        assert running.wait(timeout=30) == 0
    assert scene.merges()[-1]["outcome"] == "happened"
