"""Processes that end with the test that started them, whatever happens in it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def beside(
    words: Sequence[str], *, own_group: bool = False, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Let a process run while the block does, and no longer: with its group if it has its own.

    Popen's own block waits for the process for ever. A test that fails, or whose time is over, in
    such a block hangs where no limit of time reaches it.
    """
    with subprocess.Popen(words, text=True, start_new_session=own_group, **options) as process:
        try:
            yield process
        finally:
            process.kill()
            if own_group:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
