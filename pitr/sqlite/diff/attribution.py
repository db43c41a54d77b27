"""Which transaction removed each lost row, so that legitimate deletes do not come back unnoticed.

A row that was there before and is not there now was removed last by the newest commit that took it
away. The commits that may have are walked newest first; each takes from the lost rows what it
removed, and the oldest of them what is left. It is done only where the state after the damage is
not known, in at most the time given.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import apsw

from pitr.errors import ArchiveLacks, Corrupt, StoreUnusable
from pitr.sqlite.diff.alignment import SharedColumn
from pitr.sqlite.diff.candidates import row_values
from pitr.sqlite.diff.classified import ClassifiedTable
from pitr.sqlite.diff.removals import Removal, RemovalWalk, Told, typed
from pitr.sqlite.diff.span import Span
from pitr.sqlite.diff.states import BEFORE, LIVE, States
from pitr.sqlite.file.page import Cell
from pitr.sqlite.past.schema import Schema, SchemaEntry
from pitr.sqlite.past.tables import folded
from pitr.sqlite.rows.rowdiff import TableSide
from pitr.sqlite.statement.tokens import quoted
from pitr.vocabulary.diff_row import Row
from pitr.vocabulary.lost_by import LostBy
from pitr.vocabulary.position import CommitNumber
from pitr.vocabulary.row_class import RowClass

SECONDS_MAX = 20.0
_TOLD_MAX = 400_000  # of the rows that are held one by one
_COMMANDS_MAX = 5


@dataclass(frozen=True, slots=True)
class Attribution:
    """The transactions that removed the lost rows of one table, oldest first, and warnings."""

    lost_by: tuple[LostBy, ...] = ()
    warnings: tuple[str, ...] = ()


def attribute_lost(
    states: States, table: ClassifiedTable, *, seconds_max: float = SECONDS_MAX
) -> Attribution:
    """Return which transactions removed the lost rows of a table.

    Nothing where the state after the damage is known: then the rows are lost by that. Rows that
    cannot be told in `seconds_max`, or that the archive does not tell of, come without a position.
    """
    lost = table.counts.get(RowClass.LOST, 0)
    if not lost or states.after is not None:
        return Attribution()
    if states.span is None:
        return _unknown(table, lost, "the archive cannot be asked")
    if table.aligned.before.virtual:
        return _unknown(table, lost, "it is a virtual table")
    attributing = _Attributing(states, table, states.span, time.monotonic() + seconds_max)
    try:
        found, reason = attributing.run(lost)
    except (ArchiveLacks, Corrupt, StoreUnusable) as error:
        return _unknown(table, lost, error.message)
    except (UnicodeError, KeyError, apsw.SQLError):
        return _unknown(table, lost, "its rows cannot be followed through all of its history")
    missing = lost - sum(one.rows for one in found)
    if missing:
        found = [*found, _without_position(missing)]
    return Attribution(tuple(found), _warnings(table, found, reason if missing else None))


def _unknown(table: ClassifiedTable, rows: int, reason: str) -> Attribution:
    found = [_without_position(rows)]
    return Attribution(tuple(found), _warnings(table, found, reason))


def _without_position(rows: int) -> LostBy:
    return LostBy(position=None, time_us=None, kind=None, since=None, rows=rows)


def _warnings(
    table: ClassifiedTable, found: Sequence[LostBy], reason: str | None
) -> tuple[str, ...]:
    said = []
    if len(found) > 1:
        commands = [
            f"'{command}' ({one.rows})"
            for one in sorted(found, key=lambda one: -one.rows)
            if (command := one.isolating_command(table.before_name))
        ]
        more = ", …" if len(commands) > _COMMANDS_MAX else ""
        said.append(
            f"{table.name}: the lost rows were removed by {len(found)} transactions, perhaps not "
            f"all by mistake; for those of one alone: {', '.join(commands[:_COMMANDS_MAX])}{more}"
        )
    if reason:
        rows = sum(one.rows for one in found if one.position is None)
        said.append(f"{table.name}: which transaction removed {rows} rows is not known: {reason}")
    return tuple(said)


class _Attributing:
    """What is known about the lost rows of one table while they are given away."""

    def __init__(self, states: States, table: ClassifiedTable, span: Span, deadline: float) -> None:
        self._states = states
        self._table = table
        self._span = span
        self._deadline = deadline

    def run(self, lost: int) -> tuple[list[LostBy], str | None]:
        """Return what each removal took, oldest first, and why some rows may be left over."""
        is_live_archived = self._states.live_commit == self._span.last
        if self._table.keyless and not is_live_archived:
            return [], "without a key they are followed only where the archive is up to date"
        removals, reason = self._removals()
        is_complete = reason is None
        if len(removals) == 1 and is_live_archived and is_complete:
            return [_taken(removals[0], lost)], None
        holder = _LostByContent if self._table.keyless else _LostByKey
        rows: _LostByContent | _LostByKey = holder(self._states, self._table)
        if not is_live_archived and rows.leave_out(self._span.last, self._newest_entry()):
            reason = reason or "they were removed after the newest state that is archived"
        found = []
        for removal in removals:
            # With every removal known, what is left for the oldest was removed by it.
            is_last = is_complete and removal is removals[-1]
            taken = rows.left() if is_last else rows.take(removal)
            if taken:
                found.append(_taken(removal, taken))
        return found[::-1], reason or "too many rows were changed at once to follow each"

    def _removals(self) -> tuple[list[Removal], str | None]:
        """Return the commits that may have removed rows, newest first, and why they are not all."""
        walk = RemovalWalk(self._span, self._name(), self._told)
        found: list[Removal] = []
        told = 0
        for step in walk.removals():
            if isinstance(step, Removal):
                told += len(step.gone or ())
                found.append(step if told <= _TOLD_MAX else replace(step, gone=None))
            if time.monotonic() > self._deadline:
                number = step.record.number if isinstance(step, Removal) else step.number
                return found, f"the time was over at commit:{number}, going back from the newest"
        return found, None

    def _name(self) -> str:
        """Return the name of the table in the newest archived state, or the last one it had."""
        return self._table.aligned.last_name

    def _newest_entry(self) -> SchemaEntry | None:
        schema = Schema.read(self._span.snapshot(self._span.last))
        return schema.tables.get(folded(self._name()))

    def _told(self, side: TableSide, cell: Cell) -> Row:
        aligned = self._table.aligned
        definition = side.definition
        names = names_then(aligned.key or aligned.columns, side.entry)
        if aligned.has_integer_key:
            place = definition.rowid_column
            if place is None or definition.columns[place].name != names[0]:
                raise KeyError(names[0])
            return (cell.rowid,)
        return row_values(side, cell, names)


def names_then(columns: Sequence[SharedColumn], entry: SchemaEntry) -> list[str]:
    """Return what columns were called in a table at some time in between. Raises KeyError."""
    then = {folded(column.name): column.name for column in entry.definition.columns}
    names = []
    for column in columns:
        known = [column.names[s] for s in (LIVE, BEFORE) if s in column.names]
        names.append(next((then[folded(n)] for n in known if folded(n) in then), ""))
        if not names[-1]:
            raise KeyError(column.name)
    return names


def _taken(removal: Removal, rows: int) -> LostBy:
    record = removal.record
    return LostBy(
        position=str(CommitNumber(record.number)),
        time_us=record.time_end_us,
        kind=record.kind.name.lower(),
        since=str(CommitNumber(removal.earlier.number)),
        rows=rows,
    )


class _LostByKey:
    """The keys of lost rows that are not given away yet, in a temporary table."""

    def __init__(self, states: States, table: ClassifiedTable) -> None:
        self._states = states
        self._table = table
        self._name = f"temp.pitr_lost_{table.index}"
        self._execute = states.connection.execute
        keys = ", ".join(f"key_{at}" for at in range(len(table.key)))
        self._fill(self._name, f"{keys} FROM {table.rows_table} WHERE class = '{RowClass.LOST}'")

    def _fill(self, name: str, select: str) -> None:
        self._execute(f"DROP TABLE IF EXISTS {name}")
        self._execute(f"CREATE TABLE {name} {self._table.aligned.keyed_columns('k')}")
        self._execute(f"INSERT INTO {name} SELECT {select}")

    def left(self) -> int:
        """Return how many there are."""
        return int(str(self._execute(f"SELECT count(*) FROM {self._name}").get))

    def take(self, removal: Removal) -> int:
        """Give away the rows that a commit removed; return how many.

        None of them was there after the commit, or a newer removal would have taken it.
        """
        if removal.gone is None:
            return self.leave_out(removal.earlier.number, removal.entry)
        before = self._states.connection.total_changes()
        condition = self._table.aligned.match("k{at}", "?")
        self._states.connection.executemany(
            f"DELETE FROM {self._name} WHERE {condition}", (row for row, _ in removal.gone)
        )
        return self._states.connection.total_changes() - before

    def leave_out(self, number: int, entry: SchemaEntry | None) -> int:
        """Give away the rows that were there after a commit; return how many."""
        if entry is None:
            return 0
        aligned = self._table.aligned
        names = names_then(aligned.key, entry)
        taken = ", ".join(f"{quoted(name)} AS k{at}" for at, name in enumerate(names))
        before = self.left()
        # Copied, not deleted: a DELETE keeps in memory what it is going to delete.
        kept = f"{self._name}_kept"
        with self._states.attached_past(number) as schema:
            self._fill(
                kept,
                f"* FROM {self._name} AS n WHERE NOT EXISTS"
                f" (SELECT 1 FROM (SELECT {taken} FROM {schema}.{quoted(entry.name)}) AS p"
                f" WHERE {aligned.match('p.k{at}', 'n.k{at}')})",
            )
        self._execute(f"DROP TABLE {self._name}")
        self._execute(f"ALTER TABLE {kept} RENAME TO {self._name.removeprefix('temp.')}")
        return before - self.left()


class _LostByContent:
    """The content of lost rows that are not given away yet, each as often as it is lost."""

    def __init__(self, states: States, table: ClassifiedTable) -> None:
        keys = ", ".join(f"key_{at}" for at in range(len(table.key)))
        rows = states.connection.execute(
            f"SELECT copies, {keys} FROM {table.rows_table} LIMIT {_TOLD_MAX + 1}"
        )
        self._rows: Counter[Told] = Counter()
        for copies, *content in rows:
            self._rows[typed(tuple(content))] += int(str(copies))
        if len(self._rows) > _TOLD_MAX:
            raise KeyError("rows")

    def left(self) -> int:
        """Return how many there are."""
        return self._rows.total()

    def take(self, removal: Removal) -> int:
        """Give away the rows that a commit removed, as far as they are told; return how many."""
        taken = self._rows & (removal.gone or Counter())
        self._rows -= taken
        return taken.total()

    def leave_out(self, number: int, entry: SchemaEntry | None) -> int:
        """Give away nothing: rows without a key are not asked of other states."""
        return 0
