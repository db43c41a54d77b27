"""Make the plan of a merge: from classified rows to what is written, what is in the way, and why.

Runs inside the transaction in which the rows were classified. Writes nothing but temporary tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from pitr.errors import UsageError
from pitr.merge.blocking import combined, find_refused, too_many_rows
from pitr.merge.fingerprint import fingerprint
from pitr.merge.rules import action_counts, actions_of, conflicts_of, resolution_of_rows
from pitr.postgres.diff.attribution import Attribution
from pitr.postgres.diff.classified import ClassifiedTable
from pitr.postgres.diff.states import States
from pitr.postgres.merge.as_staged import as_staged
from pitr.postgres.merge.blockers import conflict, taken_values
from pitr.postgres.merge.creation import created_keys
from pitr.postgres.merge.digests import live_digest, planned_digest
from pitr.postgres.merge.estimate import estimate
from pitr.postgres.merge.parents import Family, find_orphans
from pitr.postgres.merge.planned import PlannedTable
from pitr.postgres.merge.rehearsal import (
    altered_values,
    missing_objects,
    refused_by_partitions,
    rehearse,
    without_partition,
)
from pitr.postgres.merge.script import script_of
from pitr.postgres.merge.writability import (
    column_meant,
    judge_table,
    rights_missing,
    with_values,
)
from pitr.postgres.tables.definition import Creation, ForeignKey, Table
from pitr.postgres.tables.reading import read_dependents, read_foreign_keys, read_table
from pitr.postgres.tables.session import Connection, rows_of
from pitr.vocabulary.plan import Blocker, LostRows, MergeOptions, Plan, Resolution, TablePlan
from pitr.vocabulary.row_class import Action, RowClass

_TAKES_ALONG = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What a plan is of, and what was asked for.

    `chosen` names the tables that were asked for, if not all. `is_described` says whether
    fingerprint and script are wanted: each reads every row once more. `attribute` tells which
    transactions removed the lost rows of a table, without asking anybody.
    """

    recovery: str
    source: str
    target: str
    options: MergeOptions
    chosen: tuple[str, ...] = ()
    is_described: bool = True
    attribute: Callable[[ClassifiedTable], Attribution] | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedPlan:
    """A plan with all that running it in the same transaction needs."""

    plan: Plan
    tables: tuple[PlannedTable, ...]
    family: Family
    creations: tuple[Creation, ...] = ()


def make_plan(
    states: States, classified: Sequence[ClassifiedTable], request: PlanRequest
) -> PreparedPlan:
    """Return the plan of a recovery whose rows `classify` has put under their classes.

    Raises UsageError for a --set that makes no sense, psycopg.Error.
    """
    return _Planner(states, request).plan(classified)


