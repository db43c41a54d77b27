"""What a statement does to tables, by PostgreSQL's own parser. Pure: text in, acts out.

Not seen: what functions, triggers, rules and DO bodies do, and which tables CASCADE reaches. The
parser is that of PostgreSQL 18, which takes the SQL of older versions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pglast import ast, enums, parse_sql
from pglast.parser import ParseError
from pglast.visitors import Skip, Visitor

from pitr.errors import UsageError
from pitr.vocabulary.statement_finding import Severity

_DROPS = {
    enums.ObjectType.OBJECT_TABLE: "drop_table",
    enums.ObjectType.OBJECT_FOREIGN_TABLE: "drop_foreign_table",
    enums.ObjectType.OBJECT_SCHEMA: "drop_schema",
    enums.ObjectType.OBJECT_TYPE: "drop_type",
    enums.ObjectType.OBJECT_DOMAIN: "drop_type",
    enums.ObjectType.OBJECT_EXTENSION: "drop_extension",
}
_CASCADE = enums.DropBehavior.DROP_CASCADE
_REWRITES = (enums.AlterTableType.AT_SetLogged, enums.AlterTableType.AT_SetUnLogged)
# Functions that everybody calls and that write no row. Any other one may be somebody's own.
_HARMLESS = frozenset(
    re.findall(
        r"\w+",
        "abs array_agg array_length avg ceil char_length clock_timestamp coalesce concat count "
        "current_database current_schema current_setting currval date_part date_trunc extract "
        "floor format gen_random_uuid generate_series greatest json_agg json_build_object "
        "jsonb_agg jsonb_build_object lag lastval lead least left length lower lpad ltrim max md5 "
        "min mod nextval now nullif pg_sleep position pg_get_serial_sequence random rank "
        "regexp_replace repeat replace right round row_number rtrim set_config setval split_part "
        "string_agg strpos substr substring sum timezone to_char to_date to_jsonb to_json "
        "to_number to_regclass to_timestamp to_tsvector trim trunc txid_current unnest upper "
        "version ",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One thing that a statement does. `name` is schema (or None) and name of what it is done to.

    `has_cascade` says that CASCADE takes along what is not named; `has_children`, that tables which
    inherit are meant too.
    """

    kind: str
    severity: Severity
    message: str
    name: tuple[str | None, str] | None = None
    has_cascade: bool = False
    has_children: bool = True


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a text, where it begins, what it does, and what the parser made of it."""

    begin: int
    text: str
    acts: tuple[Act, ...]
    node: ast.Node


def statements_of(sql: str) -> Iterator[Statement]:
    """Yield the statements of a text, each with its acts.

    What is done to a table that the text itself made before is no act. Raises UsageError for what
    is no SQL of PostgreSQL's.
    """
    try:
        parsed = parse_sql(sql)
    except ParseError as error:
        message, place = (*error.args, 0)[:2]
        line = sql.count("\n", 0, int(place or 0)) + 1
        raise UsageError(
            f"this is no SQL that PostgreSQL understands, in line {line}: {message}",
            hint="Variables of psql and other templates have to be filled in before.",
        ) from None
    made: set[tuple[str | None, str]] = set()
    for raw in parsed:
        assert raw.stmt is not None
        begin = raw.stmt_location or 0
        text = sql[begin : begin + raw.stmt_len] if raw.stmt_len else sql[begin:]
        visitor = _Acts(made)
        visitor(raw.stmt)
        text = text.strip().rstrip(";").rstrip()
        yield Statement(begin, text, tuple(visitor.found), raw.stmt)


def _name(relation: Any) -> tuple[str | None, str]:
    return relation.schemaname, relation.relname


@dataclass
class _Acts(Visitor):
    """Collects the acts of one statement; `made` are the tables made so far, and grows."""

    made: set[tuple[str | None, str]]
    found: list[Act] = field(default_factory=list)

    def _add(
        self,
        kind: str,
        severity: Severity,
        message: str,
        name: tuple[str | None, str] | None = None,
        *,
        has_cascade: bool = False,
        has_children: bool = True,
    ) -> None:
        if name is None or name not in self.made:
            self.found.append(
                Act(
                    kind=kind,
                    severity=severity,
                    message=message,
                    name=name,
                    has_cascade=has_cascade,
                    has_children=has_children,
                )
            )

    # --- rows ------------------------------------------------------------------------------------

    def visit_DeleteStmt(self, _: Any, node: Any) -> None:  # noqa: N802
        self._rows("delete", node.relation, has_where=node.whereClause is not None)

    def visit_UpdateStmt(self, _: Any, node: Any) -> None:  # noqa: N802
        self._rows("update", node.relation, has_where=node.whereClause is not None)

    def _rows(self, kind: str, relation: Any, *, has_where: bool) -> None:
        severity = Severity.WARNING if has_where else Severity.ERROR
        which = "rows that its WHERE finds" if has_where else "every row: it has no WHERE"
        self._add(kind, severity, f"{kind}s {which}", _name(relation), has_children=relation.inh)

    def visit_InsertStmt(self, _: Any, node: Any) -> None:  # noqa: N802
        conflict = node.onConflictClause
        if conflict and conflict.action == enums.OnConflictAction.ONCONFLICT_UPDATE:
            message = "overwrites rows that are there: ON CONFLICT DO UPDATE"
            self._add("overwrite", Severity.WARNING, message, _name(node.relation))

    def visit_MergeStmt(self, _: Any, node: Any) -> None:  # noqa: N802
        words = {enums.CmdType.CMD_DELETE: "deletes", enums.CmdType.CMD_UPDATE: "updates"}
        done = [words[c.commandType] for c in node.mergeWhenClauses if c.commandType in words]
        if done:
            message = f"{' and '.join(sorted(set(done)))} rows that match"
            self._add("merge", Severity.WARNING, message, _name(node.relation))

    def visit_TruncateStmt(self, _: Any, node: Any) -> None:  # noqa: N802
        for relation in node.relations:
            self._add(
                "truncate",
                Severity.ERROR,
                "takes every row",
                _name(relation),
                has_cascade=node.behavior == _CASCADE,
                has_children=relation.inh,
            )

    # --- definitions -----------------------------------------------------------------------------

    def visit_DropStmt(self, _: Any, node: Any) -> None:  # noqa: N802
        has_cascade = node.behavior == _CASCADE
        kind = _DROPS.get(node.removeType)
        if kind is None or (kind not in ("drop_table", "drop_foreign_table") and not has_cascade):
            return  # without rows, or refused while anything rests on it
        for item in node.objects:
            words: Any = item.names if isinstance(item, ast.TypeName) else item
            words = (words,) if isinstance(words, ast.String) else words
            *schema, name = [word.sval for word in words][-2:]
            what = kind.removeprefix("drop_").replace("_", " ")
            message = f"drops the {what} with all of its rows"
            if kind not in ("drop_table", "drop_foreign_table"):
                message = f"drops the {what} {name}, and with CASCADE all that rests on it"
            where = (schema[0] if schema else None, name)
            self._add(kind, Severity.ERROR, message, where, has_cascade=has_cascade)

    def visit_DropdbStmt(self, _: Any, node: Any) -> None:  # noqa: N802
        self._add("drop_database", Severity.ERROR, f"drops the database {node.dbname}")

    def visit_DropOwnedStmt(self, _: Any, node: Any) -> None:  # noqa: N802
        self._add("drop_owned", Severity.ERROR, "drops everything that the role owns")

    def visit_AlterTableStmt(self, _: Any, node: Any) -> type[Skip]:  # noqa: N802
        name = _name(node.relation)
        for command in node.cmds:
            kind = command.subtype
            if kind == enums.AlterTableType.AT_DropColumn:
                self._add("drop_column", Severity.ERROR, f"drops the column {command.name}", name)
            elif kind == enums.AlterTableType.AT_AlterColumnType:
                message = f"changes the type of {command.name}: values are computed anew"
                self._add("alter_type", Severity.WARNING, message, name)
            elif kind in _REWRITES:
                self._add("rewrite", Severity.NOTE, "writes every row anew", name)
            elif kind == enums.AlterTableType.AT_DetachPartition:
                message = "takes the rows of a partition out of the table"
                self._add("detach", Severity.NOTE, message, name)
        return Skip

    def visit_VacuumStmt(self, _: Any, node: Any) -> None:  # noqa: N802
        if any(option.defname == "full" for option in node.options or ()):
            for item in node.rels or ():
                self._add("rewrite", Severity.NOTE, "writes every row anew", _name(item.relation))

    def visit_ClusterStmt(self, _: Any, node: Any) -> None:  # noqa: N802
        if node.relation:
            self._add("rewrite", Severity.NOTE, "writes every row anew", _name(node.relation))

    # --- what the text makes itself --------------------------------------------------------------

    def visit_CreateStmt(self, _: Any, node: Any) -> type[Skip]:  # noqa: N802
        if not node.if_not_exists:
            self.made.add(_name(node.relation))
        return Skip

    def visit_IntoClause(self, _: Any, node: Any) -> None:  # noqa: N802
        self.made.add(_name(node.rel))

    def visit_RenameStmt(self, _: Any, node: Any) -> None:  # noqa: N802
        is_table = node.renameType == enums.ObjectType.OBJECT_TABLE
        if is_table and node.relation and _name(node.relation) in self.made:
            self.made.add((node.relation.schemaname, node.newname))

    # --- what cannot be seen ---------------------------------------------------------------------

    def visit_DoStmt(self, _: Any, node: Any) -> None:  # noqa: N802
        self._add("opaque", Severity.WARNING, "what a DO body does is not seen")

    def visit_CallStmt(self, _: Any, node: Any) -> None:  # noqa: N802
        called = ".".join(part.sval for part in node.funccall.funcname)
        self._add("opaque", Severity.WARNING, f"what the procedure {called} does is not seen")

    def visit_ExecuteStmt(self, _: Any, node: Any) -> None:  # noqa: N802
        self._add("opaque", Severity.WARNING, f"runs the prepared statement {node.name}")

    def visit_FuncCall(self, ancestors: Any, node: Any) -> None:  # noqa: N802
        parts = [part.sval for part in node.funcname]
        is_builtin = parts[:-1] == ["pg_catalog"] or (len(parts) == 1 and parts[0] in _HARMLESS)
        if not is_builtin and not isinstance(ancestors.node, ast.CallStmt):
            message = f"what the function {'.'.join(parts)} does is not seen"
            where = (parts[0] if len(parts) > 1 else None, parts[-1])
            self.found.append(
                Act(kind="function", severity=Severity.WARNING, message=message, name=where)
            )

    # --- what is only defined here, and runs later -----------------------------------------------

    def visit_RuleStmt(self, _: Any, node: Any) -> type[Skip]:  # noqa: N802
        return Skip

    visit_ViewStmt = visit_IndexStmt = visit_CreateTrigStmt = visit_RuleStmt  # noqa: N815
    visit_CreateFunctionStmt = visit_RuleStmt  # noqa: N815
    visit_CreateDomainStmt = visit_CreatePolicyStmt = visit_RuleStmt  # noqa: N815

    def visit_ExplainStmt(self, _: Any, node: Any) -> type[Skip] | None:  # noqa: N802
        runs = any(option.defname == "analyze" for option in node.options or ())
        return None if runs else Skip
