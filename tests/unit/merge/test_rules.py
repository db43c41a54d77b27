"""What options make of classes: every class under every choice of options."""

from __future__ import annotations

import itertools

import pytest

from pitr.merge.rules import action_counts, actions_of, conflicts_of, resolution_of_rows
from pitr.vocabulary.plan import BlockerKind, MergeOptions, Resolution
from pitr.vocabulary.row_class import Action, ConflictPolicy, RowClass

CHOICES = [
    MergeOptions(on_conflict=policy, update=update, delete_extra=delete_extra)
    for policy, update, delete_extra in itertools.product(
        ConflictPolicy, (False, True), (False, True)
    )
]


@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_rows_of_a_conflict_are_never_written_under_abort_or_skip(options: MergeOptions) -> None:
    """Promise: only overwrite writes a row in conflict, and it never deletes one."""
    actions = actions_of(options)
    for kind, resolution in conflicts_of(options).items():
        action = actions[RowClass(kind.value)]
        expected = {
            Resolution.BLOCKS: Action.CONFLICT,
            Resolution.SKIPPED: Action.SKIP,
            Resolution.OVERWRITTEN: Action.UPDATE,
        }
        assert action is expected[resolution]
        if options.on_conflict is ConflictPolicy.ABORT:
            assert resolution is Resolution.BLOCKS
        if options.on_conflict is ConflictPolicy.SKIP:
            assert resolution is Resolution.SKIPPED


@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_deletes_and_updates_of_what_differs_have_to_be_asked_for(options: MergeOptions) -> None:
    """Promise: without the options nothing is deleted, and no row is set back without a cause."""
    actions = actions_of(options)
    assert (Action.DELETE in actions.values()) is options.delete_extra
    assert (actions[RowClass.DIFFERS] is Action.UPDATE) is options.update
    assert (BlockerKind.BOGUS_TOUCHED in conflicts_of(options)) is options.delete_extra
    assert actions[RowClass.UNRELATED] is Action.NOTHING


def test_rows_that_the_database_would_refuse_can_only_be_skipped() -> None:
    """Promise: no policy forces a row past a unique value or a missing parent."""
    found = {
        policy: resolution_of_rows(MergeOptions(on_conflict=policy)) for policy in ConflictPolicy
    }
    assert found == {
        ConflictPolicy.ABORT: Resolution.BLOCKS,
        ConflictPolicy.SKIP: Resolution.SKIPPED,
        ConflictPolicy.OVERWRITE: Resolution.BLOCKS,
    }


def test_rows_that_are_left_out_count_as_skipped() -> None:
    """Promise: the counts of a plan add up to its rows."""
    counts = {RowClass.LOST: 10, RowClass.DAMAGED: 5, RowClass.DIFFERS: 2}
    left_out = {RowClass.LOST: 3, RowClass.DAMAGED: 1}
    found = action_counts(counts, actions_of(MergeOptions()), left_out)
    assert found[Action.INSERT] == 7
    assert found[Action.UPDATE] == 4
    assert found[Action.SKIP] == 6
    assert sum(found.values()) == sum(counts.values())
