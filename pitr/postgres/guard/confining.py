"""The roles of a sidecar in which a migration runs: none is a superuser, and nothing leads out.

A superuser's statement could write files of the machine, run programs there and reach production
over the network, and so could functions that it sets off. So those who were superusers in
production have everything in the sidecar that roles can have, and not that. Our own connection is
that of a role that production does not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.sql import SQL, Identifier

from pitr.postgres.replay.server import PORT, RunningServer
from pitr.postgres.replay.target_tables import Connection, TargetRelation, statement_of

_KEEPER = "pitr_keeper"
# Libraries whose functions keep to the database, as an array; those of others are not loaded.
_LIBRARIES = (
    "{plpgsql,plperl,pltcl,plv8,amcheck,autoinc,bloom,btree_gin,btree_gist,citext,cube,"
    "dict_int,dict_xsyn,fuzzystrmatch,hstore,insert_username,_int,intarray,isn,lo,ltree,"
    "moddatetime,pageinspect,pg_buffercache,pg_freespacemap,pg_stat_statements,pg_trgm,"
    "pg_visibility,pgcrypto,pgrowlocks,pgstattuple,pgxml,refint,seg,tablefunc,tcn,"
    "tsm_system_rows,tsm_system_time,unaccent,uuid-ossp,vector,postgis-3,postgis,"
    "postgis_topology,pgrouting,h3,rum,hll,ip4r,pg_bigm,semver,prefix}"
)


@dataclass(frozen=True, slots=True)
class SidecarRoles:
    """A confined sidecar: our own superuser, and the role that the migration runs as.

    `was_superuser` says that it is one in production.
    """

    started: RunningServer
    database: str
    role: str
    was_superuser: bool

    def connect(self) -> psycopg.Connection:
        """Connect as the migration's role, with the settings that its sessions have."""
        return psycopg.connect(
            host=str(self.started.socket),
            port=PORT,
            user=self.role,
            dbname=self.database,
            options="-c local_preload_libraries=",
            client_encoding="UTF8",
            application_name="pitr guard",
            autocommit=True,
        )

    def keeper(self) -> Connection:
        """Connect as our own superuser."""
        return self.started.connect(self.database)


def confine(
    started: RunningServer, database: str, role: str, unlogged: list[TargetRelation]
) -> SidecarRoles:
    """Take from a sidecar what leads out of it; unlogged tables become empty, and can be used.

    Raises psycopg.Error.
    """
    with closing(started.connect(database)) as connection:
        taken = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
        [(was_superuser,)] = connection.execute(
            "SELECT coalesce(bool_or(rolsuper), false) FROM pg_roles WHERE rolname = %s", [role]
        ).fetchall()
        keeper = next(name for name in _names() if name not in taken)
        connection.execute(SQL("CREATE ROLE {} SUPERUSER LOGIN").format(Identifier(keeper)))
        if unlogged:
            names = ", ".join(table.quoted for table in unlogged)
            connection.execute(f"TRUNCATE {names} CASCADE".encode())
    roles = SidecarRoles(started.as_user(keeper), database, role, was_superuser)
    with closing(roles.keeper()) as connection:
        values = {"keeper": keeper, "role": role, "libraries": _LIBRARIES}
        for name, value in values.items():
            connection.execute("SELECT set_config(%s, %s, false)", [f"pitr.{name}", value])
        connection.execute(statement_of("rehearsal_confine").encode())
    return roles


@contextmanager
def with_superuser(roles: SidecarRoles) -> Iterator[None]:
    """Give the rights of superusers back for a statement: scripts of extensions need them.

    They come from files of this machine. Event triggers, which a database brings along, are off.
    """
    with closing(roles.keeper()) as connection:
        enabled = connection.execute("SELECT oid, evtenabled FROM pg_event_trigger").fetchall()
        connection.execute("UPDATE pg_event_trigger SET evtenabled = 'D'")
        set_to = "UPDATE pg_authid SET rolsuper = %s WHERE oid = 10 OR rolname = %s AND %s"
        connection.execute(set_to, [True, roles.role, roles.was_superuser])
        try:
            yield
        finally:
            connection.execute(set_to, [False, roles.role, roles.was_superuser])
            for oid, word in enabled:
                connection.execute(
                    "UPDATE pg_event_trigger SET evtenabled = %s WHERE oid = %s", [word, oid]
                )


def _names() -> Iterator[str]:
    yield _KEEPER
    number = 1
    while True:
        number += 1
        yield f"{_KEEPER}_{number}"
