"""Digests: equal exactly when all that went in is equal."""

from __future__ import annotations

import itertools

from pitr.merge.fingerprint import fingerprint, rows_digest
from pitr.vocabulary.diff_row import Value

VALUES: tuple[Value, ...] = (None, 0, 1, -1, 1.0, 0.0, -0.0, "", "1", "a", b"", b"1", b"a", 2**62)


def test_rows_differ_by_value_and_type() -> None:
    """Promise: no two different values have the same digest."""
    digests = [rows_digest([(value,)]) for value in VALUES]
    assert len(set(digests)) == len(VALUES)


def test_rows_differ_by_order_and_by_where_values_end() -> None:
    """Promise: the digest is of the rows, not of their bytes end to end."""
    rows = [("a", "b"), ("c", "d")]
    others = [
        [("c", "d"), ("a", "b")],
        [("a",), ("b", "c", "d")],
        [("ab", ""), ("c", "d")],
        rows[:1],
    ]
    assert len({rows_digest(one) for one in [rows, *others]}) == 5


def test_streams_give_what_lists_give() -> None:
    """Promise: many rows come to the same whichever way they come."""
    rows = [(number, str(number)) for number in range(10_000)]
    assert rows_digest(iter(rows)) == rows_digest(rows)
    changed = [*rows]
    changed[9_999] = (9_999, "x")
    assert rows_digest(changed) != rows_digest(rows)


def test_fingerprint_tells_nested_values_apart() -> None:
    """Promise: what is inside which list matters."""
    parts: list[list[object]] = [
        ["a", ["b"]],
        ["a", "b"],
        [["a", "b"]],
        ["a", ["b", None]],
        ["a", True],
    ]
    for left, right in itertools.combinations(parts, 2):
        assert fingerprint(left) != fingerprint(right)
    assert fingerprint(["a", ["b"]]) == fingerprint(["a", ("b",)])
