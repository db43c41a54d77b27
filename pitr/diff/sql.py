"""SQL that classifies a join of the states set by set, made from the same tree of rules.

Pure text: nothing here runs. A nested CASE asks each fact at most once a row, the cheap ones first,
so a row the damage left alone costs one comparison of before and after. AND and OR chains are
balanced: SQLite refuses expressions deeper than 1000, and a table may have 2000 columns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

from pitr.diff.decision import WITH_AFTER, WITHOUT_AFTER, Decision, Question
from pitr.vocabulary.row_class import Fact


@dataclass(frozen=True, slots=True)
class Dialect:
    """What an engine's SQL says differently.

    `equal` returns a condition in parentheses, never NULL, that holds exactly when two expressions
    have the same value and the same type: in SQLite integer 1 is neither real 1.0 nor text '1', in
    PostgreSQL 1.0 is not 1.00. NULL is NULL. In SQLite -0.0 is 0.0, since no operator of it tells
    them apart. `quote` makes a name an identifier.
    """

    equal: Callable[[str, str], str]
    quote: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class RowSource:
    """One state in the join: its alias, and a condition, never NULL, that its row exists."""

    alias: str
    present: str


@dataclass(frozen=True, slots=True)
class ClassSql:
    """Expressions over the join; each may be used alone, for every row of it.

    `row_class` gives the text of the class. `repair` and `touched` have one condition a column, in
    the order given: what `Verdict.repair_columns` and `Verdict.touched_columns` hold. Use them on
    the rows that `row_class` has picked: only that one costs little on rows the damage left alone.
    """

    row_class: str
    repair: tuple[str, ...]
    touched: tuple[str, ...]


def _sqlite_equal(left: str, right: str) -> str:
    # Without COLLATE a column's own collation would decide, and NOCASE would hide 'A' for 'a'.
    return f"({left} COLLATE BINARY IS {right} AND typeof({left}) = typeof({right}))"


def _double_quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _postgres_equal(left: str, right: str) -> str:
    # The values are images: of an exact type, or the text that the type's output function writes.
    return f"({left} IS NOT DISTINCT FROM {right})"


SQLITE = Dialect(equal=_sqlite_equal, quote=_double_quoted)
POSTGRES = Dialect(equal=_postgres_equal, quote=_double_quoted)


def class_sql(
    columns: Sequence[str],
    *,
    before: RowSource,
    after: RowSource | None,
    live: RowSource,
    dialect: Dialect,
    judged: Collection[str] | None = None,
    owned: Collection[str] = (),
) -> ClassSql:
    """Return the expressions for a full join of the states by key; `after` None: not known.

    `columns` names what is compared, alike in every source. Columns of the key may be left out only
    where the join makes them the same by the dialect's `equal`: a join under NOCASE does not.
    `judged` are those that count, all of them when None; a row that only the damage put in is
    compared whole all the same, since it can only go as a whole. `owned` are those that the
    database sets anew whenever a row is updated: another value there tells of no later work.
    """
    counts = [judged is None or column in judged for column in columns]
    if after is None:
        return _without_after(_Pair(columns, before, live, dialect), counts)
    return _with_after(
        before_after=_Pair(columns, before, after, dialect),
        before_live=_Pair(columns, before, live, dialect),
        after_live=_Pair(columns, after, live, dialect),
        counts=counts,
        lasting=[column not in owned for column in columns],
    )


class _Pair:
    """Two states side by side: their equality, column by column and as whole rows."""

    def __init__(
        self, columns: Sequence[str], left: RowSource, right: RowSource, dialect: Dialect
    ) -> None:
        self.left, self.right = left, right
        quote = dialect.quote
        self.equal = tuple(
            dialect.equal(
                f"{quote(left.alias)}.{quote(column)}", f"{quote(right.alias)}.{quote(column)}"
            )
            for column in columns
        )
        self.both = f"({left.present} AND {right.present})"

    def same(self, counts: Sequence[bool] | None = None) -> str:
        """Return the condition that the rows are equal in the columns that count, or in all."""
        chosen = self.equal if counts is None else tuple(compress(self.equal, counts))
        return _joined("AND", chosen, of_none="TRUE")


def _without_after(before_live: _Pair, counts: Sequence[bool]) -> ClassSql:
    facts = {
        Fact.BEFORE_EXISTS: before_live.left.present,
        Fact.LIVE_EXISTS: before_live.right.present,
        Fact.BEFORE_IS_LIVE: before_live.same(counts),
    }
    repair = [f"({before_live.both} AND NOT {equal})" for equal in before_live.equal]
    return ClassSql(
        row_class=_case(WITHOUT_AFTER, facts),
        repair=_only(repair, counts),
        touched=tuple("FALSE" for _ in before_live.equal),
    )


def _only(conditions: Sequence[str], counts: Sequence[bool]) -> tuple[str, ...]:
    """Return the conditions, FALSE for each column that does not count."""
    return tuple(
        one if is_counted else "FALSE" for one, is_counted in zip(conditions, counts, strict=True)
    )


def _with_after(
    *,
    before_after: _Pair,
    before_live: _Pair,
    after_live: _Pair,
    counts: Sequence[bool],
    lasting: Sequence[bool],
) -> ClassSql:
    columns = tuple(zip(before_after.equal, before_live.equal, after_live.equal, strict=True))
    # Equality is transitive: a damaged column that is still as after cannot be as before.
    repair = [f"(NOT {undamaged} AND {kept})" for undamaged, _, kept in columns]
    touched = [
        f"(NOT {undamaged} AND NOT {back} AND NOT {kept})" for undamaged, back, kept in columns
    ]
    told = [one and other for one, other in zip(counts, lasting, strict=True)]
    after_exists = after_live.left.present
    facts = {
        Fact.BEFORE_EXISTS: before_after.left.present,
        Fact.AFTER_EXISTS: after_exists,
        Fact.LIVE_EXISTS: before_live.right.present,
        Fact.BEFORE_IS_AFTER: before_after.same(counts),
        Fact.BEFORE_IS_LIVE: before_live.same(told),
        Fact.AFTER_IS_LIVE: after_live.same(),
        Fact.ANY_TO_REPAIR: _joined("OR", list(compress(repair, counts)), of_none="FALSE"),
        Fact.ANY_TOUCHED: _joined("OR", list(compress(touched, told)), of_none="FALSE"),
    }
    # Where the damage left no row, every column of another row under the key is newer.
    newer = [
        f"({before_live.both} AND CASE WHEN {after_exists} THEN {one} ELSE NOT {back} END)"
        for one, (_, back, _) in zip(touched, columns, strict=True)
    ]
    repairable = [f"({before_live.both} AND {after_exists} AND {one})" for one in repair]
    return ClassSql(
        row_class=_case(WITH_AFTER, facts),
        repair=_only(repairable, counts),
        touched=_only(newer, told),
    )


def _case(decision: Decision, facts: Mapping[Fact, str]) -> str:
    """Return the tree as a nested CASE that gives the text of the class."""
    if not isinstance(decision, Question):
        return f"'{decision.row_class}'"
    yes, no = _case(decision.yes, facts), _case(decision.no, facts)
    return f"CASE WHEN {facts[decision.fact]} THEN {yes} ELSE {no} END"


def _joined(word: str, parts: Sequence[str], *, of_none: str) -> str:
    """Return the parts joined by AND or OR, nested as a balanced tree."""
    if len(parts) < 2:
        return parts[0] if parts else of_none
    middle = len(parts) // 2
    left = _joined(word, parts[:middle], of_none=of_none)
    right = _joined(word, parts[middle:], of_none=of_none)
    return f"({left} {word} {right})"
