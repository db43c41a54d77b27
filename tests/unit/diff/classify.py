"""The class of one row from its three states."""

from __future__ import annotations

from collections.abc import Callable

from pitr.diff.decision import WITH_AFTER, WITHOUT_AFTER, Question
from pitr.vocabulary.diff_row import Row, Verdict
from pitr.vocabulary.row_class import Fact, RowClass
from tests.unit.diff.equality import differing_columns, same_row, same_value


def classify(
    before: Row | None, after: Row | None, live: Row | None, *, after_known: bool
) -> Verdict:
    """Return what the three states of one key come to; None is an absent row.

    The rows have the same columns in the same order. Raises ValueError when they are not equally
    wide, and for a row after the damage that is said not to be known.
    """
    if after is not None and not after_known:
        raise ValueError("a row after the damage, and that state is not known")
    decision = WITH_AFTER if after_known else WITHOUT_AFTER
    while isinstance(decision, Question):
        holds = _FACTS[decision.fact](before, after, live)
        decision = decision.yes if holds else decision.no
    return _verdict(decision.row_class, before, after, live)


def _verdict(
    row_class: RowClass, before: Row | None, after: Row | None, live: Row | None
) -> Verdict:
    if before is None or live is None:
        return Verdict(row_class)
    match row_class:
        case RowClass.DAMAGED | RowClass.TOUCHED_SINCE:
            return Verdict(row_class, *_judge_columns(before, after, live))
        case RowClass.DIFFERS:
            return Verdict(row_class, repair_columns=differing_columns(before, live))
        case RowClass.KEY_REUSED:
            return Verdict(row_class, touched_columns=differing_columns(before, live))
        case _:
            return Verdict(row_class)


def _judge_columns(
    before: Row | None, after: Row | None, live: Row | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the damaged columns still as after, and those that are neither as after nor before."""
    repair: list[int] = []
    touched: list[int] = []
    triples = zip(before or (), after or (), live or (), strict=True)
    for place, (was, became, now) in enumerate(triples):
        if same_value(was, became) or same_value(was, now):
            continue
        (repair if same_value(became, now) else touched).append(place)
    return tuple(repair), tuple(touched)


_FACTS: dict[Fact, Callable[[Row | None, Row | None, Row | None], bool]] = {
    Fact.BEFORE_EXISTS: lambda before, _after, _live: before is not None,
    Fact.AFTER_EXISTS: lambda _before, after, _live: after is not None,
    Fact.LIVE_EXISTS: lambda _before, _after, live: live is not None,
    Fact.BEFORE_IS_AFTER: lambda before, after, _live: same_row(before, after),
    Fact.BEFORE_IS_LIVE: lambda before, _after, live: same_row(before, live),
    Fact.AFTER_IS_LIVE: lambda _before, after, live: same_row(after, live),
    Fact.ANY_TO_REPAIR: lambda *states: bool(_judge_columns(*states)[0]),
    Fact.ANY_TOUCHED: lambda *states: bool(_judge_columns(*states)[1]),
}
