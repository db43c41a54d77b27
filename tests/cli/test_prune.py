"""prune from the command line: shown first, done with --yes, and what is kept comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import capturing, pitr, succeed, told, wait_until_current, write


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a folder with an archive of four commits, a mark at the second and maps."""
    write(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
    key = ("--key-file", "key") if getattr(request, "param", "") == "encrypted" else ()
    succeed(tmp_path, "init", "s.db", "--archive", "archive", *key)
    for number in range(1, 5):
        write(tmp_path / "s.db", f"INSERT INTO t VALUES ({number}, 'x')")
        succeed(tmp_path, "capture", "--once")
        if number == 2:
            succeed(tmp_path, "mark", "release")
    return tmp_path


def count_at(folder: Path, target: str) -> int:
    """Return how many rows the table had."""
    found = succeed(folder, "sql", "--at", target, "SELECT count(*) FROM t", "--json").json
    return int(found["rows"][0][0])


def files(folder: Path) -> set[str]:
    """Return what the archive holds."""
    return {str(p) for p in (folder / "archive").rglob("*") if p.is_file()}


@pytest.mark.parametrize("folder", ["plain", "encrypted"], indirect=True)
def test_prune_shows_then_does_and_keeps_what_it_must(folder: Path) -> None:
    """Without --yes nothing changes; with it the mark and the newest state come back, no other."""
    before = files(folder)
    shown = succeed(folder, "prune", "--keep", "1ms", "--json").json
    assert files(folder) == before
    assert (shown["done"], shown["kept_marks"]) == (False, ["release"])
    assert shown["objects"] > 0

    done = succeed(folder, "prune", "--keep", "1ms", "--yes", "--json").json
    assert done["done"]
    assert done["objects"] == shown["objects"]
    assert count_at(folder, "name:release") == 2
    assert count_at(folder, "latest") == 4
    gone = pitr(folder, "sql", "--at", "commit:3", "SELECT count(*) FROM t")
    assert gone.code == 4
    assert told(gone.err)
    assert succeed(folder, "verify", "--json").json["ok"]
    assert succeed(folder, "prune", "--keep", "1ms", "--yes", "--json").json["objects"] == 0


def test_marks_go_with_their_states_when_asked(folder: Path) -> None:
    """--drop-marks: the mark is no target any more, and its state is gone."""
    done = succeed(folder, "prune", "--keep", "1ms", "--drop-marks", "--yes", "--json").json

    assert done["dropped_marks"] == ["release"]
    assert pitr(folder, "sql", "--at", "name:release", "SELECT 1").code == 4
    assert len(succeed(folder, "status", "--json").json["bases"]) == 1
    assert count_at(folder, "latest") == 4


def test_prune_beside_a_running_capture(folder: Path) -> None:
    """The capture goes on, and what it adds after the prune is there."""
    with capturing(folder):
        write(folder / "s.db", "INSERT INTO t VALUES (100, 'y')")
        wait_until_current(folder)
        succeed(folder, "prune", "--keep", "1ms", "--yes")
        write(folder / "s.db", "INSERT INTO t VALUES (101, 'y')")
        wait_until_current(folder)
    assert count_at(folder, "latest") == 6
    assert count_at(folder, "name:release") == 2
    assert succeed(folder, "verify", "--json").json["ok"]


def test_prune_without_a_policy_says_so(tmp_path: Path) -> None:
    """Nothing is dropped by default: exit 2."""
    done = pitr(tmp_path, "prune", "--yes")

    assert done.code == 2
    assert told(done.err)[0] == "error: no policy is given"
    assert pitr(tmp_path, "prune", "--keep", "soon").code == 2
