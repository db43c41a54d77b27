"""The findings of a SQL text for PostgreSQL: its acts, and what they reach by the catalog."""

from __future__ import annotations

from collections.abc import Iterator

from pitr.postgres.guard.acts import Act, Statement, statements_of
from pitr.postgres.guard.cascade import Cascades
from pitr.postgres.guard.script import plain_sql
from pitr.postgres.tables.name import TableName
from pitr.vocabulary.statement_finding import Severity, StatementFinding

# Where the catalog has what is dropped; tables stand in pg_class.
_CLASSES = {
    "drop_table": "pg_class",
    "drop_foreign_table": "pg_class",
    "drop_schema": "pg_namespace",
    "drop_type": "pg_type",
    "drop_extension": "pg_extension",
}
_UNKNOWN_REACH = "; which tables CASCADE reaches is not known without the source"


def check(text: str, cascades: Cascades | None) -> list[StatementFinding]:
    """Return the findings of a text in the order of its statements; nothing is run.

    Without `cascades` only the text is looked at. Raises UsageError for what is no SQL.
    """
    sql, commands = plain_sql(text)
    found = [
        finding
        for statement in statements_of(sql)
        for act in statement.acts
        for finding in _findings(statement, act, cascades)
    ]
    for command in commands:
        message = "what psql runs by this is not seen"
        found.append(
            StatementFinding(command.begin, command.text, "opaque", Severity.WARNING, message)
        )
    return sorted(found, key=lambda finding: finding.begin)


def _findings(
    statement: Statement, act: Act, cascades: Cascades | None
) -> Iterator[StatementFinding]:
    at = (statement.begin, statement.text)
    if act.kind == "function":
        if cascades is None or (act.name and cascades.may_write(*act.name)):
            yield StatementFinding(*at, "opaque", act.severity, act.message)
        return
    is_table = _CLASSES.get(act.kind, "pg_class") == "pg_class"
    oid = cascades.find(*act.name) if cascades and act.name and is_table else None
    message = act.message
    if act.has_cascade and cascades is None:
        message += _UNKNOWN_REACH
    yield StatementFinding(*at, act.kind, act.severity, message, _shown(act, cascades, oid))
    if cascades is None or act.name is None:
        return
    if act.has_cascade and act.kind in _CLASSES:
        yield from _dropped(at, act, cascades, oid)
    if oid is not None and act.kind in ("delete", "merge", "truncate", "update", "overwrite"):
        yield from _reached(at, act, cascades, oid)


def _shown(act: Act, cascades: Cascades | None, oid: int | None) -> str | None:
    """Return the table of a finding as the catalog spells it, or else as the text does."""
    if act.name is None or _CLASSES.get(act.kind, "pg_class") != "pg_class":
        return None
    if cascades is not None and oid is not None:
        return str(cascades.table(oid).table)
    schema, name = act.name
    return str(TableName(schema, name)) if schema else str(TableName("x", name)).partition(".")[2]


def _dropped(
    at: tuple[int, str], act: Act, cascades: Cascades, oid: int | None
) -> Iterator[StatementFinding]:
    assert act.name is not None
    own = cascades.table(oid).table if oid is not None else None
    things = cascades.dropped(_CLASSES[act.kind], *act.name)
    whole = {thing.table for thing in things if thing.column is None}
    for thing in things:
        if thing.table == own or (thing.column is not None and thing.table in whole):
            continue
        if thing.column is not None:
            message = f"CASCADE drops the column {thing.column}"
            yield StatementFinding(*at, "drop_column", Severity.ERROR, message, str(thing.table))
        else:
            severity = Severity.NOTE if thing.kind == "m" else Severity.ERROR
            yield StatementFinding(
                *at, "drop_table", severity, "CASCADE drops it as well", str(thing.table)
            )


def _reached(
    at: tuple[int, str], act: Act, cascades: Cascades, oid: int
) -> Iterator[StatementFinding]:
    reached = []
    if act.kind == "truncate":
        reached = list(
            cascades.truncated(oid, has_cascade=act.has_cascade, has_children=act.has_children)
        )
    elif act.kind in ("delete", "merge"):
        reached = list(cascades.deleted(oid, has_children=act.has_children))
    for one in reached:
        severity = Severity.WARNING if one.kind == "update" else act.severity
        yield StatementFinding(*at, one.kind, severity, f"reached by {one.way}", str(one.table))
    triggers = cascades.table(oid).triggers
    if triggers:
        message = f"fires {', '.join(triggers)}, and what triggers do is not seen"
        yield StatementFinding(
            *at, "opaque", Severity.NOTE, message, str(cascades.table(oid).table)
        )
