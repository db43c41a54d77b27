"""A live database on a real server, its states of the past, and what became of its rows."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.conninfo import make_conninfo

from pitr.errors import PitrError
from pitr.operations.merge import MergeResult, unheard
from pitr.operations.postgres.merge import Run, run_plan
from pitr.operations.postgres.undo import undo_merge
from pitr.operations.undo import UndoWish
from pitr.postgres.diff.candidates import Limits
from pitr.postgres.diff.classified import ClassifiedTable, classify, stream_rows
from pitr.postgres.diff.states import States, comparing
from pitr.postgres.live.connection import connect
from pitr.postgres.merge.kin import Classifier
from pitr.postgres.merge.plan import PlanRequest, make_plan
from pitr.postgres.replay.definition_dump import dump_definitions
from pitr.postgres.replay.server import find_binaries
from pitr.postgres.tables.name import TableName
from pitr.recovery.folder import RecoveredTable, Recovery, new_recovery
from pitr.recovery.merges import read_merge
from pitr.vocabulary.diff_row import DiffRow
from pitr.vocabulary.event import OnEvent
from pitr.vocabulary.plan import MergeOptions, OnStep, Plan
from pitr.vocabulary.row_class import ConflictPolicy
from pitr.vocabulary.target import ResolvedTarget
from tools.postgres_servers import Server

# Every row of every table, each value as PostgreSQL writes it.
Image = dict[str, Counter[tuple[str | None, ...]]]

_TABLES = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
AND NOT c.relispartition
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a merge ended: with a result, or with an error; and the exit code of the command."""

    code: int
    result: MergeResult | None = None
    error: PitrError | None = None

    @property
    def merge(self) -> str:
        """Return the merge's id; there must be one."""
        assert self.result is not None, (self.error, self.error and self.error.detail)
        assert self.result.merge is not None, self.result.plan
        return self.result.merge

    @property
    def plan(self) -> Plan:
        """Return the plan; there must be one."""
        assert self.result is not None, (self.error, self.error and self.error.detail)
        return self.result.plan


