"""Rows of other tables that belong to the lost ones, by the foreign keys of the state before.

Upwards: the parents that rows of the plan name and that are not there any more. Downwards: the
children that went with a parent (ON DELETE CASCADE), or that forgot it (SET NULL, SET DEFAULT).
A table of the kin is staged and classified like one that was asked for; then only the rows stay
that foreign keys lead to. Whether the damage took a parent is not asked: a row that names it needs
it; so its table is classified without the state after the damage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pitr.errors import UsageError
from pitr.merge.rules import actions_of
from pitr.postgres.diff.alignment import BEFORE, AlignedTable
from pitr.postgres.diff.candidates import Limits
from pitr.postgres.diff.classified import (
    ClassifiedTable,
    class_counts,
    classify,
    classify_again,
    classify_table,
)
from pitr.postgres.diff.states import States
from pitr.postgres.merge.creation import make_missing
from pitr.postgres.tables.definition import Creation, ForeignKey
from pitr.postgres.tables.name import TableName
from pitr.postgres.tables.reading import read_foreign_keys
from pitr.postgres.tables.session import Connection, run
from pitr.vocabulary.drift import SchemaDrift
from pitr.vocabulary.plan import MergeOptions
from pitr.vocabulary.row_class import Action, RowClass

_TAKES_ALONG = ("c", "n", "d")


@dataclass(frozen=True, slots=True)
class _Edge:
    """A foreign key by which rows of one table bring in rows of another."""

    key: ForeignKey
    is_upwards: bool


class Classifier:
    """Classifies the tables of a recovery with their kin, and again in the same transaction."""

    def __init__(self, options: MergeOptions, limits: Limits | None = None) -> None:
        self._limits = limits
        self._with_parents = options.with_parents
        self._with_children = options.with_children
        self._creates = options.create_missing
        actions = actions_of(options)
        self._written = [c for c in RowClass if actions[c] in (Action.INSERT, Action.UPDATE)]
        self._kin: set[int] = set()
        self._edges: list[_Edge] = []

    def classify(self, states: States) -> list[ClassifiedTable]:
        """Stage and classify. Raises what `classify` raises."""
        made = make_missing(states, states.tables) if self._creates else None
        tables = [_made_anew(table, made) for table in classify(states, self._limits)]
        self._kin, self._edges = set(), []
        if self._with_parents or self._with_children:
            tables += self._gather(states, tables)
        return self._kept(states.live, tables)

    def again(self, live: Connection, tables: Sequence[ClassifiedTable]) -> list[ClassifiedTable]:
        """Classify the same staged rows beside live as it is now."""
        return self._kept(live, [classify_again(live, table) for table in tables])

    # --- which tables ----------------------------------------------------------------------------

    def _gather(self, states: States, tables: list[ClassifiedTable]) -> list[ClassifiedTable]:
        assert states.before is not None
        known = {table.aligned.before.oid for table in tables}
        found: list[ClassifiedTable] = []
        seen: set[tuple[str, int, bool]] = set()
        frontier = set(known)
        while frontier:
            keys = read_foreign_keys(states.before, frontier)
            edges = [edge for key in keys for edge in self._edges_of(key, frontier)]
            frontier = set()
            for edge in edges:
                key = edge.key
                mark = (key.name, key.child_oid, edge.is_upwards)
                if mark in seen:
                    continue
                seen.add(mark)
                self._edges.append(edge)
                oid, name = (key.parent_oid, key.parent)
                if not edge.is_upwards:
                    oid, name = (key.child_oid, key.child)
                if oid in known:
                    continue
                _check_held(states, name)
                known.add(oid)
                frontier.add(oid)
                index = len(tables) + len(found)
                found.append(self._classified(states, index, name, edge))
        self._kin = {table.aligned.index for table in found}
        return found

    def _edges_of(self, key: ForeignKey, frontier: set[int]) -> list[_Edge]:
        found = []
        if self._with_parents and key.child_oid in frontier:
            found.append(_Edge(key, is_upwards=True))
        if self._with_children and key.parent_oid in frontier and key.on_delete in _TAKES_ALONG:
            found.append(_Edge(key, is_upwards=False))
        return found

    def _classified(
        self, states: States, index: int, name: TableName, edge: _Edge
    ) -> ClassifiedTable:
        whole = replace(states, where=None, columns={})
        if edge.is_upwards:
            whole = replace(whole, after=None)
        made = make_missing(states, [name]) if self._creates else None
        table = classify_table(whole, index, name, self._limits or Limits())
        table = _made_anew(table, made)
        warning = (
            f"{table.name}: rows are added to the plan for the foreign keys; see that nobody"
            " deleted them on purpose"
        )
        return replace(table, warnings=(*table.warnings, warning))

    # --- which rows ------------------------------------------------------------------------------

    def _kept(self, live: Connection, tables: list[ClassifiedTable]) -> list[ClassifiedTable]:
        """Leave of the kin only the rows that foreign keys lead to, and of these tables any."""
        kin = [table for table in tables if table.aligned.index in self._kin]
        if not kin:
            return tables
        for table in kin:
            run(live, f"ALTER TABLE {table.rows_table} ADD COLUMN kin boolean DEFAULT false")
        by_oid = {table.aligned.before.oid: table for table in tables}
        while sum(self._mark(live, edge, by_oid) for edge in self._edges):
            pass  # rows that are new lead to others
        kept = []
        for table in tables:
            if table.aligned.index not in self._kin:
                kept.append(table)
                continue
            run(live, f"DELETE FROM {table.rows_table} WHERE NOT kin")
            run(live, f"ANALYZE {table.rows_table}")
            counts = class_counts(live, table.aligned)
            if counts:
                kept.append(replace(table, counts=counts))
        return kept

    def _mark(self, live: Connection, edge: _Edge, tables: dict[int, ClassifiedTable]) -> int:
        """Mark the rows that one foreign key leads to; return how many are new."""
        child, parent = tables.get(edge.key.child_oid), tables.get(edge.key.parent_oid)
        if child is None or parent is None:
            return 0
        target, origin = (parent, child) if edge.is_upwards else (child, parent)
        above, below = ("rb", "ob") if edge.is_upwards else ("ob", "rb")
        joined = _joined(edge.key, (parent.aligned, above), (child.aligned, below))
        if target.aligned.index not in self._kin or joined is None:
            return 0
        wanted = self._written if edge.is_upwards else [RowClass.LOST]
        names = ", ".join(f"'{row_class}'" for row_class in wanted)
        conditions = [joined, f"o.class IN ({names})", "NOT r.kin"]
        if origin.aligned.index in self._kin:
            conditions.append("o.kin")
        if edge.is_upwards:
            conditions.append(f"r.class = '{RowClass.LOST}'")  # a parent that is there will do
        found = f"SELECT r.n FROM {_rows(origin, 'o', 'ob')}, {_rows(target, 'r', 'rb')}"
        chosen = f"{found} WHERE {' AND '.join(conditions)}"
        statement = f"UPDATE {target.rows_table} SET kin = true WHERE n IN ({chosen})"
        return run(live, statement).rowcount


def _made_anew(table: ClassifiedTable, made: Creation | None) -> ClassifiedTable:
    """Return a table with how it was made anew, if it was; it is missing all the same."""
    if made is None:
        return table
    aligned = table.aligned
    if aligned.before.name not in made.names:
        has_partitions = aligned.live is not None and aligned.live.kind == "p"
        return replace(table, creation=made) if has_partitions else table
    said = aligned.drift.sentences(table.name)
    warnings = tuple(one for one in table.warnings if one not in said)
    aligned = replace(aligned, drift=SchemaDrift(missing=True))
    return replace(table, aligned=aligned, warnings=warnings, creation=made)


def _check_held(states: States, name: TableName) -> None:
    if states.held is not None and name not in states.held:
        raise UsageError(
            f"the recovery does not hold {name}, which kin of the rows is in",
            hint=f"Restore again with '-t {name}' too, or without kin.",
        )


def _rows(table: ClassifiedTable, rows: str, before: str) -> str:
    """Return the rows of a table, and beside each the row as it was before."""
    aligned = table.aligned
    if table.keyless:
        columns = ", ".join(f"key_{at} AS c{at}" for at in range(len(aligned.columns)))
        content = f"(SELECT n, {columns} FROM {table.rows_table}) AS {before}"
        return f"{table.rows_table} AS {rows} JOIN {content} ON {before}.n = {rows}.n"
    match = aligned.match(f"{before}.k{{at}}", f"{rows}.key_{{at}}")
    source = aligned.source(BEFORE, alias=before)
    return f"{table.rows_table} AS {rows} JOIN {source} ON {match}"


def _joined(
    key: ForeignKey, parent: tuple[AlignedTable, str], child: tuple[AlignedTable, str]
) -> str | None:
    """Return the condition of a foreign key, None when a column of it is gone.

    Each side is a table and the alias of its staged rows.
    """
    tests = []
    names = zip(key.parent_columns, key.operators, key.child_columns, strict=True)
    for up, operator, down in names:
        above, below = _value(*parent, up), _value(*child, down)
        if above is None or below is None:
            return None
        tests.append(f"{above} {operator} {below}")
    return " AND ".join(tests)


def _value(table: AlignedTable, alias: str, name: str) -> str | None:
    """Return the typed value of a column, named as before, of a staged row."""
    for at, column in enumerate(table.key):
        if column.sides[BEFORE].name == name:
            return f"{alias}.k{at}"
    for at, column in enumerate(table.columns):
        if column.sides[BEFORE].name == name:
            return f"({alias}.c{at})::{column.own.plain_type}"
    return None
