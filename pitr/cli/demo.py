"""`pitr demo`: the whole story on a throw-away SQLite database, with the real commands."""

from __future__ import annotations

import json
import os
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
from typing import IO, Any

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
    orders, finds the accident, brings the rows back, takes that back and changes its mind. Every
    command is real and shown as it runs.
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
        # The user's own settings would lead the demo's commands to the user's own archive.
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("PITR_")}

    def say(self, text: str) -> None:
        """Tell what comes next."""
        self._tell(f"\n{styled('# ' + text, fg='cyan')}")

    def show(self, *words: str) -> None:
        """Show a command."""
        self._tell("$ " + shlex.join(words))
        self._output.flush()

    def shop(self, part: str) -> None:
        """Run a part of the shop's application to its end."""
        done = self._run([*_SHOP, part, "shop.db"], stdout=self._output)
        done.check_returncode()

    def pitr(self, *words: str) -> None:
        """Show a command of pitr and run it."""
        self.show("pitr", *words)
        done = self._run([*_PITR, *words], stdout=self._output)
        if done.returncode:  # it has said what is wrong
            raise click.exceptions.Exit(done.returncode)

    def ask(self, *words: str) -> dict[str, Any]:
        """Return what a command of pitr answers, without showing it."""
        done = self._run([*_PITR, *words, "--json"], stdout=subprocess.PIPE)
        done.check_returncode()
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def _run(
        self, command: list[str], stdout: IO[str] | int | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command, cwd=self.folder, env=self._environment, stdout=stdout, check=False
        )

    @contextmanager
    def running(self, *command: str) -> Iterator[None]:
        """Let a process run for as long as the block lasts."""
        process = subprocess.Popen(
            command, cwd=self.folder, env=self._environment, stderr=subprocess.DEVNULL
        )
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
    transaction = stage.ask(*lost)["transaction"]
    accident = transaction["position"]
    stage.say("What else happened to the orders just before?")
    stage.pitr("log", "-t", "orders", "--until", accident, "--limit", "4")
    stage.say("What that one transaction destroyed, into a sidecar; live is only read.")
    stage.pitr("revert", accident, "-t", "orders")
    stage.say("The sidecar is a database like any other.")
    query = "SELECT status, count(*) AS orders, sum(cents) / 100 AS total FROM orders GROUP BY 1"
    stage.pitr("recoveries", "sql", query)
    stage.say("What became of its rows? Orders that came in since are not among them.")
    stage.pitr("diff", "--limit", "3")
    stage.say("Put back exactly what is lost, in one transaction; the application goes on.")
    stage.pitr("merge", "--yes")
    recovery = stage.ask("recoveries")["recoveries"][-1]
    merge = recovery["merges"][-1]
    stage.say("If that was a mistake, take it back. Orders that were paid since stay as they are.")
    stage.pitr("undo", merge["merge"], "--on-conflict", "skip", "--yes")
    stage.say("It was none: an undo is a merge as well, and is taken back in the same way.")
    undo = stage.ask("recoveries")["recoveries"][-1]["merges"][-1]
    stage.pitr("undo", undo["merge"], "--yes")
    stage.say("Everything is there: what was lost, what came in since, and what was paid since.")
    stage.show("sqlite3", "shop.db", "SELECT status, count(*) FROM orders GROUP BY 1")
    stage.shop("count")
    return {"transaction": transaction, "tables": recovery["tables"], "merge": merge, "undo": undo}


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