class RepairWorld:
    """A database that lives on, with copies of it taken at moments: the sidecars."""

    def __init__(self, server: Server, state: Path, *statements: str) -> None:
        self.server = server
        self.state = state
        self._recoveries = 0
        self.name = f"live_{uuid.uuid4().hex[:10]}"
        self._marks: list[str] = []
        server.query(f"CREATE DATABASE {self.name}")
        self.app = server.connect(self.name)
        self.run(*statements)

    def close(self) -> None:
        """Drop the database and its copies."""
        self.app.close()
        for name in (*self._marks, self.name):
            self.server.query(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as the application; return the rows of the last."""
        rows: list[tuple[Any, ...]] = []
        for statement in statements:
            cursor = self.app.execute(statement.encode())
            rows = cursor.fetchall() if cursor.description else []
        return rows

    def mark(self) -> str:
        """Keep the state of now as a database of its own; return its name."""
        name = f"{self.name}_{len(self._marks)}"
        self.app.close()  # a database is copied while nobody is connected to it
        self.server.query(f"CREATE DATABASE {name} TEMPLATE {self.name}")
        self._marks.append(name)
        self.app = self.server.connect(self.name)
        return name

    @contextmanager
    def states(
        self,
        before: str,
        *tables: str,
        after: str | None = None,
        where: str | None = None,
        columns: tuple[str, ...] | None = None,
        user: str = "postgres",
        host: str | None = None,
    ) -> Iterator[States]:
        """Open the states, each by a connection of its own."""
        with ExitStack() as stack:

            def connected(name: str) -> Connection[tuple[Any, ...]]:
                connection = psycopg.connect(self.server.conninfo(name), autocommit=True)
                return stack.enter_context(closing(connection))

            more = {"host": host} if host else {}
            place = make_conninfo(self.server.conninfo(self.name, user), **more)
            yield States(
                before=connected(before),
                live=stack.enter_context(closing(connect(place, is_as_role=True))),
                tables=tuple(map(table_name, tables)),
                after=connected(after) if after else None,
                where=where,
                columns={table_name(t): columns for t in tables} if columns else {},
                define=partial(
                    dump_definitions,
                    self._pg_dump(),
                    {**os.environ, **self.server.environment(before)},
                    None,
                ),
            )

    def _pg_dump(self) -> Path:
        """Return the server's own; 13 comes without one, and 15's can tell of it."""
        own = self.server.bin / "pg_dump"
        return own if own.exists() else find_binaries(15, chosen=None).path("pg_dump")

    def diff(self, before: str, *tables: str, limits: Limits | None = None, **how: Any) -> Diff:
        """Compare, and return all rows."""
        with self.states(before, *tables, **how) as states, comparing(states):
            classified = classify(states, limits)
            rows = [list(stream_rows(states.live, table)) for table in classified]
        return Diff(classified, [row for some in rows for row in some])

    def plan(self, before: str, *tables: str, user: str = "postgres", **how: Any) -> Plan:
        """Plan a merge."""
        opening = {name: how.pop(name) for name in ("after", "where", "columns") if name in how}
        with self.states(before, *tables, user=user, **opening) as states, comparing(states):
            request = self._request("r", **how)
            return make_plan(states, Classifier(request.options).classify(states), request).plan

    def merge(
        self,
        before: str,
        *tables: str,
        user: str = "postgres",
        is_agreed: bool = True,
        confirm: Callable[[Plan], None] = lambda _plan: None,
        on_step: OnStep = lambda _step: None,
        lock_seconds: float = 2.0,
        statement_seconds: float = 0.0,
        report: OnEvent = unheard,
        limits: Limits | None = None,
        **how: Any,
    ) -> Outcome:
        """Merge a recovery made now, and return how it ended."""
        opening = {
            name: how.pop(name) for name in ("after", "where", "columns", "host") if name in how
        }
        recovery = self._recovery(tables)
        request = self._request(recovery, **how)
        classifier = Classifier(request.options, limits)
        run = Run(
            state=self.state,
            recovery=recovery,
            undoes=None,
            is_agreed=is_agreed,
            saved=None,
            lock_seconds=lock_seconds,
            confirm=confirm,
            on_step=on_step,
            reconnect=lambda: connect(self.url(user)),
            classify=classifier.classify,
            again=classifier.again,
            statement_seconds=statement_seconds,
            report=report,
        )
        try:
            with self.states(before, *tables, user=user, **opening) as states:
                result = run_plan(states, request, run)
        except PitrError as error:
            return Outcome(error.exit_code, error=error)
        return Outcome(1 if result.plan.blocking else 0, result)

    def undo(
        self,
        merge: str,
        *,
        on_conflict: str = "abort",
        on_step: OnStep = lambda _step: None,
        lock_seconds: float = 2.0,
    ) -> Outcome:
        """Take a merge back, and return how it ended."""
        wish = UndoWish(
            merge_id=merge,
            on_conflict=ConflictPolicy(on_conflict),
            is_agreed=True,
            lock_seconds=lock_seconds,
        )
        try:
            with closing(connect(self.url(), is_as_role=True)) as live:
                result = undo_merge(
                    self.state,
                    read_merge(self.state, merge),
                    wish,
                    live,
                    reconnect=lambda: connect(self.url()),
                    confirm=lambda _plan: None,
                    on_step=on_step,
                )
        except PitrError as error:
            return Outcome(error.exit_code, error=error)
        return Outcome(1 if result.plan.blocking else 0, result)

    def url(self, user: str = "postgres") -> str:
        """Return how pitr reaches the live database."""
        return self.server.url(self.name, user)

    def _request(self, recovery: str, **how: Any) -> PlanRequest:
        how["on_conflict"] = ConflictPolicy(how.pop("on_conflict", "abort"))
        how["set_columns"] = tuple(how.pop("set_columns", {}).items())
        return PlanRequest(
            recovery=recovery, source=self.url(), target="then", options=MergeOptions(**how)
        )

    def _recovery(self, tables: tuple[str, ...]) -> str:
        """Make the folder of a recovery, as `restore` does."""
        self._recoveries += 1
        with new_recovery(self.state, label="test", now_us=self._recoveries * 1_000_000) as new:
            recovery = Recovery(
                id=new.id,
                engine="postgres",
                source=self.url(),
                archive="memory",
                created_us=self._recoveries,
                target="test",
                resolved=ResolvedTarget(None, "lsn:0/1", None, None),
                sidecar="none",
                tables=tuple(RecoveredTable(name, 0) for name in tables),
                where=None,
                seconds=0.0,
                bytes_read=0,
            )
            new.finish(recovery)
        return new.id

    def image(self) -> Image:
        """Return every row of the live database."""
        found: Image = {}
        for schema, name in sorted(self.run(_TABLES)):
            table = TableName(schema, name)
            rows = self.run(f"SELECT t::text FROM {table.sql} AS t")
            found[str(table)] = Counter(rows)
        return found

    def changed_since(self, image: Image) -> dict[str, tuple[list[str], list[str]]]:
        """Return, of each table that changed, the rows that went and those that came.

        That nothing else is listed is the proof that all other rows are what they were.
        """
        now = self.image()
        found = {}
        for name in sorted(image.keys() | now.keys()):
            was, became = image.get(name, Counter()), now.get(name, Counter())
            if was != became:
                gone = sorted(str(row[0]) for row in (was - became).elements())
                come = sorted(str(row[0]) for row in (became - was).elements())
                found[name] = (gone, come)
        return found


class Diff:
    """The tables of a diff, and all of its rows."""

    def __init__(self, tables: list[ClassifiedTable], rows: list[DiffRow]) -> None:
        self.tables = tables
        self.rows = rows

    @property
    def classes(self) -> dict[str, list[Any]]:
        """Return the keys of the rows of each class; one value where the key is one column."""
        found: dict[str, list[Any]] = {}
        for row in self.rows:
            key = row.before if not row.key else row.key[0] if len(row.key) == 1 else row.key
            found.setdefault(str(row.row_class), []).append(key)
        return found

    @property
    def warnings(self) -> list[str]:
        """Return the warnings of all tables."""
        return [warning for table in self.tables for warning in table.warnings]


def table_name(text: str) -> TableName:
    """Return the name of a table; without a schema it is in public."""
    schema, _, name = text.rpartition(".")
    return TableName(schema or "public", name)
