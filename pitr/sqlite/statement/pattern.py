"""What a user names with -t: a table, or with `*` and `?` all those that fit.

As on PostgreSQL "double quotes" keep everything, and "" inside them is one quote. SQLite compares
names without regard to the case of A to Z, quoted or not, and a table may have any name at all: the
text as it stands is looked for first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_PIECE = re.compile(r'"((?:[^"]|"")*)"|(.)', re.DOTALL)


@dataclass(frozen=True, slots=True)
class TablePattern:
    """One name or pattern. `is_wild` says that it may mean several tables."""

    text: str
    is_wild: bool
    _plain: re.Pattern[str]
    _fits: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> TablePattern:
        """Read a pattern; every text is one."""
        pieces = list(_PIECE.finditer(text))
        fits = "".join(
            re.escape(piece[1].replace('""', '"'))
            if piece[2] is None
            else {"*": ".*", "?": "."}.get(piece[2], re.escape(piece[2]))
            for piece in pieces
        )
        is_wild = any(piece[2] in ("*", "?") for piece in pieces)
        return cls(text, is_wild, _compiled(re.escape(text)), _compiled(fits))

    def names(self, table: str) -> bool:
        """Return whether a table may be meant; of several see `chosen`."""
        return bool(self._plain.fullmatch(table) or self._fits.fullmatch(table))

    def chosen(self, tables: Iterable[str]) -> list[str]:
        """Return which of these are meant: the one of exactly this name, else all that fit."""
        found = [table for table in tables if self.names(table)]
        return [table for table in found if self._plain.fullmatch(table)] or found


def _compiled(pattern: str) -> re.Pattern[str]:
    # ASCII: other letters than A to Z are compared as they are.
    return re.compile(pattern, re.DOTALL | re.IGNORECASE | re.ASCII)
