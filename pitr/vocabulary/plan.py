"""What a merge would do, as a value: it can be shown, saved, compared and refused when stale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from pitr.vocabulary.diff_row import Row
from pitr.vocabulary.estimate import Estimate
from pitr.vocabulary.row_class import Action, ConflictPolicy, RowClass

PLAN_FORMAT = 1


class BlockerKind(StrEnum):
    """Why rows cannot simply be written. The text is what JSON and tables show."""

    KEY_REUSED = "key_reused"
    TOUCHED_SINCE = "touched_since"
    BOGUS_TOUCHED = "bogus_touched"
    UNIQUE_TAKEN = "unique_taken"
    PARENT_MISSING = "parent_missing"
    CHECK_FAILED = "check_failed"
    SCHEMA_DRIFT = "schema_drift"
    TRIGGER_SUPPRESSED = "trigger_suppressed"
    PRIVILEGE_MISSING = "privilege_missing"
    TOO_MANY_ROWS = "too_many_rows"


class Resolution(StrEnum):
    """What becomes of the rows of a blocker under the options of the plan."""

    BLOCKS = "blocks"
    SKIPPED = "skipped"
    OVERWRITTEN = "overwritten"


class MergeOutcome(StrEnum):
    """What became of a merge whose record was written."""

    HAPPENED = "happened"
    DID_NOT_HAPPEN = "did_not_happen"
    CANNOT_BE_TOLD = "cannot_be_told"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitTrace:
    """What a merge noted of its own COMMIT, to find it in the archive: it came between the moments.

    `frame` is the commit frame in SQLite's WAL, None with a rollback journal. `before` is a
    position of PostgreSQL at `begin_us`.
    """

    begin_us: int
    end_us: int
    frame: int | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeMarks:
    """The names of the states around a merge, None where it has none.

    `note` says why there are none, or what else lies between the two.
    """

    before: str | None = None
    after: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeOptions:
    """What the user asked a merge to do beyond bringing lost rows and damaged columns back.

    `set_columns` has pairs of a column, `column` or `table.column`, and a SQL expression over
    the row as it was: the value of a column that was added since. A plan that would write more
    than `max_rows` rows is blocked; None for no limit.
    """

    on_conflict: ConflictPolicy = ConflictPolicy.ABORT
    update: bool = False
    delete_extra: bool = False
    with_parents: bool = False
    with_children: bool = False
    create_missing: bool = False
    set_columns: tuple[tuple[str, str], ...] = ()
    max_rows: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """Rows of one table that one thing keeps from being written.

    `rows` counts all of them, `keys` names the first ones by `key_columns`, and `held_by`, where
    it is not empty, beside each the live row in its way. A blocker of a whole table has no keys.
    """

    kind: BlockerKind
    table: str
    rows: int
    detail: str
    resolution: Resolution
    key_columns: tuple[str, ...] = ()
    keys: tuple[Row, ...] = ()
    held_by: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class LostRows:
    """Lost rows that one transaction removed; `position` and `time_us` are None where not known."""

    position: str | None
    time_us: int | None
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePlan:
    """One table of a plan: its rows by class, and by what is done with them."""

    table: str
    counts: Mapping[RowClass, int]
    actions: Mapping[Action, int]
    lost_by: tuple[LostRows, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a merge of one recovery would do.

    `chosen` names the tables of the recovery that were asked for; all of them when it is empty.
    `fingerprint` stands for everything it was computed from. `script` is the plan as SQL for the
    sqlite3 shell; None when it is blocked or has more rows than a script is good for. A plan that
    is run at once has neither, nor an `estimate`. `definitions` are the SQL statements by which
    tables that are gone are made anew.
    """

    recovery: str
    engine: str
    source: str
    target: str
    chosen: tuple[str, ...]
    options: MergeOptions
    tables: tuple[TablePlan, ...]
    blockers: tuple[Blocker, ...]
    warnings: tuple[str, ...]
    fingerprint: str
    script: str | None
    definitions: tuple[str, ...] = ()
    estimate: Estimate | None = None

    @property
    def counts(self) -> dict[RowClass, int]:
        """Return the rows of each class, all tables together; classes without rows left out."""
        total = Counter[RowClass]()
        for table in self.tables:
            total.update(table.counts)
        return {row_class: total[row_class] for row_class in RowClass if total[row_class]}

    @property
    def actions(self) -> dict[Action, int]:
        """Return the rows of each action that writes or skips, all tables together."""
        total = Counter[Action]()
        for table in self.tables:
            total.update(table.actions)
        shown = (Action.INSERT, Action.UPDATE, Action.DELETE, Action.SKIP)
        return {action: total[action] for action in shown}

    @property
    def rows_to_write(self) -> int:
        """Return how many rows a merge would write."""
        return sum(count for action, count in self.actions.items() if action is not Action.SKIP)

    @property
    def has_work(self) -> bool:
        """Return whether a merge would write anything, or make a table."""
        return self.rows_to_write > 0 or bool(self.definitions)

    @property
    def blocking(self) -> tuple[Blocker, ...]:
        """Return the blockers that keep the whole plan from being run."""
        return tuple(b for b in self.blockers if b.resolution is Resolution.BLOCKS)


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """What running a saved plan needs: it is computed anew and must come to the same."""

    plan_format: int
    recovery: str
    chosen: tuple[str, ...]
    options: MergeOptions
    fingerprint: str


