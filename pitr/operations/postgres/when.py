"""when on PostgreSQL: the transaction in which a row vanished or changed, by the archive alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pitr.config import Settings
from pitr.errors import UsageError
from pitr.operations.postgres.bases import earliest_state, nearest_base
from pitr.operations.postgres.history import log_stretches
from pitr.operations.postgres.reading import open_reading
from pitr.operations.postgres.states import PastStates
from pitr.postgres.base.archive import BaseArchive
from pitr.postgres.index.ends import TransactionEnd
from pitr.postgres.log.log import LogStretch, tables_of, transactions
from pitr.postgres.log.tables import TableKey, Tables
from pitr.postgres.replay.replay import StopPoint
from pitr.postgres.rows.asking import PastTable
from pitr.postgres.rows.versions import RowVersion, VersionWish, committed_ends, row_versions
from pitr.postgres.rows.when import Candidate, Found, WhenSearch, changes, deletions
from pitr.postgres.selection.by_wal import WalWindow
from pitr.postgres.statement.condition import parse_condition
from pitr.postgres.wal.heap import may_change_key, may_delete
from pitr.postgres.wal.record import Record, RelationFile, decode_record
from pitr.postgres.wal.versions import version_of_major
from pitr.vocabulary.change import Transaction, WhenOutcome
from pitr.vocabulary.position import Lsn

# Rarely is a row's key changed: it is looked for last, and in so many states at most.
_KEY_STATES_MAX = 50


def find_row(
    settings: Settings,
    table: str,
    where: str,
    *,
    gone: bool,
    on_progress: Callable[[str], None],
) -> WhenOutcome:
    """Return what became of the newest row that met `where`.

    Where the archive has gaps, what was done on both sides of one is looked at, and what was done
    in it is not known. Raises what reading the archive and recovering raise.
    """
    condition = parse_condition(where)
    reading = open_reading(settings)
    states = PastStates(settings, reading, BaseArchive(reading.store))
    is_there = None
    for stretch, span in zip(
        reversed(reading.stretches), reversed(log_stretches(reading)), strict=True
    ):
        floor = earliest_state(reading, states.bases, stretch)
        if floor is None and is_there is None:
            stop = StopPoint(stretch.timeline, stretch.end)
            nearest_base(reading, states.bases, stop)  # says which bases there are
        if floor is None:
            break
        look = _Look.open(states, span, floor, table)
        search = WhenSearch(look.table_at, where, _said(on_progress))
        found, there = look.find(search, condition.columns, gone=gone)
        if search.refusal is not None:
            raise UsageError(
                "the condition cannot be asked of the table",
                detail=f"{search.refusal}.",
                hint="Give what could stand after WHERE: one condition on the table's columns.",
            )
        if found is not None:
            return look.outcome(search, found)
        is_there = there if is_there is None else is_there
    return WhenOutcome.nothing(gone=gone, is_there=bool(is_there))


def _said(on_progress: Callable[[str], None]) -> Callable[[int, int], None]:
    def say(state: int, in_question: int) -> None:
        if in_question:
            on_progress(f"state {state} of the table: {in_question} rows in question")

    return say


@dataclass(frozen=True, slots=True)
class _Look:
    """One stretch of WAL with what the log knows of the table in it."""

    states: PastStates
    span: LogStretch
    floor: Lsn
    tables: Tables
    table: TableKey
    database: str
    ends: dict[int, TransactionEnd]
    log: dict[int, Transaction]

    @classmethod
    def open(cls, states: PastStates, span: LogStretch, floor: Lsn, name: str) -> _Look:
        """Read the log of a table. Raises UsageError when the name is that of several."""
        reading = states.reading
        default = reading.database
        arguments = (reading.index, reading.catalog, span, [name])
        tables = tables_of(*arguments, default_database=default)
        end = span.end.value
        names = sorted({tables.name(key, end) for key in tables.named()})
        if len(names) > 1:
            raise UsageError(
                f"several tables are meant by {name!r}",
                detail=f"They are {', '.join(names)}.",
                hint="Name one, as schema.table or database.schema.table.",
            )
        key = tables.named()[-1]
        database = reading.catalog.database_name(key.database, end)
        return cls(
            states=states,
            span=span,
            floor=floor,
            tables=tables,
            table=key,
            database=database or default or "postgres",
            ends=committed_ends(reading.index, span.timeline, span.begin, span.end),
            log={
                Lsn.of_position(one.position).value: one
                for one in transactions(*arguments, default_database=default)
            },
        )

    @contextlib.contextmanager
    def table_at(self, position: int) -> Iterator[PastTable | None]:
        """Open the table as it was at a position."""
        stop = StopPoint(self.span.timeline, Lsn(position))
        name = self.tables.name(self.table, position)
        with self.states.at(stop, self.database, name) as then:
            if then is None:
                yield None
                return
            with PastTable.of(then.started, self.database, then.table) as table:
                yield table

    def find(
        self, search: WhenSearch, named: frozenset[str] | None, *, gone: bool
    ) -> tuple[Found | None, bool]:
        """Return what was done to the row, and whether one is there at the end."""
        emptied = list(self._emptied())
        key, is_there = search.look(self.span.end.value)
        if key is None and emptied:
            key, _ = search.look(max(one.event.lsn for one in emptied))
        # A condition on the key alone is true for every version of a row, or for none.
        by_line = bool(key) and named is not None and named <= set(key or ())
        if not gone:
            versions = self._versions(None)
            found = search.newest([*changes(versions, by_line=by_line), *emptied])
            if found is None and by_line:
                found = search.newest(changes(versions, by_line=False), states=_KEY_STATES_MAX)
            return found, is_there
        rows = deletions(self._versions(may_delete), by_line=by_line)
        found = search.newest([*rows, *emptied])
        if found is None and by_line:
            found = search.newest_of_changed_key(self._versions(may_change_key))
        return found, is_there

    def outcome(self, search: WhenSearch, found: Found) -> WhenOutcome:
        """Return what was found as the user reads it."""
        end = found.candidate.event
        return WhenOutcome(
            transaction=self.log.get(end.end) or self._alone(end),
            before=f"before:xid:{end.xid}",
            row=search.row_before(found),
            reason=None,
        )

    def _versions(self, narrowing: Callable[[int, int], bool] | None) -> list[RowVersion]:
        span = self.span
        asked = VersionWish(
            files=dict.fromkeys(self._files()),
            timeline=span.timeline,
            begin=span.first,
            end=span.end,
            floor=self.floor,
            narrowing=narrowing,
        )
        wal = self.states.reading.wal
        window = WalWindow(wal, span.timeline, span.first.value, span.end.value, oldest_xid=0)
        version = version_of_major(wal.major)

        def read_record(lsn: int, length: int) -> Record:
            return decode_record(lsn, window.record(lsn, length), version)

        return row_versions(self.states.reading.index, read_record, self.ends, asked)

    def _files(self) -> list[RelationFile]:
        traced = self.tables.traced
        return [file for file in self.tables.files or () if file not in traced]

    def _emptied(self) -> Iterator[Candidate]:
        """Yield what emptied or dropped the table: the records of such commits name files."""
        index, span, files = self.states.reading.index, self.span, set(self._files())
        by_lsn = {end.lsn: end for end in self.ends.values()}
        for part in index.parts(span.timeline, span.begin.value, span.end.value):
            dropped: dict[int, set[int]] = {}
            for event in index.file_events_of(part):
                if event.is_drop and event.file in files and event.lsn >= self.floor.value:
                    dropped.setdefault(event.lsn, set()).add(event.file.number)
            for lsn, numbers in dropped.items():
                end = by_lsn.get(lsn)
                logged = self.log.get(end.end) if end else None
                if end and logged and any(one.truncated or one.dropped for one in logged.tables):
                    yield Candidate(end, lsn, lsn, files=frozenset(numbers))

    def _alone(self, end: TransactionEnd) -> Transaction:
        return Transaction(f"lsn:{Lsn(end.end)}", end.xid, end.time_us, 0, "commit", ())
