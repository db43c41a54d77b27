"""Whether a merge happened, told from what its rows are now."""

from __future__ import annotations

import pytest

from pitr.merge.aftermath import judge
from pitr.vocabulary.plan import MergeOutcome
from pitr.vocabulary.row_class import RowClass

HAPPENED, DID_NOT, UNKNOWN = (
    MergeOutcome.HAPPENED,
    MergeOutcome.DID_NOT_HAPPEN,
    MergeOutcome.CANNOT_BE_TOLD,
)


@pytest.mark.parametrize(
    ("counts", "outcome"),
    [
        ({RowClass.BOGUS_INSERT: 1}, HAPPENED),
        ({RowClass.DAMAGED: 3, RowClass.LOST: 2}, HAPPENED),
        ({RowClass.ALREADY_BACK: 1}, DID_NOT),
        ({RowClass.ALREADY_BACK: 4, RowClass.TOUCHED_SINCE: 9}, DID_NOT),
        ({RowClass.BOGUS_INSERT: 1000, RowClass.ALREADY_BACK: 3}, HAPPENED),
        ({RowClass.BOGUS_INSERT: 3, RowClass.ALREADY_BACK: 1000}, DID_NOT),
        ({RowClass.BOGUS_INSERT: 10, RowClass.ALREADY_BACK: 1}, UNKNOWN),
        ({RowClass.BOGUS_TOUCHED: 5, RowClass.DELETED_SINCE: 5}, UNKNOWN),
        ({}, UNKNOWN),
    ],
)
def test_aftermath_is_what_nearly_all_rows_say(
    counts: dict[RowClass, int], outcome: MergeOutcome
) -> None:
    """Promise: rows that others changed say nothing; a contradiction is not decided."""
    assert judge(counts) is outcome
