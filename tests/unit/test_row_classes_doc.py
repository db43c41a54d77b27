"""The page about row classes is the one that the rules make."""

from __future__ import annotations

from pitr.vocabulary.row_class import RULES, TREATMENTS
from tools.gen_row_classes_doc import TARGET, document


def test_row_classes_page_is_current() -> None:
    """docs/guides/row-classes.md was written from the rules as they are: else `make docs`."""
    assert TARGET.read_text() == document()


def test_row_classes_page_shows_every_rule_and_class() -> None:
    """No rule and no class is left out of the page."""
    page = document()

    assert all(f"| {rule.sentence} |" in page for rule in RULES)
    assert all(
        f"| `{name}` | {one.meaning} | {one.action} |" in page for name, one in TREATMENTS.items()
    )
