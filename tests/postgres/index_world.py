"""A server, its WAL as an archive would have it, the index made of it, and its catalog map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pitr.archive.local import LocalStore
from pitr.postgres.catalog.catalog_map import CatalogMap
from pitr.postgres.catalog.catalog_reader import CatalogReader
from pitr.postgres.index.upkeep import complete_index
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.live.connection import connect
from pitr.postgres.log.log import LogStretch, transactions
from pitr.postgres.wal_store.folder import WalFolder
from pitr.vocabulary.change import TableChange, Transaction
from pitr.vocabulary.position import Lsn
from tools.postgres_servers import Server

# The WAL is read where the server leaves it: nothing is removed, and no old file gets a new name.
SETTINGS: dict[str, str | int | bool] = {
    "wal_keep_size": "1GB",
    "wal_recycle": False,
    "max_prepared_transactions": 10,
    "autovacuum": False,
}


@dataclass
class IndexWorld:
    """The index of one running server. `refresh` what was written before asking."""

    server: Server
    folder: Path
    database: str = "postgres"
    store: LocalStore = field(init=False)
    reader: CatalogReader = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.store = LocalStore(self.folder)
        self.reader = CatalogReader(
            self.store,
            lambda database: connect(self.server.url(self.database), database=database),
        )

    @property
    def wal(self) -> WalFolder:
        return WalFolder(self.server.wal)

    def position(self) -> Lsn:
        """Return where the WAL ends now, all of it on disk."""
        return Lsn.parse(self.server.value("SELECT pg_current_wal_flush_lsn()::text"))

    def refresh(self) -> None:
        """Read the catalog."""
        self.reader.refresh()

    def complete(self) -> int:
        """Index every whole segment; all of the WAL before the current segment counts as whole."""
        return complete_index(self.store, self.written())

    def written(self) -> WrittenWal:
        """Return the WAL up to the current position."""
        return WrittenWal(self.wal, self.position())

    def index(self) -> WalIndex:
        """Return the index, listed anew."""
        return WalIndex(self.store, self.written())

    def catalog(self) -> CatalogMap:
        """Return the catalog map, listed anew."""
        return CatalogMap(self.store)

    def log(
        self,
        *tables: str,
        begin: Lsn | None = None,
        until: Lsn | None = None,
        with_aborted: bool = False,
        limit: int | None = None,
    ) -> list[Transaction]:
        """Return the transactions since a position."""
        wal = self.written()
        first, end = wal.ranges(1)[-1]
        return transactions(
            WalIndex(self.store, wal),
            self.catalog(),
            LogStretch(1, first, begin or first, until or end, end),
            tables,
            default_database=self.database,
            with_aborted=with_aborted,
            limit=limit,
        )


class WrittenWal(WalFolder):
    """A running server's WAL up to a position: behind it the files are zeros or old."""

    def __init__(self, folder: WalFolder, end: Lsn) -> None:
        super().__init__(folder._folder)
        self._end = end

    def ranges(self, timeline: int) -> list[tuple[Lsn, Lsn]]:
        return [
            (begin, min(end, self._end))
            for begin, end in super().ranges(timeline)
            if begin < self._end
        ]


def change_of(found: Sequence[Transaction], table: str) -> TableChange:
    """Return what the only transaction that touched a table did to it."""
    (change,) = [c for item in found for c in item.tables if c.table == table]
    return change
