"""Run a command as a shell would: its own terminal, its own signals, and its exit code.

The command is in our process group, so what the terminal sends on Ctrl-C, Ctrl-\\ and Ctrl-Z
reaches it by itself, and job control stops and continues both of us. What is sent to us alone, we
pass on. None of these signals ends us while the command runs: what it did has still to be told.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from shutil import which

from pitr.errors import UsageError
from pitr.operations.guard_run import CommandEnd, RunCommand

_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# As a shell: found but not to be executed, and not found.
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
_SIGNALLED = 128


def runner(words: Sequence[str]) -> RunCommand:
    """Return what runs a command. Raises UsageError when there is no such command."""
    if which(words[0]) is None:
        raise UsageError(
            f"no such command: {words[0]}",
            detail="It is no executable file, here or on PATH. Nothing was run and nothing marked.",
            hint="Write the command after '--', as in: pitr guard run -- psql -f migration.sql",
        )
    return lambda environment: run_command(words, environment)


def run_command(words: Sequence[str], environment: Mapping[str, str]) -> CommandEnd:
    """Run a command to its end, with these variables set beside ours."""
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def pass_on(number: int) -> None:
        if process is None:
            early.append(number)
        else:
            process.send_signal(number)

    with _signals_to(pass_on):
        try:
            process = subprocess.Popen(words, env={**os.environ, **environment})
        except OSError as error:
            is_missing = isinstance(error, FileNotFoundError)
            return CommandEnd(_NOT_FOUND if is_missing else _NOT_EXECUTABLE)
        # The command may run, and be waited for by others, before Popen has told us of it.
        for number in early:
            process.send_signal(number)
        code = process.wait()
    if code >= 0:
        return CommandEnd(code)
    return CommandEnd(_SIGNALLED - code, signal.Signals(-code).name)


@contextmanager
def _signals_to(pass_on: Callable[[int], None]) -> Iterator[None]:
    """Pass signals on while the block runs, but those that the terminal sends to both of us.

    What we were told to ignore, as by nohup, the command goes on ignoring.
    """

    def on_signal(number: int, _frame: object) -> None:
        if number not in _FROM_TERMINAL or not _is_in_foreground():
            pass_on(number)

    before = {}
    for number in (*_FROM_TERMINAL, *_PASSED_ON):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_in_foreground() -> bool:
    """Return whether Ctrl-C on our terminal reaches our process group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
