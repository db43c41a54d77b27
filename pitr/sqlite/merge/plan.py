"""Make the plan of a merge: from classified rows to what is written, what is in the way, and why.

Runs inside the transaction in which the rows were classified. Writes nothing but temporary tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import apsw

from pitr.errors import ArchiveLacks, Corrupt, StoreUnusable, UsageError
from pitr.merge.blocking import KEYS_SHOWN, combined, find_refused, too_many_rows
from pitr.merge.fingerprint import fingerprint
from pitr.merge.rules import action_counts, actions_of, conflicts_of, resolution_of_rows
from pitr.sqlite.diff.attribution import attribute_lost
from pitr.sqlite.diff.classified import ClassifiedTable
from pitr.sqlite.diff.states import BEFORE, LIVE, States
from pitr.sqlite.merge.blockers import conflict, taken_values
from pitr.sqlite.merge.closure import Closure, index_texts
from pitr.sqlite.merge.digests import live_digest, planned_digest
from pitr.sqlite.merge.earlier import was_brought_back
from pitr.sqlite.merge.estimate import estimate
from pitr.sqlite.merge.family import gather_family
from pitr.sqlite.merge.foreign_keys import ForeignKeys
from pitr.sqlite.merge.parents import Family, find_orphans, has_adopted, tolerated_orphans
from pitr.sqlite.merge.planned import REHEARSAL, PlannedTable
from pitr.sqlite.merge.rehearsal import lossy_conversions, needs_rehearsal, rehearse
from pitr.sqlite.merge.scratch import make_fresh
from pitr.sqlite.merge.script import script_of
from pitr.sqlite.merge.triggers import Effects
from pitr.sqlite.merge.writability import Writability, judge_table
from pitr.sqlite.past.sidecar import open_sidecar
from pitr.sqlite.past.tables import PastTable, find_table, folded
from pitr.sqlite.statement.expression import check_expression
from pitr.sqlite.statement.faults import sqlite_faults
from pitr.sqlite.statement.tokens import quoted, tokens_of
from pitr.vocabulary.plan import (
    Blocker,
    BlockerKind,
    LostRows,
    MergeOptions,
    Plan,
    Resolution,
    TablePlan,
)
from pitr.vocabulary.row_class import Action, RowClass

_ARCHIVE_FAULTS = (ArchiveLacks, Corrupt, StoreUnusable)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What a plan is of, and what was asked for.

    `chosen` names the tables that were asked for, if not all. `earlier` is the schema with the rows
    that an earlier merge of the recovery left, if one stands. `past` is the schema of the whole
    state at the target, if it is attached. `attributes` says whether to look up which transactions
    removed the lost rows, `is_described` whether fingerprint and script are wanted: each reads
    every row once more. Of an undo `before` has, besides the rows that a merge touched, what
    `undo` noted of their kin.
    """

    recovery: str
    source: str
    target: str
    options: MergeOptions
    chosen: tuple[str, ...] = ()
    past: str | None = None
    earlier: str | None = None
    attributes: bool = True
    is_described: bool = True
    is_undo: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedPlan:
    """A plan with all that running it on the same connection needs.

    `enforces_keys` says whether it is to run under foreign_keys = ON, `tolerated` how many rows of
    which table have no parent and had none. `effects` has what writes set off, by folded table.
    `live_digests` stand for the live rows that the plan touches, `schema` for the definitions of
    the tables. `rebuilt` are full-text indexes over the content of other tables, `dropped` tables
    to be dropped when no row is left in them.
    """

    plan: Plan
    tables: tuple[PlannedTable, ...]
    family: Family
    enforces_keys: bool
    tolerated: Mapping[str, int]
    effects: Mapping[str, Effects]
    live_digests: tuple[str, ...]
    schema: str
    rebuilt: tuple[str, ...]
    dropped: tuple[str, ...] = ()


