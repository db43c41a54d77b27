"""The role that statements of users run as: it may read all of a database, and nothing else.

A superuser's statement could read and write files of the machine and run programs on it, through
functions and foreign tables of the recovered database too. This role is made in the sidecar, and
what it may read is given to it there; it is no member of anything that reaches out.
"""

from __future__ import annotations

import contextlib

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from pitr.errors import UsageError
from pitr.postgres.replay.server import PORT, RunningServer
from pitr.postgres.replay.target_tables import Connection

_NAME = "pitr_reader"
_COMMENT = "Made by pitr in this sidecar; the source has no such role."
_READS_ALL = 140_000  # since then there is pg_read_all_data
# Texts of values are to mean the same wherever they are printed. All of these any role may set.
_SESSION = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "local_preload_libraries": "",
    "TimeZone": "UTC",
    "DateStyle": "ISO,YMD",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "jit": "off",
}


def connect_reader(started: RunningServer, database: str, *, read_only: bool = True) -> Connection:
    """Connect as the reading role, which is made when the sidecar does not have it yet.

    In autocommit mode, every transaction read-only unless the role is to write what it was given a
    table for; names are looked up along the search_path that the database sets, as sessions of an
    application find them. Raises psycopg.Error.
    """
    with contextlib.closing(started.connect(database)) as connection:
        roll_back_prepared(connection)
        with connection.transaction():
            role = reading_role(connection) or _make(connection)
            _admit(connection, role, database)
    settings = {**_SESSION, "default_transaction_read_only": "on" if read_only else "off"}
    return psycopg.connect(
        host=str(started.socket),
        port=PORT,
        user=role,
        dbname=database,
        options=" ".join(f"-c {key}={value}" for key, value in settings.items()),
        client_encoding="UTF8",
        application_name="pitr",
        autocommit=True,
    )


def condition_refused(error: psycopg.Error) -> UsageError:
    """Return the error for a condition that the server refused when it was asked of the rows."""
    return UsageError(
        "the condition cannot be asked of the rows",
        detail=f"The server said: {str(error).strip().splitlines()[0]}.",
        hint="Give one that only reads, and fails for no row.",
    )


def roll_back_prepared(connection: Connection) -> None:
    """End the transactions that were prepared and not decided at the target: they hold locks."""
    found = connection.execute(
        "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
    ).fetchall()
    for (name,) in found:
        connection.execute(SQL("ROLLBACK PREPARED {}").format(Literal(name)))


def reading_role(connection: Connection) -> str | None:
    """Return the name of the reading role, None when the sidecar does not have it."""
    statement = (
        "SELECT rolname FROM pg_roles WHERE pg_catalog.shobj_description(oid, 'pg_authid') = %s"
    )
    found = connection.execute(statement, [_COMMENT]).fetchone()
    return None if found is None else str(found[0])


def _make(connection: Connection) -> str:
    """Make the role under a name that the recovered cluster does not have."""
    taken = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    name, number = _NAME, 1
    while name in taken:
        number += 1
        name = f"{_NAME}_{number}"
    # BYPASSRLS: a policy would hide rows without a word.
    connection.execute(SQL("CREATE ROLE {} LOGIN BYPASSRLS").format(Identifier(name)))
    connection.execute(SQL("COMMENT ON ROLE {} IS {}").format(Identifier(name), Literal(_COMMENT)))
    return name


def _admit(connection: Connection, role: str, database: str) -> None:
    """Let the role into a database to read it, and shut what leads out of it."""
    to, into = Identifier(role), Identifier(database)
    connection.execute(SQL("GRANT CONNECT ON DATABASE {} TO {}").format(into, to))
    connection.execute(SQL("ALTER DATABASE {} CONNECTION LIMIT -1").format(into))
    # Set to nothing it would be a list of one empty name, which no session survives.
    connection.execute(SQL("ALTER DATABASE {} RESET session_preload_libraries").format(into))
    connection.execute("ALTER ROLE ALL RESET session_preload_libraries")
    if connection.info.server_version >= _READS_ALL:
        connection.execute(SQL("GRANT pg_read_all_data TO {}").format(to))
    schemas = connection.execute(
        "SELECT nspname FROM pg_namespace"
        " WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
    ).fetchall()
    for (name,) in schemas:
        schema = Identifier(name)
        connection.execute(SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, to))
        for kind in ("TABLES", "SEQUENCES", "ROUTINES"):
            right = SQL("EXECUTE" if kind == "ROUTINES" else "SELECT")
            if kind == "ROUTINES" or connection.info.server_version < _READS_ALL:
                connection.execute(
                    SQL("GRANT {} ON ALL {} IN SCHEMA {} TO {}").format(
                        right, SQL(kind), schema, to
                    )
                )
    # A function runs as who calls it, and a foreign table leads nowhere: else a function of a
    # superuser's, or file_fdw, would read files and run programs on this machine.
    connection.execute("UPDATE pg_catalog.pg_proc SET prosecdef = false WHERE prosecdef")
    connection.execute("UPDATE pg_catalog.pg_foreign_data_wrapper SET fdwhandler = 0")
