"""Fuzz one decoder or all of them: python -m tests.fuzz.run [GROUP…] [--seconds N] [--seed N].

The loop here needs nothing; with atheris installed, `--atheris` lets libFuzzer choose inputs by the
coverage of the Python code. An input that raises anything but PitrError is kept in the corpus.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
import traceback
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.corpus import FOLDER, GROUPS, group, keep, read
from tests.fuzz.limits import TooSlow, alarmed, bounded_memory, rearm
from tests.fuzz.mutation import mutate


def loop(name: str, *, seconds: float, seed: int) -> tuple[int, str | None]:
    """Run mutations for so long; return how many, and what went wrong, with where it is kept."""
    chance = random.Random(f"{name} {seed}")
    fuzz, seeds = group(name).fuzz, read(name)
    end = time.monotonic() + seconds
    count = 0
    with bounded_memory(), alarmed():
        while time.monotonic() < end:
            data = seeds[count] if count < len(seeds) else mutate(chance, seeds)
            count += 1
            rearm()
            try:
                fuzz(data)
            except (Exception, TooSlow):
                return count, f"{traceback.format_exc()}\nkept as {keep(name, data)}"
    return count, None


def with_atheris(name: str, *, seconds: int, seed: int) -> str | None:
    """Let libFuzzer run a group in a process of its own; return its last words when it failed."""
    with tempfile.TemporaryDirectory(prefix="pitr-fuzz-") as folder:
        # The first folder is where libFuzzer puts what reaches new code; ours is only read.
        command = [sys.executable, "-m", "tests.fuzz.atheris_target", name, folder]
        command += [str(FOLDER / name), f"-max_total_time={seconds}", f"-seed={seed}"]
        command += ["-timeout=60", "-rss_limit_mb=2048", f"-artifact_prefix={folder}/fault-"]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace")
        faults = [keep(name, path.read_bytes()) for path in Path(folder).glob("fault-*")]
    if ended.returncode == 0 and not faults:
        return None
    return f"{ended.stdout[-2000:]}\n{ended.stderr[-3000:]}\nkept as {faults}"


def main() -> int:
    """Fuzz the groups named on the command line, one after the other."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.run", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", default=GROUPS)
    parser.add_argument("--seconds", type=int, default=10, help="for each group")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--atheris", action="store_true", help="guided, if it is here")
    wish = parser.parse_args()
    is_guided = wish.atheris and find_spec("atheris") is not None
    print(f"--seed {wish.seed}, {'atheris' if is_guided else 'mutating loop'}", flush=True)
    failed = 0
    for name in wish.groups:
        if is_guided:
            fault = with_atheris(name, seconds=wish.seconds, seed=wish.seed)
            print(f"{name:16} {wish.seconds} s {'FAILED' if fault else 'ok'}", flush=True)
        else:
            count, fault = loop(name, seconds=wish.seconds, seed=wish.seed)
            print(f"{name:16} {count:8} inputs {'FAILED' if fault else 'ok'}", flush=True)
        if fault:
            failed += 1
            print(fault, flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