@contextmanager
def attached_past(states: States) -> Iterator[str | None]:
    """Attach the whole state at the target where foreign keys make it worth while.

    Gives the schema's name, None where there are none, or the archive does not hold it any more.
    """
    sources = states.sources
    with ExitStack() as stack:
        past = None
        if sources.archive is not None and _has_foreign_keys(states.connection):
            with suppress(*_ARCHIVE_FAULTS):
                past = stack.enter_context(states.attached_past(sources.before_commit))
        yield past


def _has_foreign_keys(connection: apsw.Connection) -> bool:
    return any(ForeignKeys.read(connection, schema) for schema in (LIVE, BEFORE))


def make_plan(
    states: States, classified: Sequence[ClassifiedTable], request: PlanRequest
) -> PreparedPlan:
    """Return the plan of a recovery whose rows `classify` has put under their classes.

    Raises UsageError for a --set that makes no sense, and what reading the archive raises when
    kin is asked for.
    """
    with sqlite_faults("the merge cannot be planned"):
        return _Planner(states, request).plan(classified)


class _Planner:
    def __init__(self, states: States, request: PlanRequest) -> None:
        self._states = states
        self._connection = states.connection
        self._request = request
        self._options = request.options
        self._actions = actions_of(request.options)
        self._warnings = list(request.warnings)
        self._blockers: list[Blocker] = []
        self._effects: dict[str, Effects] = defaultdict(Effects)
        self._lost_by: dict[str, tuple[LostRows, ...]] = {}
        self._set: set[str] = set()
        self._row_resolution = resolution_of_rows(request.options)

    def plan(self, classified: Sequence[ClassifiedTable]) -> PreparedPlan:
        """Make the plan: tables first, then what is in the way, then what it all comes to."""
        make_fresh(self._connection, REHEARSAL)
        tables = [self._planned(table) for table in classified]
        self._check_set(classified)
        rebuilt = tuple(t.name for t in tables if _is_index_of_content(t.definition))
        tables += self._kin(tables, classified)
        tables = [self._judged(table) for table in tables]
        self._find_conflicts(tables)
        family = self._gather(tables, classified)
        self._blockers += find_refused(partial(self._kept_out, family), self._row_resolution)
        tolerated = tolerated_orphans(self._connection, family)
        enforces = family.can_be_enforced() and not tolerated
        enforces = enforces and not has_adopted(self._connection, family)
        self._warn_of_keys(tables, enforces=enforces, tolerated=tolerated)
        return self._prepared(family, rebuilt, enforces=enforces, tolerated=tolerated)

    # --- tables ----------------------------------------------------------------------------------

    def _planned(self, table: ClassifiedTable) -> PlannedTable:
        connection = self._connection
        connection.execute(f"ALTER TABLE {table.rows_table} ADD COLUMN reason TEXT")
        self._warnings += table.warnings
        self._attribute(table)
        self._warn_of_lost_triggers(table)
        sides = table.aligned.sides
        live = sides[LIVE].table if LIVE in sides else None
        before = table.aligned.before
        actions = self._actions
        if _is_index_of_content(live or before):
            # Its rows are those of another table, and come back with them.
            actions = dict.fromkeys(RowClass, Action.NOTHING)
        return PlannedTable(
            name=table.name,
            before=f"{BEFORE}.{quoted(table.before_name)}",
            rows=table.rows_table,
            key=table.key,
            columns=table.columns,
            insert_columns=table.insert_columns,
            before_names={c: table.name_in(BEFORE, c) for c in table.insert_columns},
            match=_matching(table),
            counts=table.counts,
            keyless=table.keyless,
            drift=table.drift,
            definition=live or before,
            actions=actions,
            created_by=None if live else before.sql,
            index_texts=() if live else index_texts(connection, BEFORE, before.name),
            sequence=_sequence(connection, before) if before.has_autoincrement else None,
            values=self._values(table) if live else (),
        )

    def _warn_of_lost_triggers(self, table: ClassifiedTable) -> None:
        """Name the triggers that went with a table: they are not made again."""
        past = self._request.past
        if past is None or not table.drift.missing:
            return
        rows = self._connection.execute(
            f"SELECT name FROM {past}.sqlite_schema WHERE type = 'trigger' AND tbl_name = ?",
            (table.before_name,),
        )
        names = ", ".join(str(name) for (name,) in rows)
        if names:
            self._warnings.append(f"{table.name}: its triggers are not made again: {names}")

    def _attribute(self, table: ClassifiedTable) -> None:
        if self._request.attributes:
            found = attribute_lost(self._states, table)
            self._warnings += found.warnings
            self._lost_by[table.rows_table] = tuple(
                LostRows(one.position, one.time_us, one.rows) for one in found.lost_by
            )

    def _values(self, table: ClassifiedTable) -> tuple[tuple[str, str], ...]:
        found = []
        for name, expression in self._options.set_columns:
            place, _, column = name.rpartition(".")
            if place and folded(place) != folded(table.name):
                continue
            added = {folded(one): one for one in table.drift.added}
            if folded(column) in added and not table.keyless:
                checked = _check_value(self._states.sources.sidecar, table.before_name, expression)
                found.append((added[folded(column)], checked))
                self._set.add(name)
        return tuple(found)

    def _check_set(self, tables: Sequence[ClassifiedTable]) -> None:
        """Raise UsageError for a --set that no table has taken: a value would silently be lost."""
        added = [f"{t.name}.{name}" for t in tables if not t.keyless for name in t.drift.added]
        for name, _ in self._options.set_columns:
            if name not in self._set:
                raise UsageError(
                    f"--set {name} names no column that was added since",
                    detail=f"Added since: {', '.join(added) or 'none'}.",
                    hint="Name a column that the table did not have at the target.",
                )

    def _kin(
        self, tables: list[PlannedTable], classified: Sequence[ClassifiedTable]
    ) -> list[PlannedTable]:
        """Return the tables of the closure, and say what is left out of the plan."""
        if not tables or self._request.past is None:
            self._refuse_kin()
            return []
        try:
            return self._closure(tables, classified)
        except _ARCHIVE_FAULTS as error:
            if self._options.with_parents or self._options.with_children:
                raise
            self._warnings.append(f"rows that went with the lost ones were not looked for: {error}")
            return []

    def _refuse_kin(self) -> None:
        if self._options.with_parents or self._options.with_children:
            self._warnings.append(
                "no kin was looked for: there are no foreign keys, or the archive is not at hand"
            )

    def _closure(
        self, tables: list[PlannedTable], classified: Sequence[ClassifiedTable]
    ) -> list[PlannedTable]:
        whole = not self._states.sources.has_condition
        complete = frozenset(folded(t.before_name) for t in classified if whole)
        assert self._request.past is not None
        closure = Closure(self._connection, self._request.past, tables, complete=complete)
        if self._options.with_children:
            closure.add_children()
        if self._options.with_parents:
            closure.add_parents()
        for kin in closure.forgotten():
            verb = "are gone too" if kin.how == "CASCADE" else "no longer name them"
            self._warnings.append(
                f"{kin.child}: {kin.rows} rows that named lost rows of {kin.parent} {verb}"
                f" (ON DELETE {kin.how}); --with-children brings them back, or restore them too"
                f" with -t {kin.child}"
            )
        found = closure.planned(len(classified), replace(tables[0], actions=self._actions))
        self._warnings += [
            f"{table.name}: {sum(table.counts.values())} rows are added to the plan for the foreign"
            " keys; see that nobody deleted them on purpose"
            for table in found
        ]
        return found

    # --- what is in the way ----------------------------------------------------------------------

    def _judged(self, table: PlannedTable) -> PlannedTable:
        """Rehearse a table if need be; note what is found against its rows."""
        found: Writability = judge_table(self._connection, table, self._options)
        self._blockers += found.blockers
        for name, writes in found.effects.triggers.items():
            what = f" ({'; '.join(writes)})" if writes else ""
            self._warnings.append(f"{table.name}: the trigger {name} will fire{what}")
        self._effects[folded(table.name)].add(found.effects)
        if found.blockers or table.created_by is not None:
            return table
        if not needs_rehearsal(self._connection, table, *self._before_definition(table)):
            return table
        table = replace(table, is_rehearsed=not table.keyless)
        for refusal in rehearse(self._connection, table):
            self._blockers.append(self._refused(table, refusal.kind, refusal.detail, refusal.rows))
        for column, rows in lossy_conversions(self._connection, table):
            detail = f"{column} has another type now, which would alter the values"
            self._blockers.append(self._refused(table, BlockerKind.SCHEMA_DRIFT, detail, rows))
        return table

    def _before_definition(self, table: PlannedTable) -> tuple[str, str]:
        schema, _, name = table.before.partition(".")
        then = find_table(self._connection, schema, name[1:-1].replace('""', '"'))
        return schema, then.sql if then else ""

    def _refused(self, table: PlannedTable, kind: BlockerKind, detail: str, rows: int) -> Blocker:
        return Blocker(
            kind=kind,
            table=table.name,
            rows=rows,
            detail=detail,
            resolution=self._row_resolution,
            key_columns=table.key,
            keys=table.keys(self._connection, f"r.reason = '{kind}'", KEYS_SHOWN),
        )

    def _find_conflicts(self, tables: Sequence[PlannedTable]) -> None:
        for kind, resolution in conflicts_of(self._options).items():
            for table in tables:
                if table.counts.get(RowClass(kind.value)):
                    back = None
                    if kind is BlockerKind.KEY_REUSED:
                        back = was_brought_back(self._connection, table, self._request.earlier)
                    self._blockers += conflict(
                        self._connection, table, kind, resolution, brought_back=back
                    )

    def _kept_out(self, family: Family) -> list[Blocker]:
        found: list[Blocker] = []
        for table in family.tables:
            found += taken_values(self._connection, table, self._row_resolution)
        return found + find_orphans(self._connection, family, self._row_resolution)

    def _gather(
        self, tables: Sequence[PlannedTable], classified: Sequence[ClassifiedTable]
    ) -> Family:
        request = self._request
        if request.is_undo:
            return gather_family(self._connection, tables, noted=BEFORE)
        whole = () if self._states.sources.has_condition else classified
        before = [t.before_name for t in whole if not t.drift.renamed]
        return gather_family(self._connection, tables, past=request.past, whole=before)

    def _warn_of_keys(
        self, tables: Sequence[PlannedTable], *, enforces: bool, tolerated: Mapping[str, int]
    ) -> None:
        self._warnings += [
            f"{name}: {rows} rows had no parent at the target either, and are written without one"
            for name, rows in tolerated.items()
        ]
        if not enforces:
            self._warnings.append(
                "SQLite would not enforce the foreign keys of these tables as they are; pitr checks"
                " the rows that it writes instead"
            )
        for table in tables:
            if table.definition.has_autoincrement and table.classes(Action.INSERT):
                self._warnings.append(
                    f"{table.name}: its AUTOINCREMENT value is raised where it must be, never"
                    " lowered"
                )

    # --- what it comes to ------------------------------------------------------------------------

    def _prepared(
        self,
        family: Family,
        rebuilt: tuple[str, ...],
        *,
        enforces: bool,
        tolerated: Mapping[str, int],
    ) -> PreparedPlan:
        connection, request, tables = self._connection, self._request, family.tables
        live_digests = tuple(live_digest(connection, table) for table in tables)
        schema = schema_digest(connection, tables)
        stamp = self._fingerprint(tables, schema, live_digests) if request.is_described else ""
        described = tuple(self._table_plan(table) for table in tables)
        self._blockers += too_many_rows(request.options, described)
        is_blocked = any(one.resolution is Resolution.BLOCKS for one in self._blockers)
        has_script = request.is_described and not is_blocked
        cost = estimate(connection, tables) if request.is_described else None
        sentences = [] if cost is None else cost.sentences()
        plan = Plan(
            recovery=request.recovery,
            engine="sqlite",
            source=request.source,
            target=request.target,
            chosen=request.chosen,
            options=self._options,
            tables=described,
            blockers=combined(self._blockers),
            warnings=tuple(dict.fromkeys(self._warnings)),
            fingerprint=stamp,
            script=script_of(connection, tables, stamp, noted=sentences) if has_script else None,
            estimate=cost,
        )
        return PreparedPlan(
            plan=plan,
            tables=tuple(tables),
            family=family,
            enforces_keys=enforces,
            tolerated=tolerated,
            effects=self._effects,
            live_digests=live_digests,
            schema=schema,
            rebuilt=rebuilt,
        )

    def _fingerprint(
        self, tables: Sequence[PlannedTable], schema: str, live_digests: Sequence[str]
    ) -> str:
        chosen = self._options
        options = [str(chosen.on_conflict), chosen.update, chosen.delete_extra]
        planned = [[table.name, planned_digest(self._connection, table)] for table in tables]
        parts = [self._request.target, options, chosen.create_missing, chosen.set_columns]
        return fingerprint([*parts, schema, planned, live_digests])

    def _table_plan(self, table: PlannedTable) -> TablePlan:
        amount = "total(r.copies)" if table.keyless else "count(*)"
        rows = self._connection.execute(
            f"SELECT class, {amount} FROM {table.rows} AS r WHERE reason IS NOT NULL GROUP BY class"
        )
        left_out: dict[RowClass, int] = defaultdict(int)
        for name, count in rows:
            left_out[RowClass(str(name))] += int(str(count).partition(".")[0])
        return TablePlan(
            table=table.name,
            counts=table.counts,
            actions=action_counts(table.counts, table.actions, left_out),
            lost_by=self._lost_by.get(table.rows, ()),
        )


