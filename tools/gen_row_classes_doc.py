"""Write docs/guides/row-classes.md from the rules in pitr/vocabulary/row_class.py.

python tools/gen_row_classes_doc.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pitr.vocabulary.row_class import (
    RULES,
    TREATMENTS,
    Action,
    ConflictPolicy,
    Fact,
    Rule,
    Treatment,
)

TARGET = Path(__file__).resolve().parent.parent / "docs" / "guides" / "row-classes.md"
HEAD = """\
# Row classes

Written by `make docs` from `pitr/vocabulary/row_class.py`. Do not edit.

`diff`, `plan`, `merge` and `undo` give every row exactly one class. It follows from up to three
states of the row: **before**, at the target; **after**, just after the damage (`--until`, or the
transaction that `revert` names; a plain `restore` does not know it); and **live**, now. The code
and this page are made from the same tables.

Rows are equal when every column has the same value and the same type. In SQLite integer `1` is
neither real `1.0` nor text `'1'`; only -0.0 counts as 0.0, because no comparison in SQL sees the
difference. In PostgreSQL two values are equal when they are written alike: `1.0` is not `1.00`, nor
`1 mon` `30 days`, nor `{"a":1}` `{"a": 1}` as json. In both, text is compared byte by byte whatever
the column's collation, and NULL is NULL. Keys alone match as the database matches them.
"""
ACTIONS_HEAD = """
## What a merge does

An update writes only the columns concerned: for `damaged` those that the damage changed and that
are still as it left them, for `differs` all that differ. What others wrote to other columns stays.

`conflict`: the merge writes nothing at all, unless `--on-conflict` says otherwise. `skip`: the row
is left as it is and reported. `nothing`: the row needs nothing. `--on-conflict overwrite` sets the
damaged columns, or the whole row that took the key, back to what they were; it never touches a row
with another key, and never deletes one.
"""
KNOWN_HEAD = """
## How the class is found when the state after the damage is known

A damaged column is one in which before and after differ. "any" means: whether there is a row or
not.
"""
UNKNOWN_HEAD = """
## How the class is found when it is not known

Then nobody can say whether a changed row was damaged or was rightly changed since. Give the state
after the damage with `--until`, or use `pitr revert`, to have it told apart.
"""


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    for cells in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(cells)} |"


def action_rows() -> Iterator[tuple[str, ...]]:
    """Yield one row a class: its meaning and what it gets under each option."""
    for row_class, treatment in TREATMENTS.items():
        options = "<br>".join(option_lines(treatment))
        yield f"`{row_class}`", treatment.meaning, str(treatment.action), options


def option_lines(treatment: Treatment) -> Iterator[str]:
    """Yield what an option changes in the action."""
    if treatment.with_update:
        yield f"`--update`: {treatment.with_update}"
    if treatment.with_delete_extra:
        yield f"`--delete-extra`: {treatment.with_delete_extra}"
    for policy in ConflictPolicy:
        action = treatment.action_under(update=True, delete_extra=True, on_conflict=policy)
        if policy is not ConflictPolicy.ABORT and can_conflict(treatment):
            yield f"`--on-conflict {policy}`: {action}"


def can_conflict(treatment: Treatment) -> bool:
    """Return whether some choice of options makes the class a conflict."""
    return Action.CONFLICT in (treatment.action, treatment.with_delete_extra)


def rule_rows(rules: list[Rule], states: dict[str, Fact]) -> Iterator[tuple[str, ...]]:
    """Yield one row a rule: which rows exist, what else is so, the class and the sentence."""
    for rule in rules:
        exists = (existence(rule, fact) for fact in states.values())
        yield *exists, comparison(rule), f"`{rule.row_class}`", rule.sentence


def existence(rule: Rule, fact: Fact) -> str:
    """Return what the rule asks of one state's row."""
    if fact in rule.holds:
        return "row"
    return "none" if fact in rule.fails else "any"


def comparison(rule: Rule) -> str:
    """Return what the rule asks beyond the existence of rows."""
    existing = {Fact.AFTER_KNOWN, Fact.BEFORE_EXISTS, Fact.AFTER_EXISTS, Fact.LIVE_EXISTS}
    asked = [fact for fact in Fact if fact in (rule.holds | rule.fails) - existing]
    return "<br>".join(f"{'yes' if fact in rule.holds else 'no'}: {fact}" for fact in asked)


def document() -> str:
    """Return the whole page."""
    states = {"before": Fact.BEFORE_EXISTS, "live": Fact.LIVE_EXISTS}
    all_states = {"before": Fact.BEFORE_EXISTS, "after": Fact.AFTER_EXISTS, "live": states["live"]}
    known = [rule for rule in RULES if Fact.AFTER_KNOWN in rule.holds]
    unknown = [rule for rule in RULES if Fact.AFTER_KNOWN in rule.fails]
    tail = ("and", "class", "in words")
    lines = [
        HEAD + ACTIONS_HEAD,
        *table(("class", "meaning", "by default", "with an option"), action_rows()),
        KNOWN_HEAD,
        *table((*all_states, *tail), rule_rows(known, all_states)),
        UNKNOWN_HEAD,
        *table((*states, *tail), rule_rows(unknown, states)),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(document())
