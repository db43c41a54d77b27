"""Choose the records that a recovery of some relations needs. No I/O: scans in, runs out.

Kept are

    records with a block of a wanted relation; storage records that name one in their data
    XLOG records about the cluster: checkpoints, parameters, the end of a backup, ...
    CLOG, MultiXact, CommitTs: transaction state that kept records rest on; but no zero pages of
    CLOG, which come with every 32,768 transactions of whomever: the pages are made beforehand
    of the online checkpoints the base's and the last one, which has the counters of those before
    RelMap and Database of the wanted database and its templates; RelMap of the shared catalogs
    the end of a transaction, when a kept record carries its xid or one of its subtransactions'
    xids, or when one of them is older than the backup and so may have written before it

Everything else becomes filler: other relations, transactions that only touched those, Tablespace
(replayed, it would touch the source's folders), Standby (hot standby is off), logical messages.
"""

from __future__ import annotations

import re
from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field

from pitr.postgres.wal.distill import KeptRun
from pitr.postgres.wal.geometry import WalGeometry
from pitr.postgres.wal.page import align
from pitr.postgres.wal.payload import (
    BackupEnded,
    Checkpoint,
    CheckpointRedo,
    DatabaseCreated,
    DatabaseDropped,
    ParameterChanged,
    Payload,
    RelationMapUpdated,
    StorageCreated,
    StorageTruncated,
    TablespaceCreated,
    TablespaceDropped,
    TableTruncated,
    decode_payload,
)
from pitr.postgres.wal.record import INFO_MASK, decode_record
from pitr.postgres.wal.scan import Scan
from pitr.postgres.wal.transaction import (
    ABORT,
    ABORT_PREPARED,
    COMMIT,
    COMMIT_PREPARED,
    HAS_INFO,
    OPERATION_MASK,
    PREPARE,
    TransactionEnd,
    TransactionPrepared,
)
from pitr.postgres.wal.versions import (
    RM_CLOG,
    RM_COMMIT_TS,
    RM_DBASE,
    RM_MULTIXACT,
    RM_RELMAP,
    RM_SMGR,
    RM_XACT,
    RM_XLOG,
    WalVersion,
)
from pitr.postgres.wal.wanted import FIRST_USER_OID, GLOBAL_TABLESPACE, WantedFiles

_STATE = (RM_CLOG, RM_MULTIXACT, RM_COMMIT_TS)
_ALWAYS = re.compile(b"[" + bytes(_STATE) + b"]", re.DOTALL)
# Checkpoints (0x00, 0x10, 0xE0), NEXTOID, BACKUP_END, PARAMETER_CHANGE, FPW_CHANGE,
# END_OF_RECOVERY.
_CLUSTER = frozenset((0x00, 0x10, 0x30, 0x50, 0x60, 0x80, 0x90, 0xE0))
_INFO_AT = 16
_ZERO_PAGE = 0x00
_ENDS = frozenset((COMMIT, PREPARE, ABORT, COMMIT_PREPARED, ABORT_PREPARED))


@dataclass(slots=True)
class Selection:
    """What one recovery needs of a stretch of WAL, and what the WAL said on the way.

    `stop` is the end of the last record that ends at or before the stop that was asked for.
    `runs` and `redo_points` are for `distill`. `backup_end` is where the end of the base backup was
    recorded. `mapped` are files that mapped catalogs of the database were given,
    `shared_mapped` those of shared catalogs.
    `created` is where the wanted database and its templates were made inside the stretch, as
    (tablespace, database), `templates` are those that their files were copied from.
    `touched` are the transactions that wrote what is wanted. `zero_pages` were added to CLOG.
    The setting is the largest that the source had.
    """

    stop: int
    runs: list[KeptRun] = field(default_factory=list)
    redo_points: list[int] = field(default_factory=list)
    kept_records: int = 0
    scanned_records: int = 0
    backup_end: int | None = None
    created: set[tuple[int, int]] = field(default_factory=set)
    templates: set[tuple[int, int]] = field(default_factory=set)
    mapped: set[tuple[int, int]] = field(default_factory=set)
    shared_mapped: set[int] = field(default_factory=set)
    touched: set[int] = field(default_factory=set)
    max_prepared_transactions: int = 0
    zero_pages: int = 0


