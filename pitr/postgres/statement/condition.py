"""A condition on the rows of one table, as it could stand after WHERE."""

from __future__ import annotations

from dataclasses import dataclass

from pglast import ast, parse_sql
from pglast.parser import ParseError
from pglast.stream import RawStream
from pglast.visitors import Visitor

from pitr.errors import UsageError

_HINT = "Give what could stand after WHERE: one condition on the columns of the table."
_ELSEWHERE = ("sortClause", "groupClause", "havingClause", "limitCount", "limitOffset")
_SETS = ("lockingClause", "windowClause", "larg", "fromClause", "intoClause")


@dataclass(frozen=True, slots=True)
class Condition:
    """One boolean expression that is asked of a row by itself.

    `text` is what the user wrote, `normal` the same as the parser understood it. `columns` are the
    columns that it names, None when it may need all of them (`t.*`, or the row as a whole).
    """

    text: str
    normal: str
    columns: frozenset[str] | None


def parse_condition(text: str) -> Condition:
    """Take a condition apart.

    Raises UsageError for anything but one expression, and for sub-selects and parameters. What the
    names mean, and whether it is boolean, is not judged: that takes the table.
    """
    try:
        # On a line of its own, so that a comment in it ends with it.
        statements = parse_sql(f"SELECT WHERE\n{text}\n")
    except ParseError as error:
        raise UsageError(
            f"the condition is not understood: {text!r}", detail=f"{error}.", hint=_HINT
        ) from None
    select = statements[0].stmt if len(statements) == 1 else None
    if not isinstance(select, ast.SelectStmt) or any(
        getattr(select, clause) for clause in (*_ELSEWHERE, *_SETS)
    ):
        raise UsageError(
            f"this is more than a condition: {text!r}",
            detail="It goes on with another clause or statement.",
            hint=_HINT,
        )
    expression = select.whereClause
    assert expression is not None, "the parser wants one after WHERE"
    names = _Names()
    names(expression)
    if names.refused:
        raise UsageError(
            f"the condition cannot be asked of a row by itself: {text!r}",
            detail=f"It has {names.refused}.",
            hint=_HINT,
        )
    return Condition(text, str(RawStream()(expression)), names.columns())


class _Names(Visitor):
    """Collects the columns that an expression names, and what it may not have."""

    def __init__(self) -> None:
        self._names: set[str] | None = set()
        self.refused = ""

    def columns(self) -> frozenset[str] | None:
        """Return the columns, None when they cannot be told."""
        return None if self._names is None else frozenset(self._names)

    def visit_ColumnRef(self, _ancestors: object, node: ast.ColumnRef) -> None:  # noqa: N802
        last = (node.fields or ())[-1]
        if not isinstance(last, ast.String) or last.sval is None:
            self._names = None
        elif self._names is not None:
            self._names.add(last.sval)

    def visit_SubLink(self, _ancestors: object, _node: ast.SubLink) -> None:  # noqa: N802
        self.refused = "a sub-select"

    def visit_ParamRef(self, _ancestors: object, _node: ast.ParamRef) -> None:  # noqa: N802
        self.refused = "a parameter"
