"""What every benchmark stands on: databases of a given size, and processes of pitr.

Everything lies in `.cache/bench/`. A database has a table `orders` of about 100 MB, whatever its
size, and a table `filler` for the rest; the two lie in the file in alternating stretches.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "bench"
SIZES = {
    "20MB": 20 << 20,
    "200MB": 200 << 20,
    "1GB": 1 << 30,
    "2GB": 2 << 30,
    "4GB": 4 << 30,
    "16GB": 16 << 30,
}

_ORDERS_BYTES_MAX = 100 << 20
_ORDER_BYTES = 103  # of the file, measured
_FILLER_BYTES = 950  # of text; four rows fill a page
_STRETCHES = 100
_TEXT = (
    "a note for this order please deliver before noon ring twice leave at door fragile return "
    "accepted customer called again gift wrap invoice separate address changed pay later urgent"
)
_WORDS = _TEXT.split()
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Size:
    """A size of the database file, by its name."""

    name: str
    bytes: int

    @property
    def orders_bytes(self) -> int:
        """Return about how much of it the table `orders` takes."""
        return min(self.bytes // 2, _ORDERS_BYTES_MAX)


def database(size: Size) -> Path:
    """Return a database of a size, made when it is not there yet. Nobody writes to this one."""
    path = CACHE / f"{size.name}.db"
    if not path.exists():
        unfinished = CACHE / f"{size.name}.unfinished"
        unfinished.unlink(missing_ok=True)
        say(f"making a database of {size.name}")
        _make(unfinished, size)
        shutil.move(unfinished, path)
    return path


def _make(path: Path, size: Size) -> None:
    rng = random.Random(1)
    orders = size.orders_bytes // _ORDER_BYTES
    filler = (size.bytes - size.orders_bytes) // _FILLER_BYTES
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(
            "CREATE TABLE orders(id INTEGER PRIMARY KEY, customer INT, item TEXT, note TEXT,"
            " cents INT)"
        )
        database.execute("CREATE TABLE filler(id INTEGER PRIMARY KEY, body TEXT)")
        for _ in range(_STRETCHES):
            database.executemany(
                "INSERT INTO orders(customer, item, note, cents) VALUES(?, ?, ?, ?)",
                (_order(rng) for _ in range(orders // _STRETCHES)),
            )
            database.executemany(
                "INSERT INTO filler(body) VALUES(?)",
                ((_text(rng, _FILLER_BYTES),) for _ in range(filler // _STRETCHES)),
            )
            database.commit()


def _order(rng: random.Random) -> tuple[int, str, str, int]:
    number = rng.randrange(1 << 30)
    return number % 50_000, f"item {number % 977}", _text(rng, 70), number % 100_000


def _text(rng: random.Random, length: int) -> str:
    return " ".join(rng.choices(_WORDS, k=length // 6))[:length]


@contextmanager
def alone() -> Iterator[None]:
    """Keep a second benchmark away: both would write here, and neither measure anything."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another benchmark is running in {CACHE}") from None
        yield


# --- the folder of one benchmark -----------------------------------------------------------------


def folder_with_copy(name: str, size: Size) -> Path:
    """Return a new folder with a copy of the database, `shop.db`."""
    folder = CACHE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copyfile(database(size), folder / "shop.db")
    os.sync()  # else the disk is still busy with the copy while the first thing is measured
    return folder


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# --- processes -----------------------------------------------------------------------------------


def pitr(folder: Path, *arguments: str) -> tuple[float, dict[str, Any]]:
    """Run a command of pitr; return the seconds it took, Python's start included, and its JSON."""
    command = [sys.executable, "-m", "pitr", *arguments, "--json"]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode()}")
    return seconds, json.loads(done.stdout)


def write(path: Path, seconds: float, rate: float, commits: int = sys.maxsize) -> dict[str, float]:
    """Run the writer of bench.writer on a database and return its report."""
    numbers = [str(number) for number in (seconds, rate, commits)]
    command = [sys.executable, "-m", "bench.writer", str(path), *numbers]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, check=True)
    report: dict[str, float] = json.loads(done.stdout)
    return report


def _environment() -> dict[str, str]:
    """Return the environment of a process of pitr: with bytecode that is kept, as pip leaves it."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(CACHE / "bytecode")}


def archive_of(folder: Path) -> Path:
    """Make an archive of `shop.db` in a folder, with a base, and return where it lies."""
    pitr(folder, "init", "shop.db", "--archive", "archive")
    subprocess.run(
        [sys.executable, "-m", "pitr", "capture", "--once"],
        cwd=folder,
        env=_environment(),
        capture_output=True,
        check=True,
    )
    return folder / "archive"


@contextmanager
def running(command: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process beside the benchmark; end it with SIGTERM and wait for it."""
    with (folder / "process.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=_environment(), stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=600)


@contextmanager
def capturing(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `pitr capture` on a folder with an archive; begin when it follows the database."""
    with running([sys.executable, "-m", "pitr", "capture"], folder) as process:
        wait_until(lambda: bool(pitr(folder, "status")[1]["capturing"]))
        time.sleep(2)
        yield process


def wait_until(is_so: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for a condition. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s in vain")
        time.sleep(0.2)


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a running process has used so far. Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS


# --- measuring -----------------------------------------------------------------------------------


def median_seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """Return the median of how long some work takes."""
    return median(seconds_of(work) for _ in range(rounds))


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def say(text: str) -> None:
    """Tell what is going on."""
    print(text, file=sys.stderr, flush=True)
