"""What a PostgreSQL server's refusals mean to the user: which error, and what to do next.

A failed login has no SQLSTATE in libpq, only the server's text, and that may be in the language of
the server. So a text that is not recognised still becomes a full error, with a hint that fits all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import errors

from pitr.errors import (
    DatabaseRefused,
    PitrError,
    PrivilegeMissing,
    SourceUnreachable,
    SourceUnusable,
)
from pitr.postgres.live.role import role_script

_PREFIX = re.compile(r"^connection (?:failed|is bad): ")  # psycopg's, before libpq's own words


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A pattern of the server's text, the error that it becomes, and the hint."""

    pattern: re.Pattern[str]
    kind: type[PitrError]
    hint: str


def _refusal(pattern: str, kind: type[PitrError], hint: str) -> _Refusal:
    return _Refusal(re.compile(pattern), kind, hint)


_REFUSALS = (
    _refusal(
        r"unsupported startup parameter",
        SourceUnusable,
        "What answers is a pooler, such as PgBouncer, which passes on neither replication nor the "
        "settings of a session: name the server itself, by its own host and port.",
    ),
    _refusal(
        r"no pg_hba\.conf entry for replication connection",
        SourceUnusable,
        "Let the role in with a line 'host replication ROLE ADDRESS scram-sha-256' in pg_hba.conf, "
        "then SELECT pg_reload_conf().",
    ),
    _refusal(
        r"no pg_hba\.conf entry|pg_hba\.conf rejects",
        SourceUnusable,
        "Let the role in with a line in pg_hba.conf, then SELECT pg_reload_conf().",
    ),
    _refusal(
        r"must be superuser or replication role|permission denied to start WAL sender",
        PrivilegeMissing,
        "As a superuser: ALTER ROLE the_role REPLICATION. 'pitr check' shows all that is needed.",
    ),
    _refusal(
        r"no password supplied|password authentication failed|empty password",
        SourceUnusable,
        "Put the password into ~/.pgpass (mode 0600) as HOST:PORT:*:ROLE:PASSWORD, where * also "
        "stands for replication, or into PGPASSWORD.",
    ),
    _refusal(
        r"authentication failed|is not permitted to log in|role \".*\" does not exist",
        SourceUnusable,
        "Name another role with postgresql://ROLE@HOST/DATABASE, or make this one as a superuser: "
        f"psql -v role=ROLE -f {role_script()} DATABASE",
    ),
    _refusal(
        r"too many clients|connection slots are reserved|too many connections|"
        r"requested standby connections exceeds|all server processes are in use",
        SourceUnreachable,
        "Wait until connections are free, or raise max_connections or max_wal_senders.",
    ),
    _refusal(
        r"is starting up|is shutting down|recovery mode|not yet accepting|not accepting",
        SourceUnreachable,
        "Wait until the server takes connections.",
    ),
    _refusal(
        r"database \".*\" does not exist",
        SourceUnusable,
        "Name a database that exists, with postgresql://…/DATABASE or 'database' in pitr.toml.",
    ),
)
_UNKNOWN_HINT = (
    "See that the server runs and that this is where, with 'pg_isready' or 'psql': host, port, "
    "role and password follow libpq's rules (PGHOST, PGSERVICE, ~/.pgpass …)."
)
# What a merge needs beside its tables, and of what kind the server says that it was denied.
_DENIED = re.compile(
    r"ermission denied for (type|function|schema|sequence) ([^\s.]+(?:\.[^\s.]+)?)"
)
_GRANTED = {
    "type": "USAGE ON TYPE",
    "function": "EXECUTE ON FUNCTION",
    "schema": "USAGE ON SCHEMA",
    "sequence": "SELECT, UPDATE ON SEQUENCE",
}
# SQLSTATE classes after which the connection is gone or soon will be: 08 connection exceptions,
# 53 insufficient resources, 57P operator intervention.
_GONE = ("08", "53", "57P")


def connection_fault(error: psycopg.Error, place: str) -> PitrError:
    """Return the error for a connection that could not be made to `place`."""
    text = _one_line(str(error))
    for refusal in _REFUSALS:
        if refusal.pattern.search(text):
            return refusal.kind(f"cannot connect to {place}", detail=text, hint=refusal.hint)
    kind = SourceUnusable if "FATAL" in text else SourceUnreachable
    return kind(f"cannot connect to {place}", detail=text, hint=_UNKNOWN_HINT)


def server_fault(error: psycopg.Error, failed: str) -> PitrError:
    """Return the error, with the message `failed`, for a command that a server did not do."""
    text = _one_line(str(error)) or f"{type(error).__name__}."
    state = error.sqlstate or ""
    if isinstance(error, errors.InsufficientPrivilege):
        hint = "'pitr check' shows what the role needs, and the SQL that grants it."
        if denied := _DENIED.search(text):
            hint = f"As its owner: GRANT {_GRANTED[denied[1]]} {denied[2]} TO the_role;"
        return PrivilegeMissing(failed, detail=text, hint=hint)
    lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not state
    if lost or state.startswith(_GONE):
        return SourceUnreachable(
            failed,
            detail=text,
            hint="The connection to the server was lost. Try again once 'pitr check' gets through.",
        )
    return DatabaseRefused(failed, detail=text)


@contextmanager
def server_faults(failed: str) -> Iterator[None]:
    """Run a block; raise a PitrError whose message is `failed` for an error of the server."""
    try:
        yield
    except psycopg.Error as error:
        raise server_fault(error, failed) from error


def _one_line(text: str) -> str:
    """Return what libpq says in several lines as sentences in one."""
    joined = ""
    for line in filter(None, map(str.strip, _PREFIX.sub("", text).splitlines())):
        begins = line[0].isupper() and joined and not joined.endswith((".", "?", ":"))
        joined += f"{'.' if begins else ''} {line}" if joined else line
    joined += "" if not joined or joined.endswith((".", "?", ":")) else "."
    return joined[:1].upper() + joined[1:]
