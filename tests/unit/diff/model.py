"""What the three states of a row come to, said once more and in another way than the code says it.

Here a column is a pattern of three letters, before, after, live: equal letters are equal values.
`aba` is a column that was damaged and is back, `abb` one to repair, `abc` one touched since. Values
are told apart by a text that shows their type. The class follows from the patterns of a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

Row = tuple[int | float | str | bytes | None, ...]
States = tuple[Row | None, Row | None, Row | None]

VALUES = (None, 1, 1.0, "1", b"1")
PATTERNS = ("aaa", "aab", "aba", "abb", "abc")


def pattern(*values: object) -> str:
    """Return the pattern of one column."""
    images = [f"{type(value).__name__} {value!r}" for value in values]
    letters = dict(zip(dict.fromkeys(images), "abc", strict=False))
    return "".join(letters[image] for image in images)


def patterns(states: States) -> list[str]:
    """Return the patterns of the columns; a row that is absent has a value of its own in each."""
    width = max((len(row) for row in states if row is not None), default=0)
    filled = [row if row is not None else ("no row",) * width for row in states]
    return [pattern(*values) for values in zip(*filled, strict=True)]


def places(found: list[str], *wanted: str) -> tuple[int, ...]:
    return tuple(place for place, one in enumerate(found) if one in wanted)


def expected(states: States, *, after_known: bool) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Return the class, the columns to repair and the columns touched since."""
    found = patterns(states)
    if not after_known:
        return expected_of_two(states[0], states[2], found)
    match ["row" if row is not None else "none" for row in states]:
        case ["row", "none", "none"]:
            return "lost", (), ()
        case ["row", "none", "row"]:
            reused = places(found, "abc")
            return ("key_reused", (), reused) if reused else ("already_back", (), ())
        case ["row", "row", "none"]:
            return ("deleted_since" if "abc" in found else "unrelated"), (), ()
        case ["none", "row", "none"]:
            return "already_back", (), ()
        case ["none", "row", "row"]:
            return ("bogus_touched" if "abc" in found else "bogus_insert"), (), ()
        case ["none", "none", _]:
            return "unrelated", (), ()
    repair, touched = places(found, "abb"), places(found, "abc")
    if touched:
        return "touched_since", repair, touched
    if repair:
        return "damaged", repair, ()
    return ("already_back" if "aba" in found else "unrelated"), (), ()


def expected_of_two(
    before: Row | None, live: Row | None, found: list[str]
) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    if before is None:
        return "unrelated", (), ()
    if live is None:
        return "lost", (), ()
    changed = tuple(place for place, one in enumerate(found) if one[0] != one[2])
    return ("differs" if changed else "unrelated"), changed, ()


def states_of_two_columns() -> Iterator[States]:
    """Yield every combination of three states of a row of two columns, absent rows included."""
    rows: list[Row | None] = [None, *itertools.product(VALUES, repeat=2)]
    yield from itertools.product(rows, repeat=3)


def states_of_three_columns() -> Iterator[States]:
    """Yield every combination of patterns in three columns, and of rows that are absent."""
    for chosen in itertools.product(PATTERNS, repeat=3):
        for turn in range(len(VALUES)):
            letters = dict(zip("abc", (VALUES + VALUES)[turn:], strict=False))
            whole = [tuple(letters[one[state]] for one in chosen) for state in range(3)]
            for absent in itertools.product((False, True), repeat=3):
                rows = [None if gone else row for gone, row in zip(absent, whole, strict=True)]
                yield rows[0], rows[1], rows[2]


def all_states() -> Iterator[States]:
    """Yield the rows of both widths."""
    yield from states_of_two_columns()
    yield from states_of_three_columns()
