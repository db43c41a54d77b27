"""`pitr demo`: the whole story on a throw-away SQLite database, with the real commands."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from pitr.cli.render import emit

_SHOP = [sys.executable, "-m", "pitr.cli.demo_shop"]
_PITR = [sys.executable, "-m", "pitr"]


@click.command()
@click.option("--keep", is_flag=True, help="Leave the folder of the demo where it is.")
def demo(*, keep: bool) -> None:
    """Lose rows and get them back, on a throw-away database, in seconds.

    Makes a small shop with a live writer in another process, captures it, destroys its orders,
    finds the accident and restores the table. Every command is real and shown as it runs.
    """
    folder = Path(tempfile.mkdtemp(prefix="pitr-demo-"))
    try:
        _story(folder)
    finally:
        if keep:
            emit(f"\nThe demo's files are in {folder}")
        else:
            shutil.rmtree(folder)


def _story(folder: Path) -> None:
    _say("A shop with 20,000 orders, and an application that keeps writing to it.")
    subprocess.run([*_SHOP, "create", "shop.db"], cwd=folder, check=True)
    _pitr(folder, "init", "shop.db", "--archive", "archive")
    with _running([*_PITR, "capture"], folder), _running([*_SHOP, "serve", "shop.db"], folder):
        _wait_for_capture(folder)
        time.sleep(1.5)
        _say("Somebody runs a clean-up script without its WHERE. The application goes on.")
        emit("$ sqlite3 shop.db 'DELETE FROM orders'")
        subprocess.run([*_SHOP, "accident", "shop.db"], cwd=folder, check=True)
        time.sleep(2.5)
        _recover(folder)


def _recover(folder: Path) -> None:
    _say("What happened to the orders?")
    _pitr(folder, "log", "-t", "orders", "--limit", "4")
    _say("When did order 42 vanish?")
    _pitr(folder, "when", "-t", "orders", "--gone", "id = 42")
    found = json.loads(_ask(folder, "when", "-t", "orders", "--gone", "id = 42", "--json"))
    _say("The table as it was just before, into a sidecar; the live database is only read.")
    _pitr(folder, "restore", "-t", "orders", "--at", found["before"])
    _say("The recovered rows, asked like any database:")
    query = "SELECT status, count(*) AS orders, sum(cents) / 100 AS total FROM orders GROUP BY 1"
    _pitr(folder, "recoveries", "sql", query)
    _say("And what the live database has left:")
    _pitr(folder, "sql", "--at", "latest", "SELECT count(*) AS orders FROM orders")


def _say(text: str) -> None:
    emit(f"\n{click.style('# ' + text, fg='cyan')}")


def _pitr(folder: Path, *words: str) -> None:
    emit("$ " + shlex.join(["pitr", *words]))
    sys.stdout.flush()
    subprocess.run([*_PITR, *words], cwd=folder, check=True)


def _ask(folder: Path, *words: str) -> str:
    done = subprocess.run([*_PITR, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


def _wait_for_capture(folder: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if json.loads(_ask(folder, "status", "--json"))["window"]["to"]:
            return
        time.sleep(0.1)
    raise TimeoutError("capture did not archive its base within 10 seconds")


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[None]:
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=15)
