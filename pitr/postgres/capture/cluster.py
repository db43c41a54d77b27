"""Whether WAL is of the cluster that an archive holds."""

from __future__ import annotations

from pitr.archive.archive import Identity
from pitr.archive.store import Store
from pitr.errors import IdentityMismatch
from pitr.postgres.connection import Connection
from pitr.postgres.faults import server_faults


def read_system_identifier(connection: Connection) -> str:
    """Return the number of the cluster behind a connection, as IDENTIFY_SYSTEM gives it.

    Any role may ask. Raises SourceUnreachable.
    """
    with server_faults("cannot identify the server"):
        row = connection.execute("SELECT system_identifier FROM pg_control_system()").fetchone()
    assert row is not None
    return str(row[0] % (1 << 64))  # SQL has no unsigned number of 64 bits


def require_same_cluster(store: Store, identity: Identity, system_identifier: str) -> None:
    """Raise IdentityMismatch unless this is the cluster that the archive holds."""
    wanted = identity.source.get("system_identifier")
    if system_identifier != wanted:
        raise IdentityMismatch(
            "this is another cluster than the archive's",
            detail=f"Its system identifier is {system_identifier}; the archive at {store.location} "
            f"holds {identity.engine} {wanted or identity.source}.",
            hint="Name the right one, or begin an archive for this one with 'pitr init'.",
        )
