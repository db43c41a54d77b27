"""Run the commands: what `pitr` and `python -m pitr` start."""

from __future__ import annotations

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Load the program and run it. Until it is loaded, Ctrl-C just ends the process."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pitr.cli.main import main as run

    signal.signal(signal.SIGINT, before)
    run()


if __name__ == "__main__":
    main()
