"""Values as SQL text."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pitr.vocabulary.diff_row import Value


def literal(value: Value) -> str:
    """Return the SQL that gives exactly this value back, in a database of any encoding.

    No line end, control or other unprintable character stands in it, so that it fits into a line
    and a comment.
    """
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float) and math.isinf(value):
        return "9e999" if value > 0 else "-9e999"
    return repr(value)


def _text(text: str) -> str:
    parts = [
        f"'{piece.replace(chr(39), 2 * chr(39))}'" if plain else f"char({ord(piece)})"
        for plain, piece in _pieces(text)
    ]
    return f"({' || '.join(parts)})" if len(parts) > 1 else (parts or ["''"])[0]


def _pieces(text: str) -> Iterator[tuple[bool, str]]:
    """Yield runs of printable characters (true), and the other characters one by one."""
    begin = 0
    for at, character in enumerate(text):
        if not character.isprintable():
            if begin < at:
                yield True, text[begin:at]
            yield False, character
            begin = at + 1
    if begin < len(text):
        yield True, text[begin:]
