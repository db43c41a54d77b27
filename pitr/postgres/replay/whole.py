"""A whole cluster recovered by PostgreSQL alone, from an exported base and all of its WAL.

Nothing is distilled and no file is left out: what surgical replay brings back is compared with it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg.sql import SQL, Identifier

from pitr.errors import SidecarFailed
from pitr.postgres.base.control import parse_control
from pitr.postgres.replay import datadir
from pitr.postgres.replay.reader import roll_back_prepared
from pitr.postgres.replay.server import RunningServer, ServerFolder, running
from pitr.postgres.wal.segment_name import history_name

_PREPARED_MAX = 1000
_CONTROL = "global/pg_control"
_FROM_BASE = ("postgresql.auto.conf", "tablespace_map", "standby.signal", "backup_manifest")


@dataclass(frozen=True, slots=True)
class Digest:
    """The rows of a table: how many, and sums over the hashes of their text; order is no matter."""

    rows: int
    hashes: tuple[str, str]


@contextlib.contextmanager
def recovered_whole(server: ServerFolder, timeline: int, database: str) -> Iterator[RunningServer]:
    """Recover an exported data directory to where its WAL ends; the server runs during the block.

    Raises SidecarFailed.
    """
    has_history = (server.data / "pg_wal" / history_name(timeline)).exists()
    control = parse_control((server.data / _CONTROL).read_bytes())
    settings = {
        **datadir.sidecar_settings(control, max_prepared_transactions=_PREPARED_MAX),
        "restore_command": "false",
        "recovery_target_timeline": str(timeline) if has_history else "current",
    }
    for name in _FROM_BASE:
        (server.data / name).unlink(missing_ok=True)
    datadir.settle(server, settings)
    datadir.write(server, "pg_hba.conf", b"local all all trust\n")
    datadir.write(server, "pg_ident.conf", b"")
    datadir.write(server, "recovery.signal", b"")
    _own(server)
    with running(server, keep_changes=False) as started:
        with contextlib.closing(started.connect(database)) as connection:
            roll_back_prepared(connection)
        yield started


def _own(server: ServerFolder) -> None:
    """Give the whole folder to the account that the server runs as."""
    server.account.own(server.folder)
    for folder, folders, names in os.walk(server.folder):
        for name in (*folders, *names):
            server.account.own(server.folder / folder / name)
    server.data.chmod(0o700)


def digest_of(started: RunningServer, database: str, table: str) -> Digest:
    """Return the digest of a table, given by its name for SQL. Raises SidecarFailed."""
    with contextlib.closing(started.connect(database, read_only=True)) as connection:
        found = connection.execute(
            SQL(
                "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text,"
                " coalesce(sum(hashtextextended(t::text, 1)), 0)::text FROM {} AS t"
            ).format(_as_sql(table))
        ).fetchone()
    assert found is not None
    return Digest(found[0], (found[1], found[2]))


def first_row(started: RunningServer, database: str, table: str) -> None:
    """Fetch the first row of a table, if it has one."""
    with contextlib.closing(started.connect(database, read_only=True)) as connection:
        connection.execute(SQL("SELECT * FROM {} LIMIT 1").format(_as_sql(table))).fetchone()


def faults_of(started: RunningServer, database: str, table: str) -> list[str]:
    """Return what amcheck says of a table and its indexes, and where their counts contradict.

    For a sidecar that is thrown away: the extension is made in it. Raises SidecarFailed when the
    server's programs come without it.
    """
    with contextlib.closing(started.connect(database)) as connection:
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck SCHEMA public")
        except psycopg.Error as error:
            raise SidecarFailed(
                "amcheck is not beside the programs of the sidecar",
                detail=str(error).splitlines()[0],
                hint="Install PostgreSQL's contrib modules of the same version.",
            ) from None
        return list(_faults(connection, table))


def _faults(connection: psycopg.Connection, table: str) -> Iterator[str]:
    (schema,) = connection.execute(
        "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
        " WHERE e.extname = 'amcheck'"
    ).fetchone() or ("public",)
    heaps = connection.execute(
        "SELECT c.oid FROM pg_partition_tree(%s::regclass) p JOIN pg_class c ON c.oid = p.relid"
        " WHERE c.relkind IN ('r', 'm') UNION SELECT %s::regclass::oid",
        (table, table),
    ).fetchall()
    heap = SQL("SELECT msg FROM {}.verify_heapam(%s::oid::regclass)").format(Identifier(schema))
    index = SQL("SELECT {}.bt_index_check(i.indexrelid, true)").format(Identifier(schema))
    for (oid,) in heaps:
        kind = connection.execute("SELECT relkind FROM pg_class WHERE oid = %s", (oid,)).fetchone()
        if kind is None or kind[0] not in ("r", "m"):
            continue
        if connection.info.server_version >= 140000:
            yield from (message for (message,) in connection.execute(heap, (oid,)))
        indexes = SQL(
            "{} FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a"
            " ON a.oid = c.relam WHERE i.indrelid = %s AND a.amname = 'btree' AND i.indisvalid"
        ).format(index)
        try:
            connection.execute(indexes, (oid,))
        except psycopg.errors.DatabaseError as error:
            yield str(error).splitlines()[0]


def _as_sql(table: str) -> SQL:
    """Take a name that is quoted already, as the catalogs gave it."""
    return SQL(table)
