"""A PostgreSQL source with a base backup in its archive, for commands as a user types them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pitr.archive.local import LocalStore
from pitr.postgres.index.upkeep import complete_index
from pitr.postgres.wal_store.archive import WalArchive
from tests.cli.commands import succeed
from tests.postgres.backups import take
from tests.postgres.replay_world import world_folder
from tools.postgres_servers import Server

TABLE = "CREATE TABLE orders (id int PRIMARY KEY, item text)"
ROWS = "INSERT INTO orders SELECT i, 'item ' || i FROM generate_series(1, 200) AS i"


@dataclass(frozen=True, slots=True)
class Site:
    """A server, and a folder with pitr.toml, archive and a place for sidecars."""

    server: Server
    folder: Path

    def delete(self) -> int:
        """Delete all orders in one transaction; return its xid."""
        with self.server.connect() as connection:
            connection.execute("BEGIN")
            xid = connection.execute("SELECT txid_current()").fetchone()
            connection.execute("DELETE FROM orders")
            connection.execute("COMMIT")
        assert xid is not None
        return int(xid[0])

    def back_up(self) -> None:
        """Take a base backup into the archive."""
        take(self.server, LocalStore(self.folder / "archive"))

    def complete_index(self) -> None:
        """Make the index objects of all whole segments."""
        store = LocalStore(self.folder / "archive")
        complete_index(store, WalArchive(store))

    def restored(self, target: str) -> dict[str, object]:
        """Restore the orders; return the document."""
        found: dict[str, object] = succeed(
            self.folder, "restore", "-t", "orders", "--at", target, "--json"
        ).json
        return found


@contextmanager
def new_site(server: Server, folder: Path) -> Iterator[Site]:
    """Make a source of a server for a block, with an empty table and one that nobody asks for."""
    server.query(TABLE)
    # Without autovacuum: what it writes to the catalogs is needed, and comes by chance.
    server.query(
        "CREATE TABLE noise WITH (autovacuum_enabled = false)"
        " AS SELECT i, 'n' AS t FROM generate_series(1, 4000) AS i"
    )
    with world_folder() as sidecars:
        os.environ["PITR_SIDECAR_FOLDER"] = str(sidecars)
        os.environ["PITR_STATE"] = str(folder / "state")
        succeed(folder, "init", server.url(), "--archive", "archive")
        made = Site(server, folder)
        made.back_up()
        try:
            yield made
        finally:
            del os.environ["PITR_SIDECAR_FOLDER"], os.environ["PITR_STATE"]