def plan_document(plan: Plan, *, time_text: Callable[[int], str]) -> dict[str, object]:
    """Return the plan under the keys that scripts rely on; row values are left as they are.

    `time_text` writes microseconds since the epoch as a time.
    """
    return {
        "plan_format": PLAN_FORMAT,
        "recovery": plan.recovery,
        "engine": plan.engine,
        "source": plan.source,
        "target": plan.target,
        "chosen": list(plan.chosen),
        "options": msgspec.to_builtins(plan.options),
        "counts": {str(name): count for name, count in plan.counts.items()},
        "actions": {str(name): count for name, count in plan.actions.items()},
        "tables": [table_document(table, time_text=time_text) for table in plan.tables],
        "conflicts": [blocker_document(blocker) for blocker in plan.blockers],
        "warnings": list(plan.warnings),
        "fingerprint": plan.fingerprint,
        "estimate": None if plan.estimate is None else plan.estimate.document(),
        "definitions": list(plan.definitions),
        "sql": plan.script,
    }


def table_document(table: TablePlan, *, time_text: Callable[[int], str]) -> dict[str, object]:
    """Return one table of a plan with its counts."""
    return {
        "table": table.table,
        "counts": {str(name): count for name, count in table.counts.items()},
        "actions": {str(name): count for name, count in table.actions.items()},
        "lost_by": [
            {
                "transaction": lost.position,
                "time": None if lost.time_us is None else time_text(lost.time_us),
                "rows": lost.rows,
            }
            for lost in table.lost_by
        ],
    }


def blocker_document(blocker: Blocker) -> dict[str, object]:
    """Return one blocker with its rows."""
    keys, held_by = (
        [dict(zip(blocker.key_columns, key, strict=True)) for key in found]
        for found in (blocker.keys, blocker.held_by)
    )
    return {
        "kind": str(blocker.kind),
        "table": blocker.table,
        "rows": blocker.rows,
        "resolution": str(blocker.resolution),
        "detail": blocker.detail,
        "keys": keys,
        "held_by": held_by,
    }


def read_saved_plan(data: bytes) -> SavedPlan:
    """Read what `plan_document` came to as JSON. Raises ValueError that says what is wrong."""
    saved = msgspec.json.decode(data, type=SavedPlan)  # its errors are ValueErrors
    if saved.plan_format != PLAN_FORMAT:
        raise ValueError(f"its format is {saved.plan_format}, this version reads {PLAN_FORMAT}")
    return saved


class MergeStep(StrEnum):
    """How far a merge has come; told as it goes."""

    PLANNED = "planned"
    LOCKED = "locked"
    VALIDATED = "validated"
    APPLIED = "applied"
    VERIFIED = "verified"
    RECORDED = "recorded"
    COMMITTED = "committed"
    NOTED = "noted"


OnStep = Callable[[MergeStep], None]
