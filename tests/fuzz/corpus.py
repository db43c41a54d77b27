"""The corpus of the fuzzers: a folder for each group below tests/golden/fuzz.

`seed-NN` were made by `python -m tests.fuzz.corpus`; `found-…` once broke a decoder, and stay.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "fuzz"
GROUPS = tuple(
    sorted(path.stem.removeprefix("fuzz_") for path in Path(__file__).parent.glob("fuzz_*.py"))
)


class Group(Protocol):
    """What a module of this folder named fuzz_… has."""

    fuzz: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


def group(name: str) -> Group:
    """Return the module of a group."""
    module: Group = importlib.import_module(f"tests.fuzz.fuzz_{name}")  # type: ignore[assignment]
    return module


def read(name: str) -> list[bytes]:
    """Return the inputs of a group, in the order of their names."""
    return [path.read_bytes() for path in sorted((FOLDER / name).iterdir())]


def keep(name: str, data: bytes) -> Path:
    """Put an input that broke a decoder into the corpus; return where."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"found-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


def main() -> None:
    """Write the seeds of every group anew; what was found stays."""
    for name in GROUPS:
        folder = FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("seed-*"):
            old.unlink()
        for number, data in enumerate(group(name).seeds()):
            (folder / f"seed-{number:02d}").write_bytes(data)


if __name__ == "__main__":
    main()
