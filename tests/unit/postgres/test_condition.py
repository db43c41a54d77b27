"""Conditions of users, taken apart: what they name, and what is none."""

from __future__ import annotations

import pytest

from pitr.errors import UsageError
from pitr.postgres.statement.condition import parse_condition


def test_columns_of_a_condition_are_known() -> None:
    """Those that it names, qualified or quoted; unknown where the row as a whole is meant."""
    condition = parse_condition('o.id = 42 AND "Odd "" name" <> \'x\' -- and why')

    assert condition.columns == {"id", 'Odd " name'}
    assert condition.normal == 'o.id = 42 AND "Odd "" name" <> \'x\''
    assert parse_condition("o.* IS NOT NULL").columns is None
    assert parse_condition("true").columns == set()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id =", "is not understood"),
        ("", "is not understood"),
        ("id = 1) OR (true", "is not understood"),
        ("id = 1 /* no end", "is not understood"),
        ("id = 1; DROP TABLE orders", "more than a condition"),
        ("true ORDER BY 1", "more than a condition"),
        ("true UNION SELECT 1", "more than a condition"),
        ("true FOR UPDATE", "more than a condition"),
        ("id = (SELECT 1)", "of a row by itself"),
        ("EXISTS (TABLE orders)", "of a row by itself"),
        ("id = $1", "of a row by itself"),
    ],
)
def test_what_is_no_condition_is_refused(text: str, said: str) -> None:
    """Nothing can be smuggled in behind it, and nothing else can be asked."""
    with pytest.raises(UsageError, match=said):
        parse_condition(text)
