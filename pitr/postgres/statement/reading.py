"""A statement that only reads: is it one, and what does it name?

That a sidecar is not written and its machine not touched rests on the role that asks it, which may
do neither. What is refused here is refused early and in plain words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pglast import ast, parse_sql
from pglast.parser import ParseError
from pglast.visitors import referenced_relations

from pitr.errors import UsageError

_HINT = "Give one SELECT, as psql would take it."
_WRITING = (
    ast.InsertStmt,
    ast.UpdateStmt,
    ast.DeleteStmt,
    ast.MergeStmt,
    ast.IntoClause,
    ast.LockingClause,
)
# Functions that reach files, other servers or other sessions, whoever calls them.
_REACHING_OUT = re.compile(
    r"dblink\w*|lo_(?:import|export)|pg_(?:read_(?:binary_)?file|stat_file|ls_\w+|file_\w+)"
    r"|pg_(?:terminate|cancel)_backend|pg_(?:reload_conf|rotate_logfile|promote|switch_wal)"
    r"|pg_(?:create_restore_point|backup_start|backup_stop|start_backup|stop_backup)"
    r"|pg_(?:logical|replication)_\w+|pg_(?:create|drop|copy)_\w*replication_slot"
)
_COPY = (
    "COPY moves rows from and to files and programs of the machine: 'pitr sql' prints what a "
    "SELECT finds, as CSV where it is no terminal."
)


@dataclass(frozen=True, slots=True)
class Named:
    """What an SQL text names: relations as SQL writes them, and (schema or None, function)."""

    relations: frozenset[str]
    functions: frozenset[tuple[str | None, str]]


def read_statement(text: str) -> Named:
    """Return what one reading statement names.

    Names of WITH are left out. Raises UsageError for a text that PostgreSQL's parser refuses, and
    for one that is not one SELECT, VALUES, TABLE or EXPLAIN of one, or that would do more.
    """
    try:
        statements = parse_sql(text)
    except ParseError as error:
        raise UsageError(
            "the statement is not understood", detail=f"{_said(error)}.", hint=_HINT
        ) from None
    except UnicodeEncodeError:
        raise UsageError(
            "the statement is not understood", detail="It has bytes that are no UTF-8.", hint=_HINT
        ) from None
    if len(statements) != 1:
        raise UsageError(
            f"this is not one statement but {len(statements)}" if statements else "it is empty",
            hint=_HINT,
        )
    statement = statements[0].stmt
    asked = statement.query if isinstance(statement, ast.ExplainStmt) else statement
    if not isinstance(asked, ast.SelectStmt):
        raise _refusal(asked)
    for node in nodes_of(asked):
        if isinstance(node, _WRITING):
            raise _refusal(node)
    return names_of(asked)


def names_of(statement: ast.Node, *, may_reach_out: bool = False) -> Named:
    """Return what a statement names.

    Raises UsageError for a function that reaches outside, unless that is somebody else's to stop.
    """
    functions = set()
    for node in nodes_of(statement):
        if isinstance(node, ast.FuncCall):
            *schema, name = (part.sval for part in node.funcname or ())
            if not may_reach_out and _REACHING_OUT.fullmatch(name):
                raise UsageError(
                    f"{name} may not be called",
                    detail="It reaches beyond the database: to files, servers or sessions.",
                    hint="Leave it out: only rows can be asked for.",
                )
            functions.add((schema[-1] if schema else None, name))
    return Named(frozenset(referenced_relations(statement)), frozenset(functions))


def nodes_of(node: ast.Node | tuple[object, ...]) -> Iterator[ast.Node]:
    """Yield a node and all below it."""
    todo: list[object] = [node]
    while todo:
        found = todo.pop()
        if isinstance(found, ast.Node):
            yield found
            todo += [getattr(found, member) for member in found]
        elif isinstance(found, tuple):
            todo += found


def _refusal(node: object) -> UsageError:
    word = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(node).__name__.removesuffix("Stmt")).upper()
    seen = {
        "COPY": _COPY,
        "INTO CLAUSE": "SELECT INTO makes a table.",
        "LOCKING CLAUSE": "FOR UPDATE and its kin lock rows, which is writing.",
    }
    return UsageError(
        "the past can be read only",
        detail=seen.get(word, f"This is {word}."),
        hint=_HINT,
    )


def _said(error: ParseError) -> str:
    """Return the parser's words; its place is the second argument, where there is one."""
    message, *place = error.args
    at = f" at character {place[0] + 1}" if place and isinstance(place[0], int) else ""
    return f"{message}{at}"
