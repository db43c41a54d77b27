"""What -t means on SQLite: a name, or all that fit a pattern."""

from __future__ import annotations

import pytest

from pitr.sqlite.statement.pattern import TablePattern

TABLES = ("orders", "Order Items", "a*b", "aXb", "Überall", 'say "so"', "x.y")


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("ORDERS", ["orders"]),
        ("order*", ["orders", "Order Items"]),
        ("o?ders", ["orders"]),
        ("???", ["a*b", "aXb", "x.y"]),
        ("a*b", ["a*b"]),  # the name itself goes before what it might mean
        ("A*B", ["a*b"]),
        ("a*", ["a*b", "aXb"]),
        ('"a*b"', ["a*b"]),
        ('"Order Items"', ["Order Items"]),
        ('"order"*', ["orders", "Order Items"]),
        ('say "so"', ['say "so"']),
        ('"say ""so"""', ['say "so"']),
        ("überall", []),  # as SQLite compares: A to Z alone have no case
        ("x.y", ["x.y"]),
        ("x.*", ["x.y"]),
        ("x?y", ["x.y"]),
        ("orders\n", []),
        ("", []),
    ],
)
def test_text_means_the_tables_that_fit(text: str, chosen: list[str]) -> None:
    """* and ? are wild outside of double quotes, and a name is found as SQLite finds it."""
    assert TablePattern.parse(text).chosen(TABLES) == chosen


def test_only_what_has_wildcards_outside_of_quotes_is_wild() -> None:
    """A name of one table is told from a pattern, whose left-out tables need no excuse."""
    wild = {text: TablePattern.parse(text).is_wild for text in ("a*", "?", '"a*"', "a", '"*"*')}
    assert wild == {"a*": True, "?": True, '"a*"': False, "a": False, '"*"*': True}
