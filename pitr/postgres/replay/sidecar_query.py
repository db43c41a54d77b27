"""Ask a sidecar: one statement that only reads, its values as PostgreSQL writes them."""

from __future__ import annotations

import re
import select
from collections.abc import Iterator
from dataclasses import dataclass

from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from pitr.errors import UsageError
from pitr.postgres.replay.target_tables import Connection
from pitr.vocabulary.diff_row import Row, Value
from pitr.vocabulary.query import QueryResult

_INTEGERS = frozenset((20, 21, 23, 26))
_FLOATS = frozenset((700, 701))
_ABSENT = re.compile(r'"(?:base/\d+|pg_tblspc/(?P<tablespace>\d+)/\w+/\d+)/(?P<number>\d+)[._\w]*"')


@dataclass(frozen=True, slots=True)
class FileAbsent(Exception):
    """A statement read a relation whose file the sidecar does not have: (tablespace or 0, file)."""

    file: tuple[int, int]
    said: str


def query(connection: Connection, statement: str) -> QueryResult:
    """Run one statement on a connection that only reads; rows come as they are asked for.

    Integers and floating-point numbers come as such, all else as PostgreSQL's text. Ctrl-C ends
    the wait for a row. Raises UsageError with the server's words when it refuses the statement,
    FileAbsent when it reads a table that was not recovered.
    """
    pg = connection.pgconn
    pg.send_query_params(statement.encode(), None)
    pg.set_single_row_mode()
    first = _next(connection)
    assert first is not None, "a statement has a result"
    _check(connection, first)
    columns = tuple((first.fname(at) or b"?").decode() for at in range(first.nfields))
    return QueryResult(columns, _rows(connection, first))


def _next(connection: Connection) -> PGresult | None:
    """Return the next result; wait in select, where signals are heard, and not in libpq."""
    pg = connection.pgconn
    while pg.is_busy():
        select.select([pg.socket], [], [])
        pg.consume_input()
    return pg.get_result()


def _rows(connection: Connection, first: PGresult) -> Iterator[Row]:
    types = [first.ftype(column) for column in range(first.nfields)]
    result: PGresult | None = first
    while result is not None:
        try:
            _check(connection, result)
        except FileAbsent as absent:
            raise UsageError(
                "the statement reads a table that shows only after its first rows",
                detail=f"The server said: {absent.said}.",
                hint="Restore that table too with 'pitr restore -t', and ask the recovery.",
            ) from None
        for row in range(result.ntuples):
            yield tuple(
                _value(result.get_value(row, column), kind) for column, kind in enumerate(types)
            )
        result = _next(connection)


def _check(connection: Connection, result: PGresult) -> None:
    """Raise what a result says, when it is an error; the connection can be used again."""
    if result.status != ExecStatus.FATAL_ERROR:
        return
    while _next(connection) is not None:
        pass
    raise absent_file(result) or refused(result)


def absent_file(result: PGresult) -> FileAbsent | None:
    """Return the file that the sidecar lacks, when that is what an error says."""
    said = (result.error_field(DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")
    absent = _ABSENT.search(said)
    if result.error_field(DiagnosticField.SQLSTATE) != b"58P01" or absent is None:
        return None
    return FileAbsent((int(absent["tablespace"] or 0), int(absent["number"])), said)


def refused(result: PGresult) -> UsageError:
    """Return the error for a statement that the server refused, in its words."""
    return UsageError(
        "the sidecar refused the statement",
        detail=result.error_message.decode(errors="replace").strip(),
        hint="Give one SELECT, as psql would take it.",
    )


def _value(data: bytes | None, kind: int) -> Value:
    if data is None:
        return None
    text = data.decode(errors="replace")
    if kind in _INTEGERS:
        return int(text)
    if kind in _FLOATS:
        return float(text)
    return text
