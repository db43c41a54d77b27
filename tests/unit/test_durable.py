"""The one module that makes bytes durable. Goal: the order of its steps, which no crash of a
process can show, since only a power loss would."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pitr import durable


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The system calls that matter, in order: `fsync NAME`, `link`, `rename`, `unlink`, `mkdir`."""
    seen: list[str] = []

    def watch(module: object, name: str, label: Callable[..., str]) -> None:
        original = getattr(module, name)

        def watched(*args: object, **more: object) -> object:
            result = original(*args, **more)
            seen.append(label(*args))
            return result

        monkeypatch.setattr(module, name, watched)

    def kind(path: object) -> str:
        return "temporary" if durable.is_temporary(Path(str(path)).name) else Path(str(path)).name

    watch(os, "fsync", lambda fd: f"fsync {kind(os.readlink(f'/proc/self/fd/{fd}'))}")
    watch(os, "link", lambda source, target: f"link {kind(source)} {kind(target)}")
    watch(os, "rename", lambda source, target: f"rename {kind(source)} {kind(target)}")
    watch(os, "unlink", lambda path: f"unlink {kind(path)}")
    watch(os, "mkdir", lambda path, mode: f"mkdir {kind(path)}")
    return seen


def test_new_file_is_synced_before_its_name_and_its_name_before_return(
    tmp_path: Path, steps: list[str]
) -> None:
    """No name ever leads to unwritten bytes, and no returned name is lost."""
    durable.write_new(tmp_path / "object", b"bytes")

    assert steps == [
        "fsync temporary", "link temporary object", "unlink temporary", f"fsync {tmp_path.name}",
    ]  # fmt: skip


def test_replaced_file_is_synced_before_its_name_and_its_name_before_return(
    tmp_path: Path, steps: list[str]
) -> None:
    """The same for a replacement."""
    durable.write_replace(tmp_path / "object", b"bytes")

    assert steps == ["fsync temporary", "rename temporary object", f"fsync {tmp_path.name}"]


def test_file_of_another_library_is_synced_before_its_name(
    tmp_path: Path, steps: list[str]
) -> None:
    """The same for a file that was complete under its temporary name."""
    temporary = durable.temporary_beside(tmp_path / "object")
    temporary.write_bytes(b"bytes")

    durable.publish_new(temporary, tmp_path / "object")

    assert steps == [
        "fsync temporary", "link temporary object", "unlink temporary", f"fsync {tmp_path.name}",
    ]  # fmt: skip
    assert (tmp_path / "object").read_bytes() == b"bytes"


def test_folder_is_synced_into_each_folder_above_that_was_made(
    tmp_path: Path, steps: list[str]
) -> None:
    """A power loss takes back no folder that holds an object, nor one above it."""
    durable.make_folder(tmp_path / "a" / "b")
    assert steps == ["mkdir a", f"fsync {tmp_path.name}", "mkdir b", "fsync a"]

    steps.clear()
    durable.make_folder(tmp_path / "a" / "b")
    assert steps == ["fsync a"]


def test_existing_name_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    """write_new and publish_new replace nothing and leave no temporary file."""
    target = tmp_path / "object"
    durable.write_new(target, b"first")
    temporary = durable.temporary_beside(target)
    temporary.write_bytes(b"second")

    with pytest.raises(FileExistsError):
        durable.write_new(target, b"second")
    with pytest.raises(FileExistsError):
        durable.publish_new(temporary, target)

    assert target.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["object"]


def test_files_and_folders_are_private(tmp_path: Path) -> None:
    """An archive holds what the database holds: only its owner may read it."""
    durable.make_folder(tmp_path / "a" / "b")
    durable.write_new(tmp_path / "a" / "b" / "new", b"")
    durable.write_replace(tmp_path / "a" / "b" / "replaced", b"")

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"a": 0o700, "b": 0o700, "new": 0o600, "replaced": 0o600}


def test_folder_in_place_of_file_fails_and_leaves_nothing(tmp_path: Path) -> None:
    """A write that fails at its last step removes its temporary file."""
    (tmp_path / "object").mkdir()

    with pytest.raises(OSError, match="directory"):
        durable.write_replace(tmp_path / "object", b"bytes")

    assert os.listdir(tmp_path) == ["object"]


def test_removal_of_missing_file_is_no_error(tmp_path: Path) -> None:
    """remove twice is remove once."""
    durable.write_new(tmp_path / "object", b"")

    durable.remove(tmp_path / "object")
    durable.remove(tmp_path / "object")

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "swept"),
    [
        (f".pitr~{os.getpid()}~{'0' * 16}~1", True),
        (f".pitr~{os.getpid()}~{durable._RUN}~1", False),
        (f".pitr~{os.getppid()}~{'0' * 16}~1", False),
        (f".pitr~999999999~{'0' * 16}~1", True),
        (f".pitr~99999999999999999999~{'0' * 16}~1", False),
        ("object", False),
        (".pitr~object", False),
    ],
    # Not the names themselves: they hold process numbers, which differ between test workers.
    ids=["dead-run", "this-run", "parent", "dead-process", "no-process", "object", "no-temporary"],
)
def test_sweep_removes_old_files_of_dead_runs_only(tmp_path: Path, name: str, swept: bool) -> None:
    """A process number is not enough: in a container every run may have the same."""
    (tmp_path / name).touch()
    durable.sweep(tmp_path)
    assert os.listdir(tmp_path) == [name], "too young"

    long_ago = time.time() - durable.SWEEP_AFTER_SECONDS - 60
    os.utime(tmp_path / name, (long_ago, long_ago))
    durable.sweep(tmp_path)

    assert os.listdir(tmp_path) == ([] if swept else [name])
