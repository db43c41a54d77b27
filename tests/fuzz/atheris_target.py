"""One group under atheris: python -m tests.fuzz.atheris_target GROUP [options of libFuzzer]."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["pitr"]):
    from tests.fuzz.corpus import group

    TARGET = group(sys.argv.pop(1))


if __name__ == "__main__":
    atheris.Setup(sys.argv, TARGET.fuzz)
    atheris.Fuzz()
