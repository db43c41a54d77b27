"""What the options of a merge make of classes of rows and of what stands in their way."""

from __future__ import annotations

from collections.abc import Mapping

from pitr.vocabulary.plan import BlockerKind, MergeOptions, Resolution
from pitr.vocabulary.row_class import TREATMENTS, Action, ConflictPolicy, RowClass


def actions_of(options: MergeOptions) -> dict[RowClass, Action]:
    """Return what a merge does with a row of each class, as long as nothing else is in its way."""
    return {row_class: _action(row_class, options, options.on_conflict) for row_class in RowClass}


def _action(row_class: RowClass, options: MergeOptions, policy: ConflictPolicy) -> Action:
    return TREATMENTS[row_class].action_under(
        update=options.update, delete_extra=options.delete_extra, on_conflict=policy
    )


def conflicts_of(options: MergeOptions) -> dict[BlockerKind, Resolution]:
    """Return the classes that are conflicts under the options, and what becomes of their rows."""
    found = {}
    for row_class, action in actions_of(options).items():
        if _action(row_class, options, ConflictPolicy.ABORT) is Action.CONFLICT:
            found[BlockerKind(row_class.value)] = _resolution(action)
    return found


def _resolution(action: Action) -> Resolution:
    if action is Action.CONFLICT:
        return Resolution.BLOCKS
    return Resolution.SKIPPED if action is Action.SKIP else Resolution.OVERWRITTEN


def resolution_of_rows(options: MergeOptions) -> Resolution:
    """Return what becomes of rows that the database would refuse: no policy can force them in."""
    is_skipped = options.on_conflict is ConflictPolicy.SKIP
    return Resolution.SKIPPED if is_skipped else Resolution.BLOCKS


def action_counts(
    counts: Mapping[RowClass, int],
    actions: Mapping[RowClass, Action],
    left_out: Mapping[RowClass, int],
) -> dict[Action, int]:
    """Return the rows of each action; `left_out` are rows that a blocker keeps from theirs.

    A row that would be written and is left out is skipped: where that is not allowed the plan
    is blocked as a whole, and its counts only tell what there is.
    """
    found = dict.fromkeys(Action, 0)
    for row_class, count in counts.items():
        kept_out = left_out.get(row_class, 0)
        found[actions[row_class]] += count - kept_out
        found[Action.SKIP] += kept_out
    return found
