"""Ask a sidecar: one statement that only reads, its values as PostgreSQL writes them."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from pitr.errors import UsageError
from pitr.postgres.replay.server import RunningServer
from pitr.vocabulary.diff_row import Row, Value
from pitr.vocabulary.query import QueryResult

_INTEGERS = frozenset((20, 21, 23, 26))
_FLOATS = frozenset((700, 701))


def query(server: RunningServer, database: str, statement: str) -> QueryResult:
    """Run one statement in a transaction that cannot write.

    Integers and floating-point numbers come as such, all else as PostgreSQL's text.
    Raises UsageError with the server's words when it refuses the statement.
    """
    connection = server.connect(database, read_only=True)
    try:
        # As the user's own session would look names up: ours is pinned to the catalogs.
        connection.execute("SET search_path = public, pg_catalog")
        result = connection.pgconn.exec_params(statement.encode(), None)
    finally:
        connection.close()
    if result.status == ExecStatus.FATAL_ERROR:
        raise UsageError(
            "the sidecar refused the statement",
            detail=result.error_message.decode(errors="replace").strip(),
            hint="Give one SELECT, as psql would take it.",
        )
    columns = tuple((result.fname(at) or b"?").decode() for at in range(result.nfields))
    return QueryResult(columns, _rows(result))


def _rows(result: PGresult) -> Iterator[Row]:
    types = [result.ftype(column) for column in range(result.nfields)]
    for row in range(result.ntuples):
        yield tuple(
            _value(result.get_value(row, column), kind) for column, kind in enumerate(types)
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
