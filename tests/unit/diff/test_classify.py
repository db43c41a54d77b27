"""Classification in Python against the model, and equality at its edges."""

from __future__ import annotations

import math

import pytest

from pitr.vocabulary.diff_row import DiffRow, Row, Verdict
from pitr.vocabulary.row_class import RowClass
from tests.unit.diff.classify import classify
from tests.unit.diff.equality import differing_columns, same_row, same_value
from tests.unit.diff.model import all_states, expected


def test_classify_every_combination_is_what_the_model_says() -> None:
    """Class, columns to repair and columns touched agree for every combination of states."""
    seen = set()
    for states in all_states():
        verdict = classify(*states, after_known=True)
        found = (verdict.row_class.value, verdict.repair_columns, verdict.touched_columns)
        seen.add(verdict.row_class)

        assert found == expected(states, after_known=True), states

    assert seen == set(RowClass) - {RowClass.DIFFERS}


def test_classify_without_after_every_combination_is_what_the_model_says() -> None:
    """Two states alone never make a row damaged, touched or bogus."""
    seen = set()
    for before, after, live in all_states():
        if after is not None:
            continue
        verdict = classify(before, None, live, after_known=False)
        found = (verdict.row_class.value, verdict.repair_columns, verdict.touched_columns)
        seen.add(verdict.row_class)

        assert found == expected((before, None, live), after_known=False), (before, live)

    assert seen == {RowClass.LOST, RowClass.DIFFERS, RowClass.UNRELATED}


def test_classify_damaged_row_with_later_work_repairs_only_the_damage() -> None:
    """A newer value in a column that was not damaged is not among the columns to write."""
    verdict = classify(("Ann", 10, "old"), (None, 10, "old"), (None, 10, "new"), after_known=True)

    assert verdict == Verdict(RowClass.DAMAGED, repair_columns=(0,))
    assert verdict.update_columns == (0,)


def test_verdict_update_columns_of_a_conflict_are_all_damaged_ones_in_order() -> None:
    """An overwrite sets back what was touched since, together with what was not."""
    verdict = classify((1, 2, 3, 4), (0, 0, 0, 4), (7, 0, 8, 9), after_known=True)

    assert verdict == Verdict(RowClass.TOUCHED_SINCE, (1,), (0, 2))
    assert verdict.update_columns == (0, 1, 2)


def test_classify_table_of_key_columns_only_compares_equal() -> None:
    """Rows without a value column are equal where they exist."""
    assert classify((), None, (), after_known=True).row_class is RowClass.ALREADY_BACK
    assert classify((), (), None, after_known=True).row_class is RowClass.UNRELATED


def test_classify_row_after_that_is_said_to_be_unknown_is_refused() -> None:
    """The caller cannot hand in a state and have it ignored."""
    with pytest.raises(ValueError, match="not known"):
        classify((1,), (1,), (1,), after_known=False)


@pytest.mark.parametrize("after", [(1,), (1, 2, 3)])
def test_classify_rows_of_unequal_width_are_refused(after: Row) -> None:
    """States that were not brought to the same columns are never compared in part."""
    with pytest.raises(ValueError):
        classify((1, 2), after, (1, 2), after_known=True)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (None, None, True),
        (None, 0, False),
        (1, 1.0, False),
        (1, "1", False),
        ("1", b"1", False),
        ("A", "a", False),
        ("é", "e\N{COMBINING ACUTE ACCENT}", False),
        (2**53 + 1, 2.0**53, False),
        (0.0, -0.0, True),
        (math.nan, math.nan, True),
        (math.nan, 0.0, False),
        (math.inf, -math.inf, False),
    ],
)
def test_same_value_at_the_edges(left: object, right: object, same: bool) -> None:
    """Type counts, NULL is NULL, the sign of zero is not seen, NaN is NaN; both ways round."""
    assert same_value(left, right) is same  # type: ignore[arg-type]
    assert same_value(right, left) is same  # type: ignore[arg-type]


def test_same_row_of_an_absent_row_is_false() -> None:
    """No row equals a row that is not there, not even another absent one."""
    assert not same_row(None, None)
    assert not same_row((1,), None)
    assert differing_columns((1, None, "x"), (1.0, None, "y")) == (0, 2)


def test_diff_row_shows_the_class_of_its_verdict() -> None:
    """A streamed row names its class without the columns."""
    row = DiffRow(
        table="orders",
        key=(4,),
        verdict=Verdict(RowClass.LOST),
        before=(4, "Ann"),
        after=None,
        live=None,
    )

    assert row.row_class is RowClass.LOST
