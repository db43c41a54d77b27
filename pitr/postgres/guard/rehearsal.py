"""Run a migration in a sidecar with the tables that it touches, and count what it did to rows.

A table that only shows as it runs is recovered as well, and all of it is run again from the start,
so what is told comes from one run on one state.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pitr.errors import UsageError
from pitr.postgres.guard.acts import statements_of
from pitr.postgres.guard.confining import SidecarRoles, confine
from pitr.postgres.guard.script import copied_rows, plain_sql, telling_commands
from pitr.postgres.guard.session import TextStatements, run_text
from pitr.postgres.guard.tallying import SETTINGS, Counter, Tally
from pitr.postgres.guard.touched import Touched, touched_tables
from pitr.postgres.replay.replay import Replay
from pitr.postgres.replay.server import RunningServer
from pitr.postgres.replay.sidecar_query import FileAbsent
from pitr.postgres.replay.target_tables import Connection, TargetRelation, owning_table
from pitr.vocabulary.statement_finding import StatementFinding

# How often tables that only show as the migration runs are recovered as well.
_ROUNDS_MAX = 16


@dataclass(frozen=True, slots=True)
class RehearsalOutcome:
    """What texts did in a sidecar, and the statements of each that failed or were not rehearsed.

    `seconds` is how long the texts ran; `recovered` the tables that were recovered for it, and
    `unlogged` those that were empty because no WAL has their rows.
    """

    findings: list[list[StatementFinding]]
    statements: int
    tally: Tally
    recovered: list[TargetRelation]
    unlogged: list[TargetRelation]
    seconds: float


def read_text(text: str) -> TextStatements:
    """Return the statements of a text. Raises UsageError for what is not in it, or is no SQL."""
    for command in telling_commands(text):
        line = text.count("\n", 0, command.begin) + 1
        raise UsageError(
            f"this cannot be rehearsed, in line {line}: {command.text}",
            detail="What psql does by it is not in the file.",
            hint="Give the files that it reads by name, in their order; or run all of it under "
            "'pitr guard run'.",
        )
    sql, _ = plain_sql(text)
    statements = list(statements_of(sql))
    rows = [copied_rows(text, statement.begin) for statement in statements]
    return TextStatements(statements, rows)


def rehearse(
    replay: Replay, texts: Sequence[TextStatements], database: str, role: str
) -> RehearsalOutcome:
    """Run texts as a role of production's, each in a session of its own, and count.

    What comes after a statement that fails is not run. Raises UsageError for what cannot be
    rehearsed, and what recovering raises.
    """
    statements = [statement for text in texts for statement in text.statements]
    touched = Touched([], [])
    more: frozenset[int] = frozenset()

    def choose(_: RunningServer, connection: Connection) -> list[TargetRelation]:
        nonlocal touched
        touched = touched_tables(connection, role, statements, more)
        return touched.tables

    for _ in range(_ROUNDS_MAX):
        catalogs = replay.find_chosen(database, choose)
        with replay.asked(catalogs, SETTINGS) as started:
            found = _round(started, database, touched, texts, role)
        news = frozenset({found}) if isinstance(found, int) else found.tally.uncounted - more
        if isinstance(found, RehearsalOutcome) and not news:
            return found
        more |= news
    raise UsageError(
        "the files touch too many tables that only show as they run",
        detail=f"They were run {_ROUNDS_MAX} times, with more tables each time.",
        hint="Run them under 'pitr guard run', which counts what they really do.",
    )


def _round(
    started: RunningServer,
    database: str,
    touched: Touched,
    texts: Sequence[TextStatements],
    role: str,
) -> RehearsalOutcome | int:
    """Run the texts once; return the OID of a table instead that was not recovered.

    Raises UsageError for a file of large objects: they are no table's.
    """
    roles = confine(started, database, role, touched.unlogged)
    counter = Counter(roles, {table.oid for table in touched.tables})
    began = time.monotonic()
    try:
        findings, statements = _run_texts(roles, texts)
    except FileAbsent as absent:
        with contextlib.closing(roles.keeper()) as connection:
            return owning_table(connection, absent.file).oid
    seconds = round(time.monotonic() - began, 3)
    return RehearsalOutcome(
        findings, statements, counter.tally(), touched.tables, touched.unlogged, seconds
    )


def _run_texts(
    roles: SidecarRoles, texts: Sequence[TextStatements]
) -> tuple[list[list[StatementFinding]], int]:
    """Run texts up to the first statement that fails; return findings by text, and statements."""
    findings: list[list[StatementFinding]] = [[] for _ in texts]
    statements = 0
    for text, found in zip(texts, findings, strict=True):
        more, done = run_text(roles, text)
        found += more
        statements += done
        if any(finding.kind != "uncommitted" for finding in found):
            break
    return findings, statements
