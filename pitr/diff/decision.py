"""The rules as a tree of questions, so that each fact is asked once and only where it matters.

Both classifiers walk this one tree: Python row by row, SQL as a nested CASE. A table of rules that
is not complete or not exclusive has no tree, so a faulty table cannot even be imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pitr.vocabulary.row_class import RULES, Fact, Rule


@dataclass(frozen=True, slots=True)
class Question:
    """A fact, and how to go on when it holds and when not."""

    fact: Fact
    yes: Decision
    no: Decision


Decision = Question | Rule


def build_decision(rules: Sequence[Rule], facts: Sequence[Fact]) -> Decision:
    """Return the tree that asks the facts in their order and leaves out what no rule asks.

    Raises ValueError when some combination of facts is covered by no rule, or by several.
    """
    asked = [fact for fact in facts if any(fact in rule.holds | rule.fails for rule in rules)]
    if not asked:
        if len(rules) != 1:
            raise ValueError(f"{len(rules)} rules cover one case: {[r.sentence for r in rules]}")
        return rules[0]
    fact, *later = asked
    return Question(
        fact,
        yes=build_decision([rule for rule in rules if fact not in rule.fails], later),
        no=build_decision([rule for rule in rules if fact not in rule.holds], later),
    )


_FACTS = tuple(fact for fact in Fact if fact is not Fact.AFTER_KNOWN)
WITH_AFTER = build_decision([rule for rule in RULES if Fact.AFTER_KNOWN in rule.holds], _FACTS)
WITHOUT_AFTER = build_decision([rule for rule in RULES if Fact.AFTER_KNOWN in rule.fails], _FACTS)
