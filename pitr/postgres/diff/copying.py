"""Rows from one server to another as binary COPY, in pieces of a bounded size.

COPY TO sends a message for each row, so this loop runs once a row: libpq is asked directly, which
is nearly three times as fast as psycopg's own iterator over the same rows.
"""

from __future__ import annotations

import select
from collections.abc import Generator, Iterable

import psycopg
from psycopg import errors
from psycopg.pq import ExecStatus

from pitr.postgres.tables.session import Connection

_PIECE_BYTES = 256 * 1024


def copy_out(connection: Connection, query: str) -> Generator[bytes, None, int]:
    """Yield the rows of a query as PostgreSQL's binary COPY format, in pieces of some 256 KiB.

    A row larger than that comes in one piece. Returns the number of rows. Raises psycopg.Error.
    Given up early, the query is cancelled, and the transaction has failed.
    """
    pg = connection.pgconn
    pg.send_query(f"COPY ({query}) TO STDOUT (FORMAT BINARY)".encode())
    _expect(connection, ExecStatus.COPY_OUT)
    piece, next_row = bytearray(), pg.get_copy_data
    is_over = False
    try:
        while True:
            size, data = next_row(1)
            while size > 0:
                piece += data
                size, data = next_row(1)
            if size < 0:
                break
            if len(piece) >= _PIECE_BYTES:  # all that had arrived is in it
                yield bytes(piece)
                piece.clear()
            _wait(connection)
        is_over = True
        rows = _expect(connection, ExecStatus.COMMAND_OK)
        _expect(connection, None)
        if piece:
            yield bytes(piece)
        return rows
    finally:
        if not is_over:
            connection.cancel_safe()
            _drain(connection)


def _expect(connection: Connection, status: ExecStatus | None) -> int:
    """Take the next result, or the end of them for None; return its rows.

    Raises what the server says.
    """
    pg = connection.pgconn
    while pg.is_busy():
        _wait(connection)
    result = pg.get_result()
    if result is None:
        if status is not None:
            raise psycopg.OperationalError("the server ended a COPY without a word")
        return 0
    if result.status != status:
        _drain(connection)
        raise errors.error_from_result(result, encoding="utf-8")
    return result.command_tuples or 0


def _drain(connection: Connection) -> None:
    pg = connection.pgconn
    while True:
        result = pg.get_result()
        if result is None:
            return
        if result.status == ExecStatus.COPY_OUT:
            while pg.get_copy_data(0)[0] > 0:
                pass


def _wait(connection: Connection) -> None:
    pg = connection.pgconn
    select.select([pg.socket], [], [])
    pg.consume_input()


def copy_in(connection: Connection, table: str, columns: str, pieces: Iterable[bytes]) -> None:
    """Write pieces of binary COPY into a table. Raises psycopg.Error."""
    statement = f"COPY {table} ({columns}) FROM STDIN (FORMAT BINARY)"
    with connection.cursor().copy(statement.encode()) as copy:
        for piece in pieces:
            copy.write(piece)
