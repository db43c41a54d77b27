"""`check`: what cannot be captured is named, with the line that mends it, and nothing is touched.

Method: real files in every state that a user may point at, held by real processes where a process
matters. Each case asserts the finding that decides, and that the folder looks as before.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pitr.sqlite.capture import capability
from pitr.sqlite.capture.capability import check_source
from pitr.vocabulary.finding import Finding, Level

_HOLDER = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    c.execute(statement).fetchall()
print("ready", flush=True)
sys.stdin.read()
"""


def make(path: Path, *statements: str) -> Path:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement).fetchall()
    connection.close()
    return path


@contextmanager
def held(path: Path, *statements: str) -> Iterator[subprocess.Popen[str]]:
    """Run the statements in another process, which then keeps its connection."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path), *statements],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def worst(findings: list[Finding]) -> list[tuple[Level, str]]:
    return [(f.level, f.subject) for f in findings if f.level is not Level.OK]


def failure(path: Path) -> Finding:
    """The one failing point; each of them has a remedy."""
    failed = [finding for finding in check_source(path) if finding.level is Level.FAIL]
    assert len(failed) == 1, failed
    assert failed[0].detail
    assert failed[0].remedy
    return failed[0]


def test_wal_database_in_use_passes_with_the_bug_of_its_library(tmp_path: Path) -> None:
    """Every commit will be captured; the writer's SQLite 3.40.1 is worth a warning."""
    path = tmp_path / "a.db"
    with held(path, "PRAGMA journal_mode=WAL", "CREATE TABLE t(a)", "PRAGMA wal_checkpoint"):
        findings = check_source(path)
    assert worst(findings) == [(Level.WARNING, "SQLite library")]
    assert any("3.40.1" in finding.detail for finding in findings)
    assert any("every commit is captured by itself" in finding.detail for finding in findings)


def test_wal_database_at_rest_is_not_touched(tmp_path: Path) -> None:
    """No -wal and no -shm file comes into being by checking."""
    path = make(tmp_path / "a.db", "PRAGMA journal_mode=WAL", "CREATE TABLE t(a)")
    before = snapshot(tmp_path)
    assert list(before) == ["a.db"]
    assert not any(finding.level is Level.FAIL for finding in check_source(path))
    assert snapshot(tmp_path) == before


def test_rollback_journal_database_is_captured_coarsely(tmp_path: Path) -> None:
    """It works, and the granularity is stated with the line that improves it."""
    path = make(tmp_path / "a.db", "PRAGMA auto_vacuum=FULL", "CREATE TABLE t(a)")
    findings = check_source(path)
    assert worst(findings) == [(Level.WARNING, "journal mode")]
    mode = next(finding for finding in findings if finding.subject == "journal mode")
    assert "captured as one" in mode.detail
    assert "journal_mode=WAL" in mode.remedy
    assert any("auto_vacuum" in finding.detail for finding in findings)
    assert [item.name for item in tmp_path.iterdir()] == ["a.db"]


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_exclusive_locking_mode_fails(tmp_path: Path, mode: str) -> None:
    """Whoever holds the file exclusively keeps capture out, in either journal mode."""
    path = make(tmp_path / "a.db", f"PRAGMA journal_mode={mode}", "CREATE TABLE t(a)")
    with held(path, "PRAGMA locking_mode=EXCLUSIVE", "INSERT INTO t VALUES(1)") as process:
        found = failure(path)
    assert found.subject == "lock"
    assert "EXCLUSIVE" in found.detail
    assert "locking_mode=NORMAL" in found.remedy
    assert mode == "DELETE" or str(process.pid) in found.detail


def test_missing_file_and_folder_fail(tmp_path: Path) -> None:
    """A path that names no file."""
    assert "no file" in failure(tmp_path / "absent.db").detail
    assert "a folder" in failure(tmp_path).detail
    assert "not a regular file" in failure(Path("/dev/null")).detail


def test_foreign_file_fails(tmp_path: Path) -> None:
    """Text is not taken for an encrypted database."""
    path = tmp_path / "a.db"
    path.write_text("id,name\n1,first\n" * 100)
    found = failure(path)
    assert "not a SQLite database" in found.detail
    assert "crypt" not in found.detail


def test_encrypted_file_fails_as_such(tmp_path: Path) -> None:
    """A file of random bytes from its first byte on, as SQLCipher leaves it."""
    path = tmp_path / "a.db"
    path.write_bytes(os.urandom(8192))
    assert "encrypted" in failure(path).detail


def test_encrypted_file_with_a_plain_header_fails(tmp_path: Path) -> None:
    """Some extensions leave the first bytes readable; then the pages give it away."""
    path = make(tmp_path / "a.db", "CREATE TABLE t(a)")
    data = path.read_bytes()
    path.write_bytes(data[:24] + os.urandom(len(data) - 24))
    assert check_source(path)[-1].level is Level.FAIL


def test_empty_file_is_waited_for(tmp_path: Path) -> None:
    """An application has opened the file and not created anything yet."""
    path = tmp_path / "a.db"
    path.touch()
    assert worst(check_source(path)) == [(Level.WARNING, "file")]


def test_network_file_system_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The innermost mount decides, whatever blanks its name has."""
    folder = tmp_path / "a share"
    folder.mkdir()
    path = make(folder / "a.db", "CREATE TABLE t(a)")
    quoted = str(folder).replace(" ", "\\040")
    mounts = tmp_path / "mounts"
    monkeypatch.setattr(capability, "_MOUNTS", mounts)
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/x {quoted} nfs4 rw 0 0\n")
    assert failure(path).subject == "file system"
    mounts.write_text(f"server:/x {quoted} fuse.sshfs rw 0 0\n/dev/vdb / ext4 rw 0 0\n")
    assert "fuse.sshfs" in failure(path).detail
    mounts.write_text(f"server:/x {quoted}-not nfs rw 0 0\n/dev/vdb {quoted} ext4 rw 0 0\n")
    assert not any(finding.level is Level.FAIL for finding in check_source(path))


_CHECK = """
import os, sys
from pathlib import Path
from pitr.sqlite.capture.capability import check_source
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for finding in check_source(Path(sys.argv[1])):
    print(finding.level.value, finding.subject, finding.detail, sep="|")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_database_of_another_user_fails(mode: int) -> None:
    """A WAL database that may be read only, or not even read, by the user that runs pitr."""
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        path = make(folder / "a.db", "PRAGMA journal_mode=WAL", "CREATE TABLE t(a)")
        path.chmod(mode)
        result = subprocess.run(
            [sys.executable, "-c", _CHECK, str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        shutil.rmtree(folder)
    assert result.returncode == 0, result.stderr
    failed = [line for line in result.stdout.splitlines() if line.startswith("fail|")]
    assert failed
    assert all(line.startswith("fail|permission") for line in failed)


def test_crashed_transaction_of_a_rollback_journal_fails(tmp_path: Path) -> None:
    """A hot journal has to be rolled back by a writer; checking does not do it."""
    path = make(tmp_path / "a.db", "CREATE TABLE t(a)", "INSERT INTO t VALUES(zeroblob(100000))")
    with held(
        path,
        "PRAGMA cache_size=2",
        "BEGIN",
        "UPDATE t SET a=randomblob(100000)",
        "INSERT INTO t VALUES(randomblob(200000))",
    ):
        pass
    assert (tmp_path / "a.db-journal").stat().st_size
    before = snapshot(tmp_path)
    found = failure(path)
    assert snapshot(tmp_path) == before
    assert "open the database once" in found.remedy.lower()
