"""Run the commands: what `pitr` and `python -m pitr` start."""

from __future__ import annotations

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Load the program and run it. Until it is loaded, Ctrl-C just ends the process."""
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_default:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pitr.cli.main import main as run

    if is_default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
