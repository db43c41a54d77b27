"""When two values, and two rows, are the same.

Value and type: integer 1 is neither real 1.0 nor text '1', and NULL is NULL. Two exceptions to "the
same bytes", both because the database itself cannot tell: -0.0 is 0.0 (SQLite keeps the sign in a
column without a type, drops it in a REAL one, and no operator of its SQL sees it; PostgreSQL calls
them equal), and NaN is NaN (as in PostgreSQL; SQLite stores NULL for it).
"""

from __future__ import annotations

from pitr.vocabulary.diff_row import Row, Value


def same_value(left: Value, right: Value) -> bool:
    """Return whether two values are the same, type included. An equivalence relation."""
    if type(left) is not type(right):
        return False
    both_nan = left != left and right != right
    return left == right or both_nan


def same_row(left: Row | None, right: Row | None) -> bool:
    """Return whether two rows exist and are the same. Rows of unequal width: ValueError."""
    if left is None or right is None:
        return False
    return all(same_value(a, b) for a, b in zip(left, right, strict=True))


def differing_columns(left: Row, right: Row) -> tuple[int, ...]:
    """Return the places of the columns that are not the same, ascending."""
    pairs = zip(left, right, strict=True)
    return tuple(place for place, (a, b) in enumerate(pairs) if not same_value(a, b))
