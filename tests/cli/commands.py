"""Run pitr as a user does: a process of its own, its output, its exit code."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import beside

PITR = (sys.executable, "-m", "pitr")
WAIT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return the one document on stdout; its first key is the schema's version."""
        document = json.loads(self.out)
        assert next(iter(document.items())) == ("schema", 1)
        return document

    @property
    def error(self) -> dict[str, Any]:
        """Return the error that --json writes as the last line of stderr."""
        document = json.loads(self.err.splitlines()[-1])
        assert list(document) == ["schema", "error"]
        error: dict[str, Any] = document["error"]
        assert error["exit_code"] == self.code
        return error


def environment(**changes: str) -> dict[str, str]:
    """Return the environment for a command that runs in another folder than this one."""
    root = str(Path(__file__).resolve().parent.parent.parent)
    # Without bytecode each of the many processes would compile the whole package again.
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "PYTHONPATH": root, "TZ": "Europe/Paris", **changes}


def pitr(folder: Path, *words: str, **changes: str) -> Done:
    """Run one command in a folder to its end; `changes` go into its environment."""
    done = subprocess.run(
        [*PITR, *words],
        cwd=folder,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def succeed(folder: Path, *words: str, **changes: str) -> Done:
    """Run one command that must end with 0."""
    done = pitr(folder, *words, **changes)
    assert done.code == 0, done.err
    return done


def told(text: str) -> list[str]:
    """Return an error as it stands on stderr: its last lines, from the message on."""
    lines = text.splitlines()
    begins = [at for at, line in enumerate(lines) if line.startswith("error: ")]
    return lines[begins[-1] :] if begins else []


def write(path: Path, *statements: str, mode: str = "WAL") -> None:
    """Run statements on a database, each as a transaction of its own."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        for statement in statements:
            connection.execute(statement)


@contextmanager
def capturing(folder: Path, *words: str, **changes: str) -> Iterator[subprocess.Popen[str]]:
    """Let `pitr capture` run while the block does; it must then end with 0 on SIGTERM."""
    with beside(
        [*PITR, "capture", *words],
        cwd=folder,
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        wait_until_current(folder, **changes)
        yield process
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 0, errors


def wait_until_current(folder: Path, **changes: str) -> None:
    """Wait until everything that is committed is archived."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        found = succeed(folder, "status", "--json", **changes).json
        if found["capturing"] and found["positions"] and found["lag_seconds"] == 0:
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