class _Planner:
    def __init__(self, states: States, request: PlanRequest) -> None:
        self._states = states
        self._live, self._before = states.live, states.before
        self._request = request
        self._options = request.options
        self._warnings = list(request.warnings)
        self._blockers: list[Blocker] = []
        self._lost_by: dict[str, tuple[LostRows, ...]] = {}
        self._row_resolution = resolution_of_rows(request.options)

    def plan(self, classified: Sequence[ClassifiedTable]) -> PreparedPlan:
        """Make the plan: tables first, then what is in the way, then what it all comes to."""
        tables = [self._planned(table) for table in classified]
        self._check_set(tables)
        tables = [self._judged(table) for table in tables]
        self._find_conflicts(tables)
        family = self._family([table for table in tables if not table.is_missing])
        self._warn_of_children(family)
        self._blockers += find_refused(partial(self._kept_out, family), self._row_resolution)
        tables = [replace(table, left_out=self._left_out(table)) for table in tables]
        written = [table for table in tables if not table.is_missing]
        return self._prepared(tables, replace(family, tables=written))

    def _planned(self, table: ClassifiedTable) -> PlannedTable:
        self._warnings += table.warnings
        if self._request.attribute is not None:
            found = self._request.attribute(table)
            self._warnings += found.warnings
            self._lost_by[table.rows_table] = tuple(
                LostRows(one.position, one.time_us, one.rows) for one in found.lost_by
            )
        planned = PlannedTable(classified=table, actions=actions_of(self._options))
        if table.aligned.live is None:
            return planned
        return with_values(planned, self._options.set_columns)

    def _check_set(self, tables: Sequence[PlannedTable]) -> None:
        """Raise UsageError for a --set that no table has taken: a value would silently be lost."""
        there = [table for table in tables if table.aligned.live is not None]
        added = [f"{table.name}.{name}" for table in there for name in table.aligned.drift.added]
        for name, _ in self._options.set_columns:
            if not any(column_meant(table, name) for table in there):
                raise UsageError(
                    f"--set {name} names no column that was added since",
                    detail=f"Added since: {', '.join(added) or 'none'}.",
                    hint="Name a column that the table did not have at the target.",
                )

    def _judged(self, table: PlannedTable) -> PlannedTable:
        self._blockers += rights_missing(self._live, table)
        found = judge_table(self._live, table)
        self._blockers += found.blockers
        self._warnings += found.warnings
        if table.is_missing:
            return table
        staged = as_staged(self._live, table)
        if staged is None:
            self._blockers += rehearse(self._live, table, self._row_resolution)
        table = staged or table
        self._blockers += altered_values(self._live, table, self._row_resolution)
        self._blockers += without_partition(self._live, table, self._row_resolution)
        self._blockers += refused_by_partitions(self._live, table, self._row_resolution)
        if self._before is not None:
            self._blockers += missing_objects(self._live, self._before, table, self._row_resolution)
        if table.classes():
            self._warnings += [
                f"{table.name}: the materialised view {name} stays as it is until it is refreshed"
                for name in read_dependents(self._live, table.live.oid)
            ]
        if table.classes(Action.INSERT) and table.live.sequences:
            self._warnings.append(
                f"{table.name}: its sequences are raised where they must be, never lowered; that"
                " stays even when the merge is rolled back"
            )
        return table

    def _find_conflicts(self, tables: Sequence[PlannedTable]) -> None:
        for kind, resolution in conflicts_of(self._options).items():
            for table in tables:
                if table.classified.counts.get(RowClass(kind.value)):
                    self._blockers += conflict(self._live, table, kind, resolution)

    def _family(self, tables: Sequence[PlannedTable]) -> Family:
        family = gather_family(self._live, tables)
        family.check_readable(self._live)
        anew = [table for table in tables if table.is_made_anew]
        if not anew:
            return family
        keys = created_keys(self._states, [table.aligned.before for table in anew])
        parents = gather_relatives(self._live, keys, family.relatives)
        return replace(family, keys=[*family.keys, *keys], relatives=parents)

    def _warn_of_children(self, family: Family) -> None:
        """Name the tables whose rows may have gone, or forgotten, with the lost ones."""
        planned = {table.live.oid for table in family.tables}
        for table in family.tables:
            for key in family.to(table):
                how = _TAKES_ALONG.get(key.on_delete)
                if how and key.child_oid not in planned and table.classes(Action.INSERT):
                    self._warnings.append(
                        f"{table.name}: rows of {key.child} that named lost rows may be gone or"
                        f" have forgotten them (ON DELETE {how}); --with-children brings them back"
                    )

    def _kept_out(self, family: Family) -> list[Blocker]:
        found: list[Blocker] = []
        for table in family.tables:
            found += taken_values(self._live, table, self._row_resolution)
        return found + find_orphans(self._live, family, self._row_resolution)

    def _prepared(self, tables: Sequence[PlannedTable], family: Family) -> PreparedPlan:
        request = self._request
        described = tuple(self._table_plan(table) for table in tables)
        self._blockers += too_many_rows(request.options, described)
        is_blocked = any(one.resolution is Resolution.BLOCKS for one in self._blockers)
        found = [table.classified.creation for table in tables]
        creations = tuple(dict.fromkeys(one for one in found if one and not one.fault))
        for creation in creations:
            self._warnings += creation.warnings
        stamp = self._fingerprint(tables) if request.is_described else ""
        cost = estimate(self._live, family) if request.is_described else None
        sentences = [] if cost is None else cost.sentences()
        script = None
        if request.is_described and not is_blocked:
            script = script_of(self._live, family, stamp, noted=sentences, creations=creations)
        plan = Plan(
            recovery=request.recovery,
            engine="postgres",
            source=request.source,
            target=request.target,
            chosen=request.chosen,
            options=self._options,
            tables=described,
            blockers=combined(self._blockers),
            warnings=tuple(dict.fromkeys(self._warnings)),
            fingerprint=stamp,
            script=script,
            estimate=cost,
            definitions=tuple(s for c in creations for s in (*c.statements, *c.later)),
        )
        return PreparedPlan(plan=plan, tables=tuple(tables), family=family, creations=creations)

    def _fingerprint(self, tables: Sequence[PlannedTable]) -> str:
        chosen = self._options
        options = [str(chosen.on_conflict), chosen.update, chosen.delete_extra]
        parts: list[object] = [self._request.target, options, list(chosen.set_columns)]
        for table in tables:
            definition = None if table.is_missing else _definition(table.live)
            if table.classified.creation is not None:  # what is made anew has new numbers each time
                definition = list(table.classified.creation.statements)
            digests = [planned_digest(self._live, table), live_digest(self._live, table)]
            parts.append([table.name, definition, digests])
        return fingerprint(parts)

    def _left_out(self, table: PlannedTable) -> dict[RowClass, int]:
        if not any(one.table == table.name and one.rows for one in self._blockers):
            return {}  # nothing has a reason but what a blocker was said of
        amount = "sum(r.copies)" if table.keyless else "count(*)"
        rows = rows_of(
            self._live,
            f"SELECT class, ({amount})::bigint FROM {table.rows} AS r WHERE reason IS NOT NULL"
            " GROUP BY class",
        )
        return {RowClass(name): int(count) for name, count in rows}

    def _table_plan(self, table: PlannedTable) -> TablePlan:
        counts = table.classified.counts
        return TablePlan(
            table=table.name,
            counts=counts,
            actions=action_counts(counts, table.actions, table.left_out),
            lost_by=self._lost_by.get(table.rows, ()),
        )


def gather_family(live: Connection, tables: Sequence[PlannedTable]) -> Family:
    """Return the tables with their foreign keys and the tables at the other ends of those."""
    keys = read_foreign_keys(live, [table.live.oid for table in tables])
    known = {table.live.oid: table.live for table in tables}
    return Family(keys=keys, tables=tables, relatives=gather_relatives(live, keys, known))


def gather_relatives(
    live: Connection, keys: Sequence[ForeignKey], known: Mapping[int, Table]
) -> dict[int, Table]:
    """Return the tables at both ends of foreign keys, by OID, with those that are `known`."""
    relatives = dict(known)
    for oid in {oid for key in keys for oid in (key.child_oid, key.parent_oid)} - known.keys():
        found = read_table(live, oid=oid)
        if found is not None:
            relatives[oid] = found
    return relatives


def _definition(table: Table) -> object:
    """Return everything that defines a table, in an order of its own; sizes left out."""
    return _ordered(asdict(replace(table, estimated_rows=0, size_bytes=0)))


def _ordered(value: Any) -> object:
    if isinstance(value, dict):
        return [[str(key), _ordered(one)] for key, one in value.items()]
    if isinstance(value, frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_ordered(one) for one in value]
    return value
