"""A folder with pitr.toml for two sources, their captures, and the commands that run in it."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.cli.commands import PITR, environment
from tests.processes import beside

SOURCES = ("pg", "lite")
_COMMAND_SECONDS = 600


class Failed(Exception):
    """Say that a command ended as it must not."""


class Site:
    """Runs pitr. Every command that fails for no reason of ours is remembered as a fault."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self._environment = environment(**variables)
        self._captures: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.RLock()
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.longest_lag: dict[str, float] = dict.fromkeys(SOURCES, 0.0)
        # Held while something must not be disturbed by kills and outages.
        self.calm = threading.RLock()

    # -- commands ----------------------------------------------------------------------------

    def run(self, *words: str) -> tuple[int, str, str]:
        """Run a command to its end; return code, stdout, stderr."""
        done = subprocess.run(
            [*PITR, *words],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        if "Traceback" in done.stderr or done.returncode == 70:
            self.faults.append(f"{' '.join(words)}:\n{done.stderr[-1500:]}")
        return done.returncode, done.stdout, done.stderr

    def json(self, *words: str) -> dict[str, Any]:
        """Run a command that must end with 0, and return its document."""
        code, out, err = self.run(*words, "--json")
        if code != 0:
            told = err[-1500:] or out[-1500:]
            raise Failed(f"pitr {' '.join(words)} ended with {code}\n{told}")
        document: dict[str, Any] = json.loads(out[out.rfind("\n{\n") + 1 :])
        return document

    def killed(self, chance: random.Random, *words: str) -> None:
        """Start a command and kill it after a while, if it has not ended by then."""
        with beside(
            [*PITR, *words],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                process.wait(chance.uniform(0.3, 4))
            except subprocess.TimeoutExpired:
                process.kill()
                self.counts["commands killed"] += 1

    # -- captures ----------------------------------------------------------------------------

    def start_captures(self) -> None:
        """Start each capture that does not run."""
        with self._lock:
            for source in SOURCES:
                process = self._captures.get(source)
                if process is not None and process.poll() is None:
                    continue
                if process is not None and process.returncode not in (0, -signal.SIGKILL):
                    self.counts[f"capture {source} ended by itself"] += 1
                self._start(source)

    def _start(self, source: str) -> None:
        with (self.folder / f"capture-{source}.log").open("ab") as log:
            self._captures[source] = subprocess.Popen(
                [*PITR, "capture", "--source", source],
                cwd=self.folder,
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    def kill_capture(self, source: str) -> None:
        """Kill a capture with SIGKILL."""
        with self._lock:
            process = self._captures[source]
            if process.poll() is None:
                process.kill()
                process.wait()
                self.counts["captures killed"] += 1

    def stop_captures(self) -> None:
        """End the captures as a user does: what is committed is archived before they end."""
        for source, process in self._captures.items():
            process.send_signal(signal.SIGTERM)
            code = process.wait(_COMMAND_SECONDS)
            if code != 0:
                self.faults.append(f"capture of {source} ended with {code} on SIGTERM")

    def discard(self) -> None:
        """Leave no capture behind."""
        for process in self._captures.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    # -- what is archived --------------------------------------------------------------------

    def look(self, source: str) -> dict[str, Any] | None:
        """Return the status of a source, None when it cannot be told now; the lag is noted."""
        code, out, _ = self.run("status", "--json", "--source", source)
        if code != 0:
            return None
        found: dict[str, Any] = json.loads(out)
        lag = found["lag_seconds"] or 0.0
        self.longest_lag[source] = max(self.longest_lag[source], lag)
        return found

    def wait_until_current(self, source: str, seconds: float = 180) -> None:
        """Wait until what is committed now is archived, as `mark` proves it."""
        deadline = time.monotonic() + seconds
        name = f"m{time.time_ns()}"
        while True:
            self.start_captures()
            code, _, err = self.run("mark", name, "--source", source)
            if code == 0:
                self.counts["marks"] += 1
                return
            if time.monotonic() > deadline:
                raise Failed(f"{source} is not archived after {seconds:.0f} s\n{err[-1500:]}")
            time.sleep(0.5)
            name = f"m{time.time_ns()}"

    def outage(self, source: str, seconds: float) -> None:
        """Take the folder of an archive away for a while, as a file system that is not mounted."""
        archive = self.folder / f"archive-{source}"
        away = archive.with_suffix(".away")
        archive.rename(away)
        time.sleep(seconds)
        if archive.exists():
            self.faults.append(f"somebody made {archive.name} anew during an outage")
            archive.rename(archive.with_suffix(f".{time.time_ns()}"))
        away.rename(archive)
        self.counts["store outages"] += 1
