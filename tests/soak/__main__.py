"""python -m tests.soak [--minutes 60] [--seed N] [--folder DIR]: the long soak as one command."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.soak.soak import soak


def main() -> int:
    """Run it, print the figures as a table; 1 when there were faults. DIR is kept."""
    parser = argparse.ArgumentParser(prog="tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--rate", type=int, default=20, help="transactions of pgbench in a second")
    parser.add_argument("--folder", type=Path, help="an empty folder for it, kept for looking")
    wish = parser.parse_args()
    print(f"--seed {wish.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="pitr-soak-") as scratch:
        folder = wish.folder or Path(scratch)
        figures = soak(folder, seconds=wish.minutes * 60, seed=wish.seed, rate=wish.rate)
    print("\n".join(figures.lines()))
    for fault in figures.faults:
        print(f"FAULT {fault}")
    return int(bool(figures.faults))


if __name__ == "__main__":
    sys.exit(main())
