"""Places in a history: the commit number of SQLite, the log sequence number of PostgreSQL.

A position is a type and never a bare integer, so that one cannot be taken for the other. Its
text is what a user types as a target and what every message and JSON document shows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Keys in the archive give a commit number 16 digits.
COMMIT_NUMBER_MAX = 10**16 - 1
_COMMIT = re.compile(r"commit:(\d{1,16})", re.ASCII)
_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


@dataclass(frozen=True, slots=True, order=True)
class CommitNumber:
    """The number of one SQLite commit, counted from 1 by capture, never used twice."""

    value: int

    def __post_init__(self) -> None:
        if not 1 <= self.value <= COMMIT_NUMBER_MAX:
            raise ValueError(f"not a commit number: {self.value}")

    @classmethod
    def parse(cls, text: str) -> CommitNumber:
        """Read `commit:4711`. Raises ValueError."""
        match = _COMMIT.fullmatch(text)
        if match is None:
            raise ValueError(f"not a commit position: {text!r}")
        return cls(int(match[1]))

    def __str__(self) -> str:
        return f"commit:{self.value}"


@dataclass(frozen=True, slots=True, order=True)
class Lsn:
    """A byte position in the WAL of one PostgreSQL timeline: 64 bits, shown as `0/16B3748`."""

    value: int

    def __post_init__(self) -> None:
        if not 0 <= self.value < 1 << 64:
            raise ValueError(f"not a log sequence number: {self.value}")

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """Read `0/16B3748`, with or without leading zeros. Raises ValueError."""
        match = _LSN.fullmatch(text)
        if match is None:
            raise ValueError(f"not a log sequence number: {text!r}")
        return cls(int(match[1], 16) << 32 | int(match[2], 16))

    @classmethod
    def of_position(cls, text: str) -> Lsn:
        """Read a position as marks and transactions have it, `lsn:0/16B3748`. Raises ValueError."""
        return cls.parse(text.removeprefix("lsn:"))

    def bytes_since(self, earlier: Lsn) -> int:
        """Return the bytes of WAL from `earlier` to here; negative when it is the later one."""
        return self.value - earlier.value

    def __str__(self) -> str:
        return f"{self.value >> 32:X}/{self.value & 0xFFFFFFFF:X}"
