"""What capture makes of the WAL beside storing it: the index, and fresh readings of the catalog."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from operator import and_, or_

from pitr.archive.store import Store
from pitr.errors import Corrupt, PitrError
from pitr.postgres.capture.open_segment import OpenSegment
from pitr.postgres.catalog.catalog_reader import CatalogReader
from pitr.postgres.index.segment import index_segment
from pitr.postgres.live.connection import connect
from pitr.postgres.wal.payload import (
    DatabaseCreated,
    DatabaseDropped,
    RelationMapUpdated,
    decode_payload,
)
from pitr.postgres.wal.record import decode_record
from pitr.postgres.wal.scan import Scan
from pitr.postgres.wal.transaction import HAS_INFO, TransactionEnd
from pitr.postgres.wal.versions import RM_DBASE, RM_RELMAP, RM_XACT, WalVersion
from pitr.vocabulary.event import Event, Level, OnEvent

# Tables of bytes. Without HAS_INFO a commit has nothing but its time.
_IS_XACT = bytes(rmgr == RM_XACT for rmgr in range(256))
_HAS_INFO = bytes(info & HAS_INFO > 0 for info in range(256))
_IS_CATALOG = bytes(rmgr in (RM_RELMAP, RM_DBASE) for rmgr in range(256))
_PAUSE_SECONDS_MIN = 1.0
# A reading may take at most this share of the time: DDL may come without end.
_BUSY_SHARE = 0.05


def index_objects(segment: OpenSegment) -> list[tuple[str, bytes]]:
    """Return key and bytes of the index object of a finished segment.

    None when it is not known which record goes on in it from the segment before: readers scan what
    has no index, and it is made later from the archive.
    """
    if not segment.is_joined:
        return []
    return [
        index_segment(
            segment.whole_scan(),
            timeline=segment.name.timeline,
            begin=segment.name.begin,
            end=segment.name.end,
            version=segment.version,
            segment_bytes=segment.name.segment_bytes,
        )
    ]


def databases_redefined(scan: Scan, version: WalVersion) -> set[int]:
    """Return the databases in which a commit changed a relation's definition or its file.

    0 stands for what all databases share, the list of databases among it. The catalog itself is in
    no way looked at: the commit says what other sessions must forget.
    """
    found: set[int] = set()
    rmgrs, infos = scan.kept_kinds()
    tells = map(and_, rmgrs.translate(_IS_XACT), infos.translate(_HAS_INFO))
    mask = bytes(map(or_, rmgrs.translate(_IS_CATALOG), tells))
    for number, data in scan.kept_where(mask):
        record = decode_record(scan.records.lsn[number], data, version)
        match decode_payload(record, version):
            case TransactionEnd(is_commit=True) as end:
                found.update(database for database, _ in end.invalidations.relations)
            case RelationMapUpdated(database=database):
                found.add(database)
            case DatabaseCreated(database=database):
                found.update((0, database))
            case DatabaseDropped():
                found.add(0)
    return found


class CatalogFollower:
    """Reads the live catalog again, in a thread of its own, after commits that changed it."""

    def __init__(self, store: Store, place: str, on_event: OnEvent) -> None:
        """Wait for the first WAL; then all databases are read.

        Not before: only then it is certain that the server is the archive's.
        """
        opening = partial(connect, place, program="pitr capture")
        self._reader = CatalogReader(store, lambda database: opening(database=database))
        self._on_event = on_event
        self._changed = threading.Condition()
        self._wanted: set[int] | None = None
        self._is_due = False
        self._has_begun = False
        self._is_closing = False
        self._last_fault: str | None = None
        self._thread = threading.Thread(target=self._run, name="pitr-catalog", daemon=True)
        self._thread.start()

    def see(self, scan: Scan, version: WalVersion) -> None:
        """Take what a scan found; waits for nothing."""
        try:
            found = databases_redefined(scan, version) if self._has_begun else None
        except Corrupt:
            found = None  # a payload that is not understood may have changed anything
        if found is not None and not found:
            return
        with self._changed:
            before = self._wanted if self._is_due else set()
            self._wanted = None if found is None or before is None else before | (found - {0})
            self._is_due = self._has_begun = True
            self._changed.notify_all()

    def close(self) -> None:
        """Read what is still to be read, and end."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        for wanted in self._due():
            began = time.monotonic()
            try:
                self._reader.refresh(wanted)
                self._last_fault = None
            except PitrError as error:
                self._put_off(wanted, error)
            took = time.monotonic() - began
            with self._changed:
                self._changed.wait_for(
                    lambda: self._is_closing, max(_PAUSE_SECONDS_MIN, took / _BUSY_SHARE)
                )

    def _due(self) -> Iterator[set[int] | None]:
        """Yield which databases to read (None: all) whenever there are some."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_due or self._is_closing)
                if not self._is_due or (self._is_closing and self._last_fault):
                    return
                wanted, self._wanted, self._is_due = self._wanted, set(), False
            yield wanted

    def _put_off(self, wanted: set[int] | None, error: PitrError) -> None:
        """Note that a reading is still to be made; say why, once."""
        with self._changed:
            is_all = wanted is None or (self._is_due and self._wanted is None)
            self._wanted = None if is_all else (wanted or set()) | (self._wanted or set())
            self._is_due = True
        if error.message != self._last_fault:
            self._last_fault = error.message
            detail = f"{error.detail or ''} Names of new tables are resolved later.".strip()
            self._on_event(
                Event(Level.WARNING, f"the catalog was not read: {error.message}", detail)
            )
