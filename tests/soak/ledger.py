"""What legitimate writers wrote, row by row: what everything is compared with at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

Row = tuple[str, int]


class Ledger:
    """The rows that the table `ledger` must have: text and version by id.

    A writer owns the keys that are its number modulo the number of writers, and notes a row when
    its COMMIT has returned. What became of a commit whose answer was lost, it asks afterwards.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[int, Row] = {}
        self._unsure: dict[int, tuple[Row | None, Row | None]] = {}
        self.commits = 0

    def get(self, key: int) -> Row | None:
        """Return a row as it must be."""
        with self._lock:
            return self._rows.get(key)

    def keys(self, writer: int, writers: int) -> list[int]:
        """Return the keys of a writer."""
        with self._lock:
            return [key for key in self._rows if key % writers == writer]

    def note(self, key: int, row: Row | None) -> None:
        """Note a commit: a row, or that it was deleted."""
        with self._lock:
            self.commits += 1
            self._unsure.pop(key, None)
            if row is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = row

    def doubt(self, key: int, before: Row | None, after: Row | None) -> None:
        """Note that nobody knows whether a commit happened."""
        with self._lock:
            self._unsure[key] = (before, after)

    def unsure(self, writer: int, writers: int) -> dict[int, tuple[Row | None, Row | None]]:
        """Return what a writer has to ask about."""
        with self._lock:
            return {key: row for key, row in self._unsure.items() if key % writers == writer}

    def faults(self, found: Iterable[tuple[int, str, int]]) -> list[str]:
        """Return where a table differs from the book, a line each."""
        rows: Mapping[int, Row] = {key: (text, version) for key, text, version in found}
        with self._lock:
            keys = sorted(rows.keys() | self._rows.keys())
            return [
                f"{key}: {rows.get(key)} instead of {self._rows.get(key)}"
                for key in keys
                if rows.get(key) != self._rows.get(key)
            ]

    def __len__(self) -> int:
        with self._lock:
            return len(self._rows)
