"""Whether WAL is of the cluster that an archive holds. Loads no psycopg: wal-push starts often."""

from __future__ import annotations

from pitr.archive.archive import Identity
from pitr.archive.store import Store
from pitr.errors import IdentityMismatch


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
