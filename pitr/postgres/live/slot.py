"""Physical replication slots: what keeps WAL on the server until it is in the archive."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from pitr.postgres.live.connection import Connection
from pitr.postgres.live.faults import server_faults
from pitr.vocabulary.position import Lsn

_READ = files("pitr.sql").joinpath("postgres/read_slot.sql")


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot as pg_replication_slots shows it.

    `restart` is the oldest WAL that the server keeps for it, None when it keeps none (never used,
    or lost). `wal_status` is the server's word: reserved, extended, unreserved or lost.
    `safe_bytes` is how much WAL may still be written before the slot loses its own; None without
    max_slot_wal_keep_size. `kept_bytes` is how much WAL it keeps now.
    """

    name: str
    is_physical: bool
    restart: Lsn | None
    active_pid: int | None
    wal_status: str | None
    safe_bytes: int | None
    kept_bytes: int

    @property
    def is_lost(self) -> bool:
        """Return whether the server has thrown away WAL that the slot was to keep."""
        return self.wal_status == "lost"


def read_slot(connection: Connection, name: str) -> Slot | None:
    """Return a slot, None when there is none of that name. Any role may ask.

    Raises SourceUnreachable, DatabaseRefused.
    """
    with server_faults(f"cannot read the replication slot {name}"):
        row = connection.execute(_READ.read_text(), {"name": name}).fetchone()
    if row is None:
        return None
    restart = None if row[2] is None else Lsn.parse(row[2])
    kept_bytes = int(row[6] or 0)
    return Slot(row[0], row[1] == "physical", restart, row[3], row[4], row[5], kept_bytes)


def create_slot(connection: Connection, name: str, *, temporary: bool = False) -> Slot:
    """Make a physical slot that keeps WAL from this moment on, and return it.

    A temporary one goes with the connection. The role needs REPLICATION. Raises DatabaseRefused
    when the name is taken or no slot is free, PrivilegeMissing, SourceUnreachable.
    """
    with server_faults(f"cannot create the replication slot {name}"):
        connection.execute(
            "SELECT pg_catalog.pg_create_physical_replication_slot(%s, true, %s)", [name, temporary]
        )
    slot = read_slot(connection, name)
    assert slot is not None, "the slot was made a moment ago"
    return slot


def drop_slot(connection: Connection, name: str) -> bool:
    """Drop a slot, so that the server keeps no WAL for it; return whether there was one.

    Raises DatabaseRefused when a capture streams from it, PrivilegeMissing, SourceUnreachable.
    """
    if read_slot(connection, name) is None:
        return False
    with server_faults(f"cannot drop the replication slot {name}"):
        connection.execute("SELECT pg_catalog.pg_drop_replication_slot(%s)", [name])
    return True
