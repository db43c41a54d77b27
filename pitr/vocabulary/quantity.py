"""Texts for lengths of time and sizes, as options and pitr.toml take them.

Months and years are no lengths of time (they differ), and neither is a bare number.
"""

from __future__ import annotations

import re

_UNIT_US = {
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_UNIT_WORDS = {
    "ms": ("ms", "millisecond", "milliseconds"),
    "s": ("s", "sec", "secs", "second", "seconds"),
    "m": ("m", "min", "mins", "minute", "minutes"),
    "h": ("h", "hr", "hrs", "hour", "hours"),
    "d": ("d", "day", "days"),
    "w": ("w", "week", "weeks"),
}
_WORD_US = {word: _UNIT_US[unit] for unit, words in _UNIT_WORDS.items() for word in words}
_DURATION = re.compile(r"(?:\d{1,12} ?[A-Za-z]+ ?)+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+) ?([A-Za-z]+)")

_SIZE = re.compile(r"(\d{1,15}) ?([A-Za-z]*)", re.ASCII)
_SIZE_BYTES = {"b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40} | {
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}


def parse_duration_us(text: str) -> int:
    """Return the microseconds of `10m`, `2h30m`, `2 hours 30 minutes`, `250ms`; never negative.

    Units run from large to small and each comes once. A day is 24 hours, whatever clocks do.
    Raises ValueError whose text says what is wrong, as a full sentence.
    """
    blanks_merged = " ".join(text.split())
    if not _DURATION.fullmatch(blanks_merged):
        raise ValueError("A length of time is numbers with units, as in '90s' or '2h30m'.")
    total_us = 0
    smallest_us: int | None = None
    for number, word in _DURATION_PART.findall(blanks_merged):
        unit_us = _duration_unit_us(word)
        if smallest_us is not None and unit_us >= smallest_us:
            raise ValueError(f"Units run from large to small, each once; '{word}' does not.")
        total_us += int(number) * unit_us
        smallest_us = unit_us
    return total_us


def _duration_unit_us(word: str) -> int:
    # A lone capital is left alone: 10M is ten months in one tool and ten megabytes in another.
    unit_us = _WORD_US.get(word if len(word) == 1 else word.lower())
    if unit_us is None:
        raise ValueError(f"'{word}' is no unit of time here; use w, d, h, m, s or ms.")
    return unit_us


def parse_size_bytes(text: str) -> int:
    """Return the bytes of `512MB`, `1 GiB`, `65536B`; units are powers of 1024.

    Raises ValueError whose text says what is wrong, as a full sentence.
    """
    match = _SIZE.fullmatch(text.strip())
    factor = _SIZE_BYTES.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError("A size is a number with one of B, KB, MB, GB, TB, as in '512MB'.")
    return int(match[1]) * factor
