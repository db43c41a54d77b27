"""The rules of three-way repair, as data: what the three states of a row come to, and what to do.

Before is the row at the target, after the row just after the damage, live the row now. A rule names
the facts that must hold or must not, and the class that follows; a treatment says what each class
gets under which option. The rules are complete and exclusive over every combination of facts.
The SQL (`pitr.diff.sql`) and docs/guides/row-classes.md are both made from these tables; nothing
else decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RowClass(StrEnum):
    """What became of one row. The text is what JSON, tables and options show."""

    LOST = "lost"
    ALREADY_BACK = "already_back"
    KEY_REUSED = "key_reused"
    DAMAGED = "damaged"
    TOUCHED_SINCE = "touched_since"
    DELETED_SINCE = "deleted_since"
    BOGUS_INSERT = "bogus_insert"
    BOGUS_TOUCHED = "bogus_touched"
    DIFFERS = "differs"
    UNRELATED = "unrelated"


class Action(StrEnum):
    """What a merge does with one row.

    `nothing` finds the row as it should be; `skip` leaves aside a row that differs and reports it;
    `conflict` keeps the whole merge from being run.
    """

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    NOTHING = "nothing"
    SKIP = "skip"
    CONFLICT = "conflict"


class ConflictPolicy(StrEnum):
    """What `--on-conflict` asks for."""

    ABORT = "abort"
    SKIP = "skip"
    OVERWRITE = "overwrite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Treatment:
    """What one class of rows gets: `action`, or what takes its place under an option."""

    meaning: str
    action: Action
    with_update: Action | None = None
    with_delete_extra: Action | None = None
    with_overwrite: Action | None = None

    def action_under(
        self, *, update: bool, delete_extra: bool, on_conflict: ConflictPolicy
    ) -> Action:
        """Return the action under the options of one merge. Policies only settle conflicts."""
        action = self.action
        if update and self.with_update:
            action = self.with_update
        if delete_extra and self.with_delete_extra:
            action = self.with_delete_extra
        if action is not Action.CONFLICT or on_conflict is ConflictPolicy.ABORT:
            return action
        if on_conflict is ConflictPolicy.SKIP:
            return Action.SKIP
        return self.with_overwrite or Action.CONFLICT


TREATMENTS = {
    RowClass.LOST: Treatment(
        meaning="The row is gone and its key is free.",
        action=Action.INSERT,
    ),
    RowClass.ALREADY_BACK: Treatment(
        meaning="Nothing is left of the damage.",
        action=Action.NOTHING,
    ),
    RowClass.KEY_REUSED: Treatment(
        meaning="The row was lost, and another row now has its key.",
        action=Action.CONFLICT,
        with_overwrite=Action.UPDATE,
    ),
    RowClass.DAMAGED: Treatment(
        meaning="Some columns were changed and nobody has written them since.",
        action=Action.UPDATE,
    ),
    RowClass.TOUCHED_SINCE: Treatment(
        meaning="Some columns were changed by the damage and written again since.",
        action=Action.CONFLICT,
        with_overwrite=Action.UPDATE,
    ),
    RowClass.DELETED_SINCE: Treatment(
        meaning="The row was damaged, and was deleted since by somebody else.",
        action=Action.SKIP,
    ),
    RowClass.BOGUS_INSERT: Treatment(
        meaning="The damage put the row in, and nobody has written it since.",
        action=Action.SKIP,
        with_delete_extra=Action.DELETE,
    ),
    RowClass.BOGUS_TOUCHED: Treatment(
        meaning="The damage put the row in, and it was written since.",
        action=Action.SKIP,
        with_delete_extra=Action.CONFLICT,
    ),
    RowClass.DIFFERS: Treatment(
        meaning="The row has changed; whether by the damage or by later work is not known.",
        action=Action.SKIP,
        with_update=Action.UPDATE,
    ),
    RowClass.UNRELATED: Treatment(
        meaning="There is no damage to repair in the row.",
        action=Action.NOTHING,
    ),
}


class Fact(StrEnum):
    """A question about the three states of one row, with its text for people.

    The order is the order of asking: cheap before dear, and each fact only where those before it
    make it meaningful. Rows are equal when every column is, in value and type.
    """

    AFTER_KNOWN = "the state after the damage is known"
    BEFORE_EXISTS = "there was a row before"
    AFTER_EXISTS = "there was a row after"
    BEFORE_IS_AFTER = "before and after are equal"
    LIVE_EXISTS = "there is a live row"
    BEFORE_IS_LIVE = "before and live are equal"
    AFTER_IS_LIVE = "after and live are equal"
    ANY_TOUCHED = "some damaged column is neither as before nor as after"
    ANY_TO_REPAIR = "some damaged column is still as after"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: when all of `holds` and none of `fails` is so, the class follows."""

    row_class: RowClass
    sentence: str
    holds: frozenset[Fact]
    fails: frozenset[Fact]

    def matches(self, facts: frozenset[Fact]) -> bool:
        """Return whether the rule covers a row of which exactly these facts hold."""
        return self.holds <= facts and not self.fails & facts


