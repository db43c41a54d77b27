"""Select the records of the wanted relations by the index of the WAL, without reading the WAL.

The same selection as `by_wal.select_records` makes, from the rows of the index. Only those
records are read whose payload is needed: about the cluster, and of prepared transactions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property

from pitr.postgres.index.rows import RowKind, Rows
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.selection.by_wal import WalWindow, last_boundary, selector_of
from pitr.postgres.wal.page import align
from pitr.postgres.wal.record import RelationFile
from pitr.postgres.wal.select import RecordSelector, Selection
from pitr.postgres.wal.transaction import OPERATION_MASK, PREPARE
from pitr.postgres.wal.versions import RM_XACT
from pitr.postgres.wal.wanted import (
    DEFAULT_TABLESPACE,
    FIRST_USER_OID,
    GLOBAL_TABLESPACE,
    WantedFiles,
)
from pitr.vocabulary.position import Lsn

# Resource managers of records without a relation file of which some are needed, besides ends of
# transactions; and what says that a transaction is prepared.
_READ = re.compile(b"[" + re.escape(bytes(RecordSelector.readable_managers())) + b"]", re.DOTALL)
_PREPARES = re.compile(
    b"[" + re.escape(bytes(i for i in range(256) if i & OPERATION_MASK == PREPARE)) + b"]",
    re.DOTALL,
)
_SYSTEM = ("lsn", "length", "kind", "rmgr", "info", "xid")
_OF_FILE = ("lsn", "length", "kind", "xid")
_RELATION = re.compile(
    r"(?:global|base/(?P<database>\d+)|pg_tblspc/(?P<tablespace>\d+)/PG_\w+/(?P<elsewhere>\d+))/"
    r"(?P<number>\d+)"
)


class IndexedWindow:
    """What every selection in a window asks its index for, asked once."""

    def __init__(self, window: WalWindow, index: WalIndex) -> None:
        """Nothing is read before it is asked for."""
        self.window = window
        self.index = index
        self.begin, self.end = Lsn(window.redo), Lsn(window.stop)

    @cached_property
    def system_rows(self) -> list[Rows]:
        """Return the rows without a relation file: some 20 bytes for each transaction."""
        window = self.window
        return list(self.index.system_rows(window.timeline, self.begin, self.end, _SYSTEM))

    @cached_property
    def last_boundary(self) -> int:
        """Return what last_boundary returns; most targets are where a transaction ended."""
        geometry, stop = self.window.geometry, self.window.stop
        rows = next((rows for rows in reversed(self.system_rows) if len(rows)), None)
        if rows is not None and rows["kind"][-1] == RowKind.RECORD:
            end = geometry.position(rows["lsn"][-1]) + align(rows["length"][-1])
            if geometry.end(end) <= stop <= geometry.start(end):
                return geometry.start(end)
        return last_boundary(self.window)


def select_by_index(
    indexed: IndexedWindow,
    wanted: WantedFiles,
    paths: Iterable[str],
    touched: Iterable[int] = (),
) -> Selection:
    """Return what a recovery of the wanted relations needs of the WAL of a window.

    `paths` are the files of the base backup: of what is wanted by rule and not by name, they say
    which files there are. The ends of the transactions `touched` are needed besides those that are
    found. Raises ArchiveGap, CorruptWal, CorruptObject.
    """
    window = indexed.window
    selector = selector_of(window, wanted)
    chosen: dict[int, tuple[int, int]] = {}
    for rows in indexed.system_rows:
        selector.selection.scanned_records += len(rows)
        for match in _READ.finditer(bytes(rows["rmgr"])):
            lsn, length, _, manager, info, xid = _row(rows, match.start())
            if selector.is_state(manager, info) or (
                selector.is_readable(manager, info)
                and selector.is_kept(lsn, manager, window.record(lsn, length))
            ):
                chosen[lsn] = (length, xid)
    files = dict.fromkeys(_files(wanted, selector.selection, paths))
    begin, end = indexed.begin, indexed.end
    for rows in indexed.index.relation_rows(window.timeline, begin, end, files, _OF_FILE):
        for lsn, length, kind, xid in rows.select(*_OF_FILE):
            if kind != RowKind.DROPPED:
                chosen[lsn] = (length, xid)
    selector.touch(touched)
    selector.touch(xid for _, xid in chosen.values())
    for rows in indexed.system_rows:
        chosen.update((lsn, (length, 0)) for lsn, length in _wanted_ends(window, selector, rows))
    selector.selection.stop = indexed.last_boundary
    selector.add_records((lsn, chosen[lsn][0]) for lsn in sorted(chosen))
    return selector.finish()


def _wanted_ends(
    window: WalWindow, selector: RecordSelector, rows: Rows
) -> Iterator[tuple[int, int]]:
    """Yield LSN and length of the records that end or prepare a wanted transaction.

    A busy cluster's WAL ends other transactions by the million: no row of those is looked at.
    """
    for at in selector.wanted_among(rows["xid"]):
        lsn, length, _, manager, info, _ = _row(rows, at)
        if manager == RM_XACT and selector.is_end(info) and info & OPERATION_MASK != PREPARE:
            yield lsn, length
    managers = rows["rmgr"]
    for match in _PREPARES.finditer(bytes(rows["info"])):
        lsn, length = rows["lsn"][match.start()], rows["length"][match.start()]
        # Which sub-transactions it prepares is only in the record.
        if managers[match.start()] == RM_XACT and selector.ends_wanted(
            lsn, window.record(lsn, length)
        ):
            yield lsn, length


def _row(rows: Rows, at: int) -> tuple[int, ...]:
    return tuple(rows[name][at] for name in _SYSTEM)


def _files(
    wanted: WantedFiles, selection: Selection, paths: Iterable[str]
) -> Iterator[RelationFile]:
    """Yield every relation file that is wanted and that may have records."""
    database = wanted.database or 0
    for tablespace, number in wanted.files:
        yield RelationFile(tablespace, database, number)
        for elsewhere, template in wanted.templates:
            yield RelationFile(elsewhere, template, number)
    for number in selection.shared_mapped if wanted.has_shared else ():
        yield RelationFile(GLOBAL_TABLESPACE, 0, number)
    catalogs: set[int] = set()
    for path in paths:
        match = _RELATION.match(path)
        if match is None:
            continue
        number = int(match["number"])
        if path.startswith("global/"):
            if wanted.has_shared:
                yield RelationFile(GLOBAL_TABLESPACE, 0, number)
            continue
        of = int(match["database"] or match["elsewhere"])
        tablespace = int(match["tablespace"] or DEFAULT_TABLESPACE)
        if wanted.has_file(tablespace, of, number):
            yield RelationFile(tablespace, of, number)
        if number < FIRST_USER_OID:
            catalogs.add(number)
    # Every database has those of initdb, also one that is not in the base.
    for tablespace, of in selection.created:
        for number in catalogs:
            if wanted.has_file(tablespace, of, number):
                yield RelationFile(tablespace, of, number)