class RecordSelector:
    """Takes scans in the order of the WAL and keeps what `wanted` needs.

    `oldest_xid` is the first xid that the base backup knows nothing of: transactions before it may
    have written before the backup. `redo` is where the backup begins.
    """

    def __init__(
        self,
        wanted: WantedFiles,
        geometry: WalGeometry,
        *,
        version: WalVersion,
        oldest_xid: int,
        redo: int,
        stop: int,
    ) -> None:
        self.selection = Selection(redo)
        self._wanted = wanted
        self._geometry = geometry
        self._version = version
        self._oldest_xid = oldest_xid
        self._redo = redo
        self._stop = stop
        self._numbers = {number for _, number in wanted.files}
        # The last online checkpoint: LSN, length and redo point; and what marks redo points, from
        # 17 on: LSN and length.
        self._online: tuple[int, int, int] | None = None
        self._marks: dict[int, int] = {}

    def add(self, scan: Scan) -> None:
        """Take the next records."""
        rows = set(self._with_wanted_blocks(scan))
        rmgrs, infos = scan.records.rmgr, scan.records.info
        states = (match.start() for match in _ALWAYS.finditer(bytes(rmgrs)))
        rows |= {row for row in states if self.is_state(rmgrs[row], infos[row])}
        ends = []
        for row, data in scan.kept():
            manager = scan.records.rmgr[row]
            if manager == RM_XACT:
                ends.append((row, data))
            elif self.is_kept(scan.records.lsn[row], manager, data):
                rows.add(row)
        # A transaction's end comes after all of its records, so the order in here does not matter.
        self.touch(scan.records.xid[row] for row in rows)
        rows.update(row for row, data in ends if self.ends_wanted(scan.records.lsn[row], data))
        rows -= self._beyond(scan)
        self._add_runs(scan, sorted(rows))

    def _beyond(self, scan: Scan) -> set[int]:
        """Return the last row when its record ends after the stop; else note where it ends."""
        boundary = record_boundary(scan, self._geometry, self._stop)
        if boundary is None:
            return set()
        self.selection.stop = boundary
        last = len(scan.records) - 1
        return {last} if boundary == scan.records.lsn[last] else set()

    def _with_wanted_blocks(self, scan: Scan) -> Iterator[int]:
        blocks, wanted = scan.blocks, self._wanted
        databases, numbers = wanted.databases, self._numbers
        limit = FIRST_USER_OID if wanted.has_catalogs else 0
        places = zip(
            blocks.record, blocks.tablespace, blocks.database, blocks.relation, strict=True
        )
        for row, tablespace, of, number in places:
            if of in databases:
                if (number < limit or number in numbers) and wanted.has_file(
                    tablespace, of, number
                ):
                    yield row
            elif tablespace == GLOBAL_TABLESPACE and wanted.has_shared:
                yield row

    def is_kept(self, lsn: int, manager: int, data: bytes) -> bool:
        """Return whether a record without blocks is needed; note what it says."""
        if not self.is_readable(manager, data[_INFO_AT]):
            return False
        match decode_payload(decode_record(lsn, data, self._version), self._version):
            case StorageCreated(file=file) | StorageTruncated(file=file):
                return self._wanted.has_file(*astuple(file))
            case RelationMapUpdated() as update:
                numbers = {number for _, number in update.files}
                if not update.database:
                    self.selection.shared_mapped |= numbers
                elif update.database == self._wanted.database:
                    self.selection.mapped |= {(update.tablespace, number) for number in numbers}
                return self._wanted.has_shared and (
                    not update.database or update.database in self._wanted.databases
                )
            case DatabaseCreated() as created if self._is_made_here(created):
                self.selection.created.add((created.tablespace, created.database))
                if created.template:
                    database, tablespace = created.template
                    self.selection.templates.add((tablespace, database))
                return self._wanted.has_shared
            case DatabaseDropped(database=database):
                return self._wanted.has_shared and database == self._wanted.database
            case DatabaseCreated():
                return False
            case Checkpoint(is_shutdown=False, redo=redo) if redo > self._redo:
                self._online = (lsn, len(data), redo)
                return False
            case CheckpointRedo() if lsn > self._redo:
                self._marks[lsn] = len(data)
                return False
            case TablespaceCreated() | TablespaceDropped() | TableTruncated() | None:
                return False
            case payload:
                self._note(payload)
        return manager == RM_XLOG

    def _is_made_here(self, created: DatabaseCreated) -> bool:
        """Return whether a database is the wanted one, or one that its files are copied from."""
        place = (created.tablespace, created.database)
        return created.database == self._wanted.database or place in self._wanted.templates

    @staticmethod
    def readable_managers() -> Iterable[int]:
        """Return the resource managers of which a record without blocks may be needed.

        Ends of transactions are not among them.
        """
        return (*_STATE, RM_XLOG, RM_SMGR, RM_RELMAP, RM_DBASE)

    @staticmethod
    def is_readable(manager: int, info: int) -> bool:
        """Return whether only the payload of a record without blocks says if it is needed."""
        if manager == RM_XLOG:
            return info & INFO_MASK in _CLUSTER
        return manager in (RM_SMGR, RM_RELMAP, RM_DBASE)

    def is_state(self, manager: int, info: int) -> bool:
        """Return whether a record is about the state of transactions; count zero pages of CLOG."""
        if manager == RM_CLOG and info & INFO_MASK == _ZERO_PAGE:
            self.selection.zero_pages += 1
            return False
        return manager in _STATE

    @staticmethod
    def is_end(info: int) -> bool:
        """Return whether a record of Transaction ends or prepares one."""
        return info & OPERATION_MASK in _ENDS

    def touch(self, xids: Iterable[int]) -> None:
        """Note which transactions wrote records that are kept."""
        self.selection.touched.update(xids)

    def _note(self, payload: Payload) -> None:
        """Note what a record about the cluster says."""
        selection = self.selection
        match payload:
            case Checkpoint(redo=redo) if redo > self._redo:
                selection.redo_points.append(redo)
            case ParameterChanged(max_prepared_transactions=prepared):
                selection.max_prepared_transactions = max(
                    selection.max_prepared_transactions, prepared
                )
            case BackupEnded(begin=begin) if begin == self._redo:
                selection.backup_end = begin

    def ends_wanted(self, lsn: int, record: bytes) -> bool:
        """Return whether a record ends a transaction that is wanted, or that may be."""
        info = record[_INFO_AT]
        if not self.is_end(info):
            return False
        if not info & HAS_INFO and info & OPERATION_MASK in (COMMIT, ABORT):
            # Most of all: it says nothing but its own xid, so it need not be taken apart.
            return self.is_wanted(int.from_bytes(record[4:8], "little"))
        payload = decode_payload(decode_record(lsn, record, self._version), self._version)
        assert isinstance(payload, TransactionEnd | TransactionPrepared)
        return any(map(self.is_wanted, (payload.xid, *payload.subxids)))

    def is_wanted(self, xid: int) -> bool:
        """Return whether a transaction has touched what is kept, or may have before the backup."""
        return xid in self.selection.touched or _is_older(xid, self._oldest_xid)

    def wanted_among(self, xids: Iterable[int]) -> list[int]:
        """Return at which places of many xids there is one of a wanted transaction."""
        touched, oldest, half = self.selection.touched, self._oldest_xid, 1 << 31
        return [
            at
            for at, xid in enumerate(xids)
            if xid in touched or (xid - oldest) & 0xFFFFFFFF >= half
        ]

    def add_records(self, records: Iterable[tuple[int, int]]) -> None:
        """Take records that are kept: LSN and length of each, in order."""
        page_bytes = self._geometry.page_bytes
        begin = last = last_length = end = -1
        for lsn, length in records:
            self.selection.kept_records += 1
            if lsn != end:
                if begin >= 0:
                    self._add_run(begin, last, last_length)
                begin = lsn
            last, last_length, end = lsn, length, lsn + align(length)
            if end // page_bytes != lsn // page_bytes:
                end = self._geometry.next_begin(lsn, align(length))
        if begin >= 0:
            self._add_run(begin, last, last_length)

    def finish(self) -> Selection:
        """Add the last online checkpoint, and return what was selected."""
        selection, geometry = self.selection, self._geometry
        records: list[tuple[int, int]] = []
        if self._online is not None:
            lsn, length, redo = self._online
            records.append((lsn, length))
            selection.redo_points.append(redo)
            if redo in self._marks:
                records.append((redo, self._marks[redo]))
        for lsn, length in records:
            end = geometry.end(geometry.position(lsn) + align(length))
            if end <= self._stop:
                insort(selection.runs, KeptRun(lsn, lsn, end), key=lambda run: run.begin)
                selection.kept_records += 1
        return selection

    def _add_runs(self, scan: Scan, rows: list[int]) -> None:
        """Join rows that follow each other into runs."""
        selection, lsn = self.selection, scan.records.lsn
        selection.scanned_records += len(scan.records)
        selection.kept_records += len(rows)
        begin = 0
        for at in range(1, len(rows) + 1):
            if at < len(rows) and rows[at] == rows[at - 1] + 1:
                continue
            last = rows[at - 1]
            self._add_run(lsn[rows[begin]], lsn[last], scan.records.length[last])
            begin = at

    def _add_run(self, begin: int, last: int, length: int) -> None:
        geometry, runs = self._geometry, self.selection.runs
        end = geometry.end(geometry.position(last) + align(length))
        if runs and geometry.next_begin(runs[-1].end, 0) == begin:
            runs[-1] = KeptRun(runs[-1].begin, last, end)
        else:
            runs.append(KeptRun(begin, last, end))


def record_boundary(scan: Scan, geometry: WalGeometry, stop: int) -> int | None:
    """Return where the last record of a scan ends that ends at or before a stop.

    A scan ends with the first record that ends after it. None for a scan without records.
    """
    if not len(scan.records):
        return None
    lsn = scan.records.lsn[-1]
    end = geometry.position(lsn) + align(scan.records.length[-1])
    return lsn if geometry.end(end) > stop else geometry.start(end)


def _is_older(xid: int, other: int) -> bool:
    """Return whether an xid was given out before another: they count in a circle."""
    return (xid - other) & 0xFFFFFFFF >= 1 << 31