def _rule(
    row_class: RowClass, sentence: str, *, holds: tuple[Fact, ...] = (), fails: tuple[Fact, ...]
) -> Rule:
    return Rule(row_class, sentence, frozenset(holds), frozenset(fails))


_REMOVED = (Fact.AFTER_KNOWN, Fact.BEFORE_EXISTS)
_CHANGED = (Fact.AFTER_KNOWN, Fact.BEFORE_EXISTS, Fact.AFTER_EXISTS)
_ADDED = (Fact.AFTER_KNOWN, Fact.AFTER_EXISTS)

RULES = (
    # The damage removed the row.
    _rule(
        RowClass.LOST,
        "The damage removed the row and it is still missing.",
        holds=_REMOVED,
        fails=(Fact.AFTER_EXISTS, Fact.LIVE_EXISTS),
    ),
    _rule(
        RowClass.ALREADY_BACK,
        "The damage removed the row and it has come back as it was.",
        holds=(*_REMOVED, Fact.LIVE_EXISTS, Fact.BEFORE_IS_LIVE),
        fails=(Fact.AFTER_EXISTS,),
    ),
    _rule(
        RowClass.KEY_REUSED,
        "The damage removed the row and a different row has taken its key.",
        holds=(*_REMOVED, Fact.LIVE_EXISTS),
        fails=(Fact.AFTER_EXISTS, Fact.BEFORE_IS_LIVE),
    ),
    # The damage changed the row: each damaged column is judged by itself.
    _rule(
        RowClass.DELETED_SINCE,
        "The damage changed the row and later work deleted it.",
        holds=_CHANGED,
        fails=(Fact.BEFORE_IS_AFTER, Fact.LIVE_EXISTS),
    ),
    _rule(
        RowClass.TOUCHED_SINCE,
        "The damage changed the row and later work wrote a damaged column again.",
        holds=(*_CHANGED, Fact.LIVE_EXISTS, Fact.ANY_TOUCHED),
        fails=(Fact.BEFORE_IS_AFTER,),
    ),
    _rule(
        RowClass.DAMAGED,
        "The damage changed the row and at least one damaged column is still as it left it.",
        holds=(*_CHANGED, Fact.LIVE_EXISTS, Fact.ANY_TO_REPAIR),
        fails=(Fact.BEFORE_IS_AFTER, Fact.ANY_TOUCHED),
    ),
    _rule(
        RowClass.ALREADY_BACK,
        "The damage changed the row and every damaged column is as before again.",
        holds=(*_CHANGED, Fact.LIVE_EXISTS),
        fails=(Fact.BEFORE_IS_AFTER, Fact.ANY_TOUCHED, Fact.ANY_TO_REPAIR),
    ),
    # The damage put the row in.
    _rule(
        RowClass.ALREADY_BACK,
        "The damage put the row in and it is gone again.",
        holds=_ADDED,
        fails=(Fact.BEFORE_EXISTS, Fact.LIVE_EXISTS),
    ),
    _rule(
        RowClass.BOGUS_INSERT,
        "The damage put the row in and it is still as the damage left it.",
        holds=(*_ADDED, Fact.LIVE_EXISTS, Fact.AFTER_IS_LIVE),
        fails=(Fact.BEFORE_EXISTS,),
    ),
    _rule(
        RowClass.BOGUS_TOUCHED,
        "The damage put the row in and later work changed it.",
        holds=(*_ADDED, Fact.LIVE_EXISTS),
        fails=(Fact.BEFORE_EXISTS, Fact.AFTER_IS_LIVE),
    ),
    # The damage did nothing to the row, whatever it is now.
    _rule(
        RowClass.UNRELATED,
        "The damage left the row alone.",
        holds=(*_CHANGED, Fact.BEFORE_IS_AFTER),
        fails=(),
    ),
    _rule(
        RowClass.UNRELATED,
        "There was no row of this key before the damage and none after it.",
        holds=(Fact.AFTER_KNOWN,),
        fails=(Fact.BEFORE_EXISTS, Fact.AFTER_EXISTS),
    ),
    # Without the state after the damage, only a missing row can be told from later work.
    _rule(
        RowClass.LOST,
        "The row is missing.",
        holds=(Fact.BEFORE_EXISTS,),
        fails=(Fact.AFTER_KNOWN, Fact.LIVE_EXISTS),
    ),
    _rule(
        RowClass.UNRELATED,
        "The row is as it was.",
        holds=(Fact.BEFORE_EXISTS, Fact.LIVE_EXISTS, Fact.BEFORE_IS_LIVE),
        fails=(Fact.AFTER_KNOWN,),
    ),
    _rule(
        RowClass.DIFFERS,
        "The row is not as it was.",
        holds=(Fact.BEFORE_EXISTS, Fact.LIVE_EXISTS),
        fails=(Fact.AFTER_KNOWN, Fact.BEFORE_IS_LIVE),
    ),
    _rule(
        RowClass.UNRELATED,
        "There was no such row, so there is nothing to bring back.",
        fails=(Fact.AFTER_KNOWN, Fact.BEFORE_EXISTS),
    ),
)
