"""From a scan of WAL to the rows of its index."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import compress

from pitr.postgres.index.packing import (
    CODES,
    Buffer,
    both,
    end_distances,
    integers,
    other_rows,
    sort_rows,
    take_rows,
    take_times,
)
from pitr.postgres.index.rows import (
    BY_NAME,
    NAMES,
    RowKind,
    Rows,
    join_rows,
    sort_by_lsn,
    sort_by_relation,
)
from pitr.postgres.wal.page import advance, align
from pitr.postgres.wal.payload import (
    Checkpoint,
    DatabaseCreated,
    DatabaseDropped,
    RelationMapUpdated,
    StorageCreated,
    StorageTruncated,
    TableTruncated,
    decode_payload,
)
from pitr.postgres.wal.record import INFO_MASK, Record, RelationFile, decode_record
from pitr.postgres.wal.scan import Scan
from pitr.postgres.wal.transaction import (
    ABORT,
    COMMIT,
    TransactionEnd,
    TransactionPrepared,
)
from pitr.postgres.wal.versions import RM_XACT, WalVersion

# Of a record with several blocks only the first one counts what the record did to rows.
_FIRST_REFERENCE = bytes([0xFF]).ljust(256, b"\0")
_IS_XACT = bytes(rmgr == RM_XACT for rmgr in range(256))
_IS_PLAIN_END = bytes(info & INFO_MASK in (COMMIT, ABORT) for info in range(256))
_OPPOSITE = b"\1\0".ljust(256, b"\0")
_OF_RECORD = ("lsn", "length", "rmgr", "info", "xid")


@dataclass(frozen=True, slots=True)
class IndexedRows:
    """The rows of one stretch of WAL: those without a relation file, and those of one."""

    system: Rows
    relations: Rows


def make_rows(scan: Scan, version: WalVersion, segment_bytes: int) -> IndexedRows:
    """Return the rows for everything a scan found."""
    is_plain = _plain_end_mask(scan)
    ends = _plain_end_rows(scan, is_plain, segment_bytes)
    payload = _Payload(segment_bytes)
    for number, data in scan.kept_where(is_plain.translate(_OPPOSITE)):
        payload.add(number, scan, data, version)
    replaced = [*compress(scan.kept_numbers, is_plain), *payload.replaced]
    system, relations = payload.rows()
    blocks = _block_rows(scan)
    return IndexedRows(
        sort_by_lsn(join_rows([_plain_rows(scan, replaced), ends, system])),
        sort_by_relation(join_rows([blocks, relations])) if len(relations) else blocks,
    )


def _plain_end_mask(scan: Scan) -> bytes:
    """Return 1 for each kept commit or abort that says no more than its time: nearly all are so."""
    rmgrs, infos = scan.kept_kinds()
    return both(rmgrs.translate(_IS_XACT), infos.translate(_IS_PLAIN_END))


def _plain_end_rows(scan: Scan, mask: bytes, segment_bytes: int) -> Rows:
    """Return the rows of the kept records of a mask; their last eight bytes are a time."""
    columns = _of_records(scan, array("I", compress(scan.kept_numbers.tolist(), mask)).tobytes())
    data_ends = array("Q", compress(scan.kept_ends.tolist(), mask)).tobytes()
    columns["time"] = take_times(scan.kept_data, data_ends)
    columns["distance"] = end_distances(columns["lsn"], columns["length"], segment_bytes)
    return _rows(columns, len(data_ends) // 8)


def _block_rows(scan: Scan) -> Rows:
    """Return a row for each block reference, in the order of `sort_by_relation`."""
    blocks, count = scan.blocks, len(scan.blocks)
    order = sort_rows(blocks.database, blocks.relation)  # stable, and the scan's order is by LSN
    columns = _of_records(scan, take_rows(blocks.record, 4, order))
    for name in ("tablespace", "database", "relation", "fork", "block"):
        values = getattr(blocks, name)
        columns[name] = take_rows(values, values.itemsize, order)
    ids = columns["reference"] = take_rows(blocks.id, 1, order)
    columns["change"] = both(bytes(columns["change"]), ids.translate(_FIRST_REFERENCE))
    columns["kind"] = bytes([RowKind.BLOCK]) * count
    return _rows(columns, count)


def _plain_rows(scan: Scan, replaced: list[int]) -> Rows:
    """Return a row for each record without a block reference, but those of `replaced`."""
    named = b"".join((scan.blocks.record, array("I", replaced)))
    picked = other_rows(len(scan.records), named)
    return _rows(_of_records(scan, picked), len(picked) // 4)


def _of_records(scan: Scan, order: bytes) -> dict[str, Buffer]:
    records = scan.records
    columns: dict[str, Buffer] = {
        name: take_rows(getattr(records, name), getattr(records, name).itemsize, order)
        for name in (*_OF_RECORD, "change")
    }
    narrow = take_rows(records.rows, records.rows.itemsize, order)
    wide = bytearray(2 * len(narrow))
    wide[0::4], wide[1::4] = narrow[0::2], narrow[1::2]
    columns["rows"] = wide
    return columns


def _rows(columns: dict[str, Buffer], count: int) -> Rows:
    """Return rows with zeros in the columns that are not given."""
    found = {}
    for name in NAMES:
        width = BY_NAME[name].kind.width
        values = columns.get(name, bytes(count * width))
        found[name] = integers(values, width)
    return Rows(found)


@dataclass(slots=True)
class _Payload:
    """The rows that payloads give: `replaced` are records whose plain row they stand for."""

    segment_bytes: int
    replaced: set[int] = field(default_factory=set)
    found: list[dict[str, int]] = field(default_factory=list)

    def add(self, number: int, scan: Scan, data: bytes, version: WalVersion) -> None:
        records = scan.records
        base = {name: getattr(records, name)[number] for name in _OF_RECORD}
        record = decode_record(base["lsn"], data, version)
        values = list(self._values(record, version))
        if values:
            self.replaced.add(number)
            self.found += [base | extra for extra in values]

    def _values(self, record: Record, version: WalVersion) -> Iterator[dict[str, int]]:
        """Yield the columns of each row that a payload gives."""
        match decode_payload(record, version):
            case TransactionEnd() as end:
                yield from self._transaction_end(record, end)
            case TransactionPrepared(time_us=time_us, database=database):
                yield {"time": time_us, "database": database}
            case StorageCreated(file, fork):
                yield self._file(RowKind.CREATED, file) | {"fork": fork}
            case StorageTruncated(file, blocks):
                yield self._file(RowKind.TRUNCATED, file) | {"block": blocks}
            case Checkpoint(redo=redo, next_xid=next_xid):
                yield {"distance": max(record.lsn - redo, 0), "related_xid": next_xid & 0xFFFFFFFF}
            case (
                RelationMapUpdated(database=database)
                | DatabaseCreated(database=database)
                | DatabaseDropped(database=database)
                | TableTruncated(database=database)
            ):
                yield {"database": database}

    def _transaction_end(self, record: Record, end: TransactionEnd) -> Iterator[dict[str, int]]:
        common = {
            "xid": end.xid,
            "distance": self._end(record.lsn, record.header.total_bytes) - record.lsn,
            "time": max(end.time_us, 0),
            "database": end.database,
        }
        yield common
        for subxid in end.subxids:
            yield common | {"kind": RowKind.SUBTRANSACTION, "xid": subxid, "related_xid": end.xid}
        for file in end.dropped:
            yield common | self._file(RowKind.DROPPED, file)

    @staticmethod
    def _file(kind: RowKind, file: RelationFile) -> dict[str, int]:
        return {
            "kind": kind,
            "tablespace": file.tablespace,
            "database": file.database,
            "relation": file.number,
        }

    def _end(self, lsn: int, length: int) -> int:
        return align(advance(lsn, length, self.segment_bytes))

    def rows(self) -> tuple[Rows, Rows]:
        """Return the rows without a relation file, and those of one."""
        of_files = [row for row in self.found if row.get("relation")]
        others = [row for row in self.found if not row.get("relation")]
        return _table(others), _table(of_files)


def _table(found: list[dict[str, int]]) -> Rows:
    columns = {
        name: array(CODES[BY_NAME[name].kind.width], [row.get(name, 0) for row in found])
        for name in NAMES
    }
    return Rows({name: memoryview(column) for name, column in columns.items()})
