"""Run a migration's statements in a sidecar as psql would: one by one, each by itself unless BEGIN.

The session is an ordinary one of the role that runs the migration; rows that come back are thrown
away as they come.
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from pglast import ast
from psycopg.pq import DiagnosticField, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

from pitr.postgres.guard.acts import Statement
from pitr.postgres.guard.confining import SidecarRoles, with_superuser
from pitr.postgres.replay.sidecar_query import absent_file
from pitr.vocabulary.statement_finding import Severity, StatementFinding

_DENIED, _NO_FILE = "42501", "58P01"
_NO_HANDLER = "55000"
_UNCOMMITTED = "the file ends inside a transaction, which is rolled back"
_SUPERUSER = "it was not rehearsed, only a superuser may do it and the sidecar has none: "
_OUTSIDE = "it was not rehearsed, a sidecar reaches nothing outside the database: "
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TextStatements:
    """The statements of one text, and the rows behind each COPY FROM STDIN."""

    statements: Sequence[Statement]
    rows: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Refusal:
    state: str
    message: str


def run_text(roles: SidecarRoles, text: TextStatements) -> tuple[list[StatementFinding], int]:
    """Run a text in a session of its own; return findings, and how many statements were run.

    The first statement that fails ends it, and what is not committed then is rolled back. Raises
    FileAbsent for a table that was not recovered, psycopg.Error when the server goes away.
    """
    found: list[StatementFinding] = []
    done = 0
    connection = roles.connect()
    try:
        for statement, rows in zip(text.statements, text.rows, strict=True):
            done += 1
            refusal = _run(roles, connection, statement, rows)
            if refusal is not None:
                return [_finding(roles, statement, refusal)], done
        if connection.pgconn.transaction_status != TransactionStatus.IDLE:
            last = text.statements[-1]
            at = (last.begin, last.text)
            found.append(StatementFinding(*at, "uncommitted", Severity.WARNING, _UNCOMMITTED))
    finally:
        connection.close()
    return found, done


def _finding(roles: SidecarRoles, statement: Statement, refusal: _Refusal) -> StatementFinding:
    at = (statement.begin, statement.text)
    reason = None
    if refusal.state == _DENIED and roles.was_superuser:
        reason = _SUPERUSER
    elif refusal.state == _NO_FILE or (
        refusal.state == _NO_HANDLER and "foreign-data wrapper" in refusal.message
    ):
        reason = _OUTSIDE
    if reason is not None:
        message = f"{reason}{refusal.message}"
        return StatementFinding(*at, "not_rehearsed", Severity.ERROR, message)
    message = f"the server said: {refusal.message}"
    if refusal.state == _DENIED:
        message += f" It ran as {roles.role}; another role: --role."
    return StatementFinding(*at, "failed", Severity.ERROR, message)


def _run(
    roles: SidecarRoles, connection: psycopg.Connection, statement: Statement, rows: str
) -> _Refusal | None:
    if isinstance(statement.node, ast.CreateExtensionStmt | ast.AlterExtensionStmt):
        with with_superuser(roles):
            return _send(connection, statement.text, rows)
    return _send(connection, statement.text, rows)


def _send(connection: psycopg.Connection, text: str, rows: str) -> _Refusal | None:
    """Run one statement to its end; return what the server refused it with."""
    pg = connection.pgconn
    pg.send_query(text.encode())
    pg.set_single_row_mode()
    refusal = None
    while (result := _next(connection)) is not None:
        if result.status == ExecStatus.COPY_IN:
            _copy_in(connection, rows.encode())
        elif result.status == ExecStatus.COPY_OUT:
            _copy_out(connection)
        elif result.status == ExecStatus.FATAL_ERROR:
            refusal = refusal or _refusal(result)
    return refusal


def _next(connection: psycopg.Connection) -> PGresult | None:
    """Return the next result; wait in select, where signals are heard, and not in libpq."""
    pg = connection.pgconn
    while pg.is_busy():
        select.select([pg.socket], [], [])
        pg.consume_input()
    return pg.get_result()


def _copy_in(connection: psycopg.Connection, data: bytes) -> None:
    for begin in range(0, len(data), _CHUNK_BYTES):
        connection.pgconn.put_copy_data(data[begin : begin + _CHUNK_BYTES])
    connection.pgconn.put_copy_end()


def _copy_out(connection: psycopg.Connection) -> None:
    while connection.pgconn.get_copy_data(0)[0] > 0:
        pass


def _refusal(result: PGresult) -> _Refusal:
    """Return what a result says. Raises FileAbsent for a table that was not recovered."""
    absent = absent_file(result)
    if absent is not None:
        raise absent
    words = [
        (result.error_field(field) or b"").decode(errors="replace")
        for field in (
            DiagnosticField.SQLSTATE,
            DiagnosticField.MESSAGE_PRIMARY,
            DiagnosticField.MESSAGE_DETAIL,
        )
    ]
    state, message, detail = words
    return _Refusal(state, f"{message.rstrip('.')}. {detail}".strip())