def schema_digest(connection: apsw.Connection, tables: Sequence[PlannedTable]) -> str:
    """Return the digest of everything that defines the live tables: indexes and triggers too."""
    parts = []
    for table in tables:
        rows = connection.execute(
            "SELECT type, name, coalesce(sql, '') FROM main.sqlite_schema"
            " WHERE tbl_name = ? COLLATE NOCASE ORDER BY type, name",
            (table.name,),
        ).fetchall()
        parts.append([table.name, rows])
    return fingerprint(parts)


def _check_value(sidecar: Path, table: str, expression: str) -> str:
    """Return the expression of a --set once it is known to be one that only reads the row."""
    if any(token.is_word("SELECT") for token in tokens_of(expression)):
        raise UsageError(
            f"--set cannot use {expression}",
            detail="A subselect would not read the rows of the target.",
            hint="Give an expression over the columns of the row.",
        )
    with closing(open_sidecar(sidecar)) as connection:
        return check_expression(connection, table, expression)


def _matching(table: ClassifiedTable) -> Callable[[str, str, str], str]:
    """Return how rows are joined by key; a table that will be made has the names of before."""

    def match(rows: str, state: str, alias: str) -> str:
        schema = state if state in table.aligned.sides else BEFORE
        return table.match(schema, rows=rows, alias=alias)

    return match


def _sequence(connection: apsw.Connection, before: PastTable) -> int | None:
    found = connection.execute(
        f"SELECT seq FROM {BEFORE}.sqlite_sequence WHERE name = ?", (before.name,)
    ).fetchone()
    return int(str(found[0])) if found else None


def _is_index_of_content(table: PastTable) -> bool:
    return table.virtual is not None and bool(table.virtual.content)
