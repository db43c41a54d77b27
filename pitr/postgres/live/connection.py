"""Connections to a PostgreSQL server: by libpq's conventions, with settings that we can rely on.

A place is what the user gave as the source: a `postgresql://` URL, `service=NAME`, or key=value
pairs, without a password. Whatever it leaves out comes from the PG* variables, the service file
and ~/.pgpass, as with every program on libpq. A password is never looked at here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pitr.errors import PrivilegeMissing, UsageError
from pitr.postgres.live.faults import connection_fault, server_faults

Connection = psycopg.Connection[tuple[Any, ...]]

CONNECT_SECONDS = 15
# Without these a cable that was pulled is noticed after two hours.
_KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# What a role or a database may have set otherwise, and what our reading rests on. They are given at
# the start of a session and never by a statement: behind a pooler a statement would change the
# session of whoever is given it next. A pooler refuses them, and is told from a server by that.
# search_path: names are written in full, and no function of a user's is called by mistake.
_SESSION = {
    "bytea_output": "hex",
    "DateStyle": "ISO,YMD",
    "extra_float_digits": "1",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "search_path": "pg_catalog,pg_temp",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "10s",
}
# What triggers and functions of a user's may rest on.
USER_SETTINGS = (
    "search_path", "bytea_output", "DateStyle", "extra_float_digits", "IntervalStyle", "TimeZone",
    "lc_monetary", "xmloption", "xmlbinary", "array_nulls",
)  # fmt: skip
_SERVER = ("service", "host", "hostaddr", "port")
# Of these a server of another version would know nothing, and refuse the session: since when.
_LATER = {"idle_session_timeout": 140_000, "transaction_timeout": 170_000}


def connect(
    place: str, *, database: str | None = None, program: str = "pitr", is_as_role: bool = False
) -> Connection:
    """Return a new connection with autocommit and the session settings of this module.

    `database` goes before the one that `place` names. `program` is shown in pg_stat_activity. With
    `is_as_role` what code of users may rest on is as the role has it, outside of transactions that
    are pinned (`tables.session`). Text comes as UTF-8. The caller closes it. Raises
    SourceUnreachable when no server answers, SourceUnusable when it refuses or a pooler stands
    before it, UsageError for a place that libpq does not understand.
    """
    overriding = {} if database is None else {"dbname": database}
    chosen = {name: v for name, v in _SESSION.items() if not (is_as_role and name in USER_SETTINGS)}
    options = _options(_parameters(place), chosen)
    connection = _connect(place, program, client_encoding="UTF8", options=options, **overriding)
    try:
        with server_faults(f"cannot set up a session at {place}"):
            for setting, version in _LATER.items():
                if connection.info.server_version >= version:
                    connection.execute(f"SET {setting} = 0".encode())
    except BaseException:
        connection.close()
        raise
    return connection


def require_room(place: str) -> None:
    """Raise PrivilegeMissing when the role may not make a schema in a database; as `connect`."""
    connection = connect(place, program="pitr restore")
    try:
        found = connection.execute(
            "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),"
            " current_user, pg_catalog.quote_ident(pg_catalog.current_database())"
        ).fetchone()
    finally:
        connection.close()
    assert found is not None
    may_create, role, database = found
    if not may_create:
        raise PrivilegeMissing(
            f"{role} may not make a schema in {database}",
            detail="The tables are loaded into a schema of the recovery's name.",
            hint=f"As its owner: GRANT CREATE ON DATABASE {database} TO {role};",
        )


def connect_replication(place: str, *, program: str = "pitr") -> Connection:
    """Return a new connection to a WAL sender, for physical replication; the caller closes it.

    It takes replication commands only. Text columns come as bytes. Use contextlib.closing: as a
    context manager it would send a COMMIT into a stream that still runs. Raises as `connect` does,
    and PrivilegeMissing when the role may not replicate.
    """
    return _connect(place, program, replication="true")


def in_database(place: str, database: str) -> str:
    """Return the text of a place that leads to another database of it; see `connect` for errors."""
    _parameters(place)
    return make_conninfo(place, dbname=database)


def by_role_of(place: str, other: str) -> str:
    """Return a place as another one reaches it, by its role, where both name the same server.

    Else the place itself. Raises UsageError for text that is no connection string.
    """
    own, others = _parameters(place), _parameters(other)
    if any(own.get(key) != others.get(key) for key in _SERVER):
        return place
    database = own.get("dbname")
    return other if database is None else make_conninfo(other, dbname=database)


def _options(given: dict[str, Any], settings: Mapping[str, str]) -> str:
    """Return the settings that a session begins with: the user's, then ours, which outrank them."""
    theirs = given.get("options") or os.environ.get("PGOPTIONS") or ""
    ours = " ".join(f"-c {setting}={value}" for setting, value in settings.items())
    return f"{theirs} {ours}".strip()


def _connect(place: str, program: str, **overriding: str) -> Connection:
    given = _parameters(place)
    # The program's name yields to PGAPPNAME, the rest to whatever the place says itself.
    defaults: dict[str, str | int] = {"fallback_application_name": program, **_KEEPALIVE}
    if not os.environ.get("PGCONNECT_TIMEOUT"):
        defaults["connect_timeout"] = CONNECT_SECONDS
    missing = {key: value for key, value in defaults.items() if key not in given}
    text = make_conninfo(place, **missing, **overriding)
    try:
        # Autocommit: a WAL sender knows no transactions, and elsewhere we begin our own.
        return psycopg.connect(text, autocommit=True)
    except psycopg.Error as error:
        raise connection_fault(error, place) from None


def _parameters(place: str) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(place))
    except psycopg.Error as error:
        raise UsageError(
            f"source is not understood: {place!r}",
            detail=f"{str(error).strip()}.",
            hint="Write it as postgresql://ROLE@HOST:PORT/DATABASE, or as service=NAME.",
        ) from None
