"""After a crash: did the merge happen? Told from what its rows are now.

A merge is one transaction: either every row was written, or none. So rows that are as the merge
would have left them speak for it, and rows that are as they were before it speak against it. Rows
that somebody else has changed since say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from pitr.vocabulary.plan import MergeOutcome
from pitr.vocabulary.row_class import RowClass

# A few rows may have been set back, or brought back, by others since.
_TIMES_AS_MANY = 10

# What a row is to an undo: with "before" the state before the merge, "after" the one it made.
_AS_AFTER = (RowClass.LOST, RowClass.DAMAGED, RowClass.BOGUS_INSERT)
_AS_BEFORE = (RowClass.ALREADY_BACK,)


def judge(counts: Mapping[RowClass, int]) -> MergeOutcome:
    """Return what became of a merge, from its rows as an undo of it classes them."""
    for_it = sum(counts.get(row_class, 0) for row_class in _AS_AFTER)
    against_it = sum(counts.get(row_class, 0) for row_class in _AS_BEFORE)
    if for_it > _TIMES_AS_MANY * against_it:
        return MergeOutcome.HAPPENED
    if against_it > _TIMES_AS_MANY * for_it:
        return MergeOutcome.DID_NOT_HAPPEN
    return MergeOutcome.CANNOT_BE_TOLD
