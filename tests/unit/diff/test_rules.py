"""The table of rules by itself: complete, exclusive, meaningful; and what each class gets."""

from __future__ import annotations

import itertools

import pytest

from pitr.diff.decision import Decision, Question, build_decision
from pitr.vocabulary.row_class import (
    RULES,
    TREATMENTS,
    Action,
    ConflictPolicy,
    Fact,
    RowClass,
    Rule,
)

FACTS = tuple(Fact)
ROWS_OF = {
    Fact.BEFORE_IS_AFTER: {Fact.BEFORE_EXISTS, Fact.AFTER_EXISTS},
    Fact.BEFORE_IS_LIVE: {Fact.BEFORE_EXISTS, Fact.LIVE_EXISTS},
    Fact.AFTER_IS_LIVE: {Fact.AFTER_EXISTS, Fact.LIVE_EXISTS},
    Fact.ANY_TOUCHED: {Fact.BEFORE_EXISTS, Fact.AFTER_EXISTS, Fact.LIVE_EXISTS},
    Fact.ANY_TO_REPAIR: {Fact.BEFORE_EXISTS, Fact.AFTER_EXISTS, Fact.LIVE_EXISTS},
}


def test_rules_every_combination_of_facts_has_exactly_one() -> None:
    """Whatever is true of a row, one rule covers it and no second."""
    for answers in itertools.product((False, True), repeat=len(FACTS)):
        facts = frozenset(fact for fact, answer in zip(FACTS, answers, strict=True) if answer)
        matching = [rule.sentence for rule in RULES if rule.matches(facts)]

        assert len(matching) == 1, (sorted(facts), matching)


def test_rules_compare_only_rows_that_exist() -> None:
    """A rule asks for equality only between states in which it knows that there is a row."""
    for rule in RULES:
        for fact in (rule.holds | rule.fails) & ROWS_OF.keys():
            assert rule.holds >= ROWS_OF[fact], rule.sentence


def test_rules_without_after_ask_nothing_about_it() -> None:
    """Where the state after the damage is not known, no rule rests on it."""
    about_after = {fact for fact, rows in ROWS_OF.items() if Fact.AFTER_EXISTS in rows}
    about_after.add(Fact.AFTER_EXISTS)

    for rule in RULES:
        if Fact.AFTER_KNOWN in rule.fails:
            assert not (rule.holds | rule.fails) & about_after, rule.sentence


def test_rules_reach_every_class_with_sentences_of_their_own() -> None:
    """Each class follows from some rule and has a treatment; no two rules read alike."""
    assert {rule.row_class for rule in RULES} == set(RowClass) == set(TREATMENTS)
    assert len({rule.sentence for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("missing", range(len(RULES)))
def test_decision_with_a_rule_missing_is_refused(missing: int) -> None:
    """A table with a hole has no tree."""
    with pytest.raises(ValueError, match="0 rules"):
        build_decision(RULES[:missing] + RULES[missing + 1 :], FACTS)


@pytest.mark.parametrize("doubled", range(len(RULES)))
def test_decision_with_two_rules_for_one_case_is_refused(doubled: int) -> None:
    """A table with an overlap has no tree."""
    with pytest.raises(ValueError, match="2 rules"):
        build_decision((*RULES, RULES[doubled]), FACTS)


def leaves(decision: Decision) -> list[Rule]:
    if not isinstance(decision, Question):
        return [decision]
    return leaves(decision.yes) + leaves(decision.no)


def test_decision_has_each_rule_at_one_leaf() -> None:
    """The order of the facts fits the rules: no comparison is written out twice in the SQL."""
    found = leaves(build_decision(RULES, FACTS))

    assert sorted(rule.sentence for rule in found) == sorted(rule.sentence for rule in RULES)


# By class: without an option, under --update, under --delete-extra.
ACTIONS = {
    "lost": ("insert", "insert", "insert"),
    "already_back": ("nothing", "nothing", "nothing"),
    "key_reused": ("conflict", "conflict", "conflict"),
    "damaged": ("update", "update", "update"),
    "touched_since": ("conflict", "conflict", "conflict"),
    "deleted_since": ("skip", "skip", "skip"),
    "bogus_insert": ("skip", "skip", "delete"),
    "bogus_touched": ("skip", "skip", "conflict"),
    "differs": ("skip", "update", "skip"),
    "unrelated": ("nothing", "nothing", "nothing"),
}


@pytest.mark.parametrize("row_class", RowClass)
def test_treatment_under_each_option_is_the_promised_action(row_class: RowClass) -> None:
    """The options change what they name and nothing else."""
    treatment, abort = TREATMENTS[row_class], ConflictPolicy.ABORT
    plain, updating, deleting = ACTIONS[row_class]

    def action(*, update: bool, delete_extra: bool) -> str:
        return treatment.action_under(
            update=update, delete_extra=delete_extra, on_conflict=abort
        ).value

    assert action(update=False, delete_extra=False) == plain
    assert action(update=True, delete_extra=False) == updating
    assert action(update=False, delete_extra=True) == deleting
    assert action(update=True, delete_extra=True) == (updating if updating != plain else deleting)


@pytest.mark.parametrize("row_class", RowClass)
@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize("delete_extra", [False, True])
def test_policy_settles_conflicts_and_nothing_else(
    row_class: RowClass, update: bool, delete_extra: bool
) -> None:
    """Skip leaves each conflict aside; overwrite settles only two classes, and by an update."""
    treatment = TREATMENTS[row_class]
    by_policy = {
        policy: treatment.action_under(update=update, delete_extra=delete_extra, on_conflict=policy)
        for policy in ConflictPolicy
    }
    aborting = by_policy[ConflictPolicy.ABORT]
    if aborting is not Action.CONFLICT:
        assert set(by_policy.values()) == {aborting}
        return
    settled = row_class in (RowClass.KEY_REUSED, RowClass.TOUCHED_SINCE)

    assert by_policy[ConflictPolicy.SKIP] is Action.SKIP
    assert by_policy[ConflictPolicy.OVERWRITE] is (Action.UPDATE if settled else Action.CONFLICT)
