"""Where the story of a demo is told, and its commands run for all to see."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click

from pitr.cli.render import emit, note, styled
from pitr.errors import PreconditionFailed

PITR = [sys.executable, "-m", "pitr"]
_CAPTURE_SECONDS = 60


class Stage:
    """Where the story is told and its commands run: on stdout, or on stderr when it is quiet."""

    def __init__(
        self, folder: Path, *, is_quiet: bool, more: Mapping[str, str] | None = None
    ) -> None:
        """Tell it from a folder; `more` are variables for the commands."""
        self.folder = folder
        self._tell = note if is_quiet else emit
        self._output = sys.stderr if is_quiet else sys.stdout
        # The user's own settings would lead the demo's commands to the user's own archive.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PITR_", "PG"))}
        self.environment = {**kept, **(more or {})}

    def say(self, text: str) -> None:
        """Tell what comes next."""
        self._tell(f"\n{styled('# ' + text, fg='cyan')}")

    def show(self, *words: str) -> None:
        """Show a command."""
        self._tell("$ " + shlex.join(words))
        self._output.flush()

    def run(self, *words: str) -> None:
        """Run a program to its end, without showing the command."""
        self._run(list(words), stdout=self._output).check_returncode()

    def pitr(self, *words: str) -> None:
        """Show a command of pitr and run it."""
        self.show("pitr", *words)
        done = self._run([*PITR, *words], stdout=self._output)
        if done.returncode:  # it has said what is wrong
            raise click.exceptions.Exit(done.returncode)

    def ask(self, *words: str) -> dict[str, Any]:
        """Return what a command of pitr answers, without showing it."""
        done = self._run([*PITR, *words, "--json"], stdout=subprocess.PIPE)
        done.check_returncode()
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def wait_for_capture(self) -> None:
        """Wait until the archive can be gone back to. Raises PreconditionFailed."""
        deadline = time.monotonic() + _CAPTURE_SECONDS
        while time.monotonic() < deadline:
            if self.ask("status")["window"]["to"]:
                return
            time.sleep(0.1)
        raise PreconditionFailed(
            "the demo's capture did not archive its base",
            detail=f"It was waited for {_CAPTURE_SECONDS} s.",
            hint="Run 'pitr demo' again when the machine is less busy.",
        )

    def _run(
        self, command: list[str], stdout: IO[str] | int | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, stdout=stdout, check=False
        )

    @contextmanager
    def running(self, *command: str) -> Iterator[None]:
        """Let a process run for as long as the block lasts."""
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stderr=subprocess.DEVNULL
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=15)
