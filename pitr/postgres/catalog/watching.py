"""When the live catalog has to be read again: a commit changed pg_class, or a relation map. No I/O.

The watch is given every scan of the WAL, in order and without a gap, pieces of open segments
included. It errs on the side of reading too often: a reading without a change is not stored.
"""

from __future__ import annotations

from collections.abc import Iterable

from pitr.postgres.wal.payload import (
    DatabaseCreated,
    DatabaseDropped,
    RelationMapUpdated,
    decode_payload,
)
from pitr.postgres.wal.record import decode_record
from pitr.postgres.wal.scan import Scan
from pitr.postgres.wal.transaction import TransactionEnd
from pitr.postgres.wal.versions import RM_DBASE, RM_RELMAP, RM_XACT, WalVersion

# pg_class and pg_database; and pg_namespace and pg_inherits, since renaming a schema and attaching
# a partition change no row of pg_class. OIDs, and the file numbers of a new database.
WATCHED = (1259, 1262, 2615, 2611)


class CatalogWatch:
    """Says which databases to read again, from the WAL as it comes."""

    def __init__(self, version: WalVersion) -> None:
        """Begin: files have the numbers that a new database gives them, until `learn` is told."""
        self._version = version
        self._watched: dict[tuple[int, int], None] = {}
        self._touched: dict[int, set[int]] = {}  # by xid, what has not ended yet

    def learn(self, files: Iterable[tuple[int, int]]) -> None:
        """Watch these files (database, number) too: catalogs that were moved by VACUUM FULL."""
        self._watched.update(dict.fromkeys(files))

    def note(self, scan: Scan) -> set[int]:
        """Return the databases (OIDs) whose catalog changed by what was committed in this scan.

        0 stands for the list of databases alone.
        """
        self._note_changes(scan)
        found: set[int] = set()
        for number, data in scan.kept():
            rmgr = scan.records.rmgr[number]
            if rmgr not in (RM_XACT, RM_RELMAP, RM_DBASE) or (
                rmgr == RM_XACT and not self._touched
            ):
                continue
            lsn = scan.records.lsn[number]
            match decode_payload(decode_record(lsn, data, self._version), self._version):
                case TransactionEnd() as end:
                    for xid in (end.xid, *end.subxids):
                        touched = self._touched.pop(xid, set())
                        found |= touched if end.is_commit else set()
                case RelationMapUpdated(database=database):
                    # Written with the commit that follows: what it says is true by then.
                    self._touched.setdefault(scan.records.xid[number], set()).add(database)
                case DatabaseCreated() | DatabaseDropped():
                    self._touched.setdefault(scan.records.xid[number], set()).add(0)
        return found

    def _note_changes(self, scan: Scan) -> None:
        blocks, records = scan.blocks, scan.records
        if not self._may_touch(scan):
            return
        for record, database, relation, block_id in zip(
            blocks.record, blocks.database, blocks.relation, blocks.id, strict=True
        ):
            if block_id or not records.change[record]:
                continue
            if relation in WATCHED or (database, relation) in self._watched:
                self._touched.setdefault(records.xid[record], set()).add(database)

    def _may_touch(self, scan: Scan) -> bool:
        """Return whether any block is of a watched file: a look that costs next to nothing."""
        relations = set(scan.blocks.relation)
        return not relations.isdisjoint(WATCHED) or any(
            number in relations for _, number in self._watched
        )
