"""Load recovered tables into a database of the user's: structure and rows, in one transaction.

In a sidecar that goes away afterwards the tables, with the types and sequences that they need, are
moved into one schema; pg_dump writes that schema down, and psql runs it on the other server. What
leads out of the schema is taken off first: triggers, rules, policies, foreign keys to tables that
were not chosen. Owners and rights are not taken along.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

import psycopg
from psycopg.sql import SQL, Identifier

from pitr.errors import DatabaseRefused, SidecarFailed, UsageError
from pitr.postgres.replay.reader import condition_refused, connect_reader
from pitr.postgres.replay.server import RunningServer
from pitr.postgres.replay.target_tables import Connection, TargetRelation, statement_of

_DUMP = (
    "--no-owner",
    "--no-privileges",
    "--no-publications",
    "--no-subscriptions",
    "--no-security-labels",
    "--no-tablespaces",
)


def gather(
    started: RunningServer,
    database: str,
    tables: Sequence[TargetRelation],
    schema: str,
    where: str | None,
) -> None:
    """Move tables into a new schema of the sidecar; of their rows those stay that are chosen.

    Raises UsageError for two tables of one name, or a condition that fails.
    """
    with contextlib.closing(started.connect(database)) as connection:
        connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(schema)))
        try:
            if where is not None:
                _keep_chosen(started, database, connection, tables, schema, where)
            with connection.transaction():
                _move(connection, tables, schema)
        except psycopg.errors.DuplicateTable as error:
            raise UsageError(
                "two of the tables have the same name",
                detail=f"The server said: {str(error).splitlines()[0]}.",
                hint="All are loaded into one schema: restore them one by one.",
            ) from None


def _keep_chosen(
    started: RunningServer,
    database: str,
    connection: Connection,
    tables: Sequence[TargetRelation],
    schema: str,
    where: str,
) -> None:
    """Delete the rows that a condition is not true for; the reading role finds out which."""
    places = SQL("{}.pitr_left_out").format(Identifier(schema)).as_string(connection)
    with contextlib.closing(connect_reader(started, database, read_only=False)) as reader:
        role = Identifier(reader.info.user)
        connection.execute(f"CREATE TABLE {places} (relation oid, place tid)".encode())
        connection.execute(SQL("GRANT USAGE ON SCHEMA {} TO {}").format(Identifier(schema), role))
        connection.execute(SQL("GRANT INSERT ON {} TO {}").format(SQL(places), role))
        for table in tables:
            found = f"SELECT tableoid, ctid FROM {table.quoted} WHERE ({where}) IS NOT TRUE"
            try:
                reader.execute(f"INSERT INTO {places} {found}".encode())
            except psycopg.Error as error:
                raise condition_refused(error) from None
            connection.execute(
                f"DELETE FROM {table.quoted} AS t USING {places} AS p"
                " WHERE t.tableoid = p.relation AND t.ctid = p.place".encode()
            )
    connection.execute(f"DROP TABLE {places}".encode())


def _move(connection: Connection, tables: Sequence[TargetRelation], schema: str) -> None:
    values = {"tables": [table.oid for table in tables], "schema": schema}
    for step in ("loading_cut", "loading_move"):
        found = connection.execute(statement_of(step), values).fetchall()
        for (statement,) in found:
            connection.execute(str(statement).encode())


def load(started: RunningServer, database: str, schema: str, place: str) -> None:
    """Write a schema of the sidecar into the database at `place`, all of it or nothing.

    psql gets COMMIT only when pg_dump came to its end. Raises DatabaseRefused with the server's
    words, SidecarFailed.
    """
    programs = started.server.binaries
    dump = [str(programs.path("pg_dump")), *_DUMP, "--schema", f'"{schema}"']
    run = [str(programs.path("psql")), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", place, "-f", "-"]
    with (
        tempfile.TemporaryFile() as dump_said,
        tempfile.TemporaryFile() as psql_said,
        subprocess.Popen(
            dump,
            env=started.environment(database),
            stdout=subprocess.PIPE,
            stderr=dump_said,
        ) as writer,
        subprocess.Popen(
            run, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=psql_said
        ) as reader,
    ):
        assert writer.stdout is not None
        assert reader.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # psql says why it ended
            reader.stdin.write(b"BEGIN;\n")
            shutil.copyfileobj(writer.stdout, reader.stdin)
            if writer.wait() == 0:
                reader.stdin.write(b"\nCOMMIT;\n")
        with contextlib.suppress(BrokenPipeError):
            reader.stdin.close()
        writer.stdout.close()
        code, wrote = reader.wait(), writer.wait()
        for file in (dump_said, psql_said):
            file.seek(0)
        said = psql_said.read().decode(errors="replace").strip()
        if code != 0:
            raise DatabaseRefused(
                f"the tables could not be loaded into {place}",
                detail=f"It said: {said}. Nothing of them is there.",
                hint="What they need besides, such as an extension, has to be there first.",
            )
        if wrote != 0:
            raise SidecarFailed(
                "the tables could not be read from the sidecar",
                detail=f"pg_dump said: {dump_said.read().decode(errors='replace').strip()}.",
                hint="Run it again; if it fails again, report this.",
            )
