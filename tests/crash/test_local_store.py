"""A folder store whose writer is killed at every durable step. Goal: as before, or as after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pitr.archive.local import LocalStore
from pitr.errors import ObjectMissing

BEFORE = b"before " * 1000
AFTER = b"after " * 2000
STEPS_MAX = 20

WRITER = """
import sys
from pitr.archive.local import LocalStore
from pitr.archive.store import ObjectExists
try:
    getattr(LocalStore(sys.argv[1]), sys.argv[2])(sys.argv[3], b"after " * 2000)
except ObjectExists:
    print("exists")
"""


def write_and_die(folder: Path, method: str, key: str, step: int) -> bool:
    """Write AFTER in another process that is killed after its `step`th durable step.

    Return whether it was killed; False means that it has fewer steps and ended well.
    """
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(folder), method, key],
        env={**os.environ, "PITR_CRASH_AT": str(step)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def read(folder: Path, key: str) -> bytes | None:
    try:
        return LocalStore(folder).get(key)
    except ObjectMissing:
        return None


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if "~" in path.name]


@pytest.mark.parametrize(
    ("method", "key", "before", "after"),
    [
        ("put_new", "log/new", None, AFTER),
        ("put_new", "map/deep/new", None, AFTER),
        ("put_new", "log/old", BEFORE, BEFORE),
        ("put", "log/new", None, AFTER),
        ("put", "log/old", BEFORE, AFTER),
    ],
)
def test_writer_killed_at_any_step_leaves_object_as_before_or_as_after(
    tmp_path: Path, method: str, key: str, before: bytes | None, after: bytes
) -> None:
    """At every step the reader sees one of the two states, whole, and lists nothing else."""
    seen = []
    for step in range(1, STEPS_MAX):
        folder = tmp_path / f"step{step}"
        LocalStore(folder).put_new("log/old", BEFORE)

        killed = write_and_die(folder, method, key, step)

        found = read(folder, key)
        seen.append(found)
        assert found in (before, after), f"step {step}"
        expected = {"log/old"} | ({key} if found is not None else set())
        assert {info.key for info in LocalStore(folder).list()} == expected, f"step {step}"
        if not killed:
            break
    assert not killed, "the writer has more steps than this test takes"
    assert step > 4, "the writer was never killed: the hook does not work"
    assert seen[0] == before
    assert seen[-1] == after
    assert leftovers(folder) == []


def test_leftovers_of_killed_writer_are_swept_by_the_next(tmp_path: Path) -> None:
    """Temporary files go once they are old and their writer is dead, and no others do."""
    LocalStore(tmp_path).put_new("log/old", BEFORE)
    for step in (3, 4, 5):  # after the two folders: created, written, synced
        assert write_and_die(tmp_path, "put", "log/old", step)
    dead = leftovers(tmp_path)
    assert len(dead) == 3
    living = tmp_path / "log" / f".pitr~{os.getppid()}~{'0' * 16}~1"
    living.touch()
    strange = tmp_path / "log" / ".pitr~nonsense~1"
    strange.touch()

    LocalStore(tmp_path).put("log/new", AFTER)
    assert set(leftovers(tmp_path)) == {*dead, living, strange}, "too young to be swept"

    an_hour_ago = time.time() - 3600
    for path in leftovers(tmp_path):
        os.utime(path, (an_hour_ago, an_hour_ago))
    LocalStore(tmp_path).put("log/new", AFTER)

    assert set(leftovers(tmp_path)) == {living, strange}
    assert [info.key for info in LocalStore(tmp_path).list()] == ["log/new", "log/old"]
