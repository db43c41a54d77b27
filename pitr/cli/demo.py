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
from typing import Any

import click

from pitr.cli.options import json_option
from pitr.cli.render import emit, emit_json, note, styled
from pitr.errors import PreconditionFailed

_SHOP = [sys.executable, "-m", "pitr.cli.demo_shop"]
_PITR = [sys.executable, "-m", "pitr"]


@click.command()
@click.option("--keep", is_flag=True, help="Leave the folder of the demo where it is.")
@json_option
def demo(*, keep: bool, as_json: bool) -> None:
    """Lose rows and get them back, in seconds.

    Makes a throw-away shop with a live writer in another process, captures it, destroys its
    orders, finds the accident and restores the table. Every command is real and shown as it runs.
    """
    folder = Path(tempfile.mkdtemp(prefix="pitr-demo-"))
    stage = _Stage(folder, is_quiet=as_json)
    try:
        found = _story(stage)
    finally:
        if not keep:
            shutil.rmtree(folder)
    if as_json:
        emit_json({"folder": str(folder) if keep else None, **found})
    elif keep:
        emit(f"\nThe demo's files are in {folder}")


class _Stage:
    """Where the story is told and its commands run: on stdout, or on stderr when it is quiet."""

    def __init__(self, folder: Path, *, is_quiet: bool) -> None:
        self.folder = folder
        self._tell = note if is_quiet else emit
        self._output = sys.stderr if is_quiet else sys.stdout

    def say(self, text: str) -> None:
        """Tell what comes next."""
        self._tell(f"\n{styled('# ' + text, fg='cyan')}")

    def show(self, *words: str) -> None:
        """Show a command."""
        self._tell("$ " + shlex.join(words))
        self._output.flush()

    def shop(self, part: str) -> None:
        """Run a part of the shop's application to its end."""
        subprocess.run([*_SHOP, part, "shop.db"], cwd=self.folder, check=True)

    def pitr(self, *words: str) -> None:
        """Show a command of pitr and run it."""
        self.show("pitr", *words)
        done = subprocess.run([*_PITR, *words], cwd=self.folder, stdout=self._output, check=False)
        if done.returncode:  # it has said what is wrong
            raise click.exceptions.Exit(done.returncode)

    def ask(self, *words: str) -> dict[str, Any]:
        """Return what a command of pitr answers, without showing it."""
        command = [*_PITR, *words, "--json"]
        done = subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    @contextmanager
    def running(self, *command: str) -> Iterator[None]:
        """Let a process run for as long as the block lasts."""
        process = subprocess.Popen(command, cwd=self.folder, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=15)


def _story(stage: _Stage) -> dict[str, Any]:
    """Play the story; return what was found and recovered."""
    stage.say("A shop with 20,000 orders, and an application that keeps writing to it.")
    stage.shop("create")
    stage.pitr("init", "shop.db", "--archive", "archive")
    with stage.running(*_PITR, "capture"), stage.running(*_SHOP, "serve", "shop.db"):
        _wait_for_capture(stage)
        time.sleep(1.5)
        stage.say("Somebody runs a clean-up script without its WHERE. The application goes on.")
        stage.show("sqlite3", "shop.db", "DELETE FROM orders")
        stage.shop("accident")
        time.sleep(2.5)
        return _recover(stage)


def _recover(stage: _Stage) -> dict[str, Any]:
    lost = ("when", "-t", "orders", "--gone", "id = 42")
    stage.say("When did order 42 vanish?")
    stage.pitr(*lost)
    found = stage.ask(*lost)
    stage.say("What else happened to the orders just before?")
    accident = found["transaction"]["position"]
    stage.pitr("log", "-t", "orders", "--until", accident, "--limit", "4")
    stage.say("The table as it was then, into a sidecar; the live database is only read.")
    stage.pitr("restore", "-t", "orders", "--at", found["before"])
    stage.say("The recovered rows, asked like any database:")
    query = "SELECT status, count(*) AS orders, sum(cents) / 100 AS total FROM orders GROUP BY 1"
    stage.pitr("recoveries", "sql", query)
    stage.say("And what the live database has left:")
    stage.pitr("sql", "--at", "latest", "SELECT count(*) AS orders FROM orders")
    recovery = stage.ask("recoveries")["recoveries"][-1]
    return {"transaction": found["transaction"], "tables": recovery["tables"]}


def _wait_for_capture(stage: _Stage) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if stage.ask("status")["window"]["to"]:
            return
        time.sleep(0.1)
    raise PreconditionFailed(
        "the demo's capture did not archive its base",
        detail="It was waited for 10 s.",
        hint="Run 'pitr demo' again when the machine is less busy.",
    )
