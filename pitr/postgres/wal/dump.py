"""WAL as text, one line a record in the manner of pg_waldump."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from pitr.postgres.wal.end import LogEnd
from pitr.postgres.wal.history import parse_history
from pitr.postgres.wal.operation import operation_name
from pitr.postgres.wal.page import SegmentHeader, decode_segment_header
from pitr.postgres.wal.payload import Payload, decode_payload
from pitr.postgres.wal.reader import RecordReader
from pitr.postgres.wal.record import BlockReference, Fork, Record
from pitr.postgres.wal.scan import RecordColumns, ScanState, scan
from pitr.postgres.wal.versions import WalVersion, rmgr_name
from pitr.vocabulary.position import Lsn


@dataclass(frozen=True, slots=True)
class SegmentDump:
    """The lines about one segment; `is_damaged` when its end is no place where WAL can end."""

    lines: list[str]
    is_damaged: bool


def describe_segment(data: bytes) -> SegmentDump:
    """Describe every record that begins and ends in a segment.

    Raises SourceUnusable and CorruptWal for what is no segment of a known version.
    """
    head = decode_segment_header(data)
    begin, end = head.begin, head.begin + head.segment_bytes
    reader = RecordReader(
        lambda first, last: data[first - begin : last - begin],
        begin,
        version=head.version,
        segment_bytes=head.segment_bytes,
        chunk_bytes=head.segment_bytes,
    )
    lines = [describe_head(head), *(record_line(record, head.version) for record in reader)]
    is_damaged = reader.end.is_fault and reader.state.position < end
    return SegmentDump([*lines, *_end_lines(reader.end, reader.state)], is_damaged)


def describe_counts(data: bytes) -> SegmentDump:
    """Describe how many records, bytes and changed rows each resource manager has in a segment."""
    head = decode_segment_header(data)
    found = scan(
        data,
        head.begin,
        ScanState(head.begin),
        version=head.version,
        segment_bytes=head.segment_bytes,
    )
    lines = [describe_head(head), *_count_lines(found.records)]
    return SegmentDump([*lines, *_end_lines(found.end, found.state)], found.end.is_fault)


def describe_head(head: SegmentHeader) -> str:
    """Describe a segment by its first page."""
    return (
        f"segment: PostgreSQL {head.version.major}, cluster {head.system_identifier},"
        f" timeline {head.timeline}, {Lsn(head.begin)}, {head.segment_bytes} bytes"
    )


def record_line(record: Record, version: WalVersion) -> str:
    """Describe one record as pg_waldump does; what its payload says is in words of our own.

    Raises CorruptWal when the payload contradicts the operation.
    """
    header = record.header
    images = sum(len(block.image.data) for block in record.blocks if block.image)
    payload = decode_payload(record, version)
    return (
        f"rmgr: {rmgr_name(header.rmgr):<11} "
        f"len (rec/tot): {header.total_bytes - images:>6}/{header.total_bytes:>6}, "
        f"tx: {header.xid:>10}, lsn: {_lsn(record.lsn)}, prev {_lsn(header.prev)}, "
        f"desc: {operation_name(header, version)}{_payload_text(payload) if payload else ''}"
        f"{''.join(map(_block, record.blocks))}"
    )


def describe_history(timeline: int, content: bytes) -> SegmentDump:
    """Describe a timeline's history file, one line an ancestor. Raises CorruptWal."""
    history = parse_history(timeline, content)
    lines = [f"timeline {entry.timeline} until {entry.switch}: {entry.reason}" for entry in history]
    last = f"timeline {timeline} from {history[-1].switch if history else Lsn(0)}"
    return SegmentDump([*lines, last], is_damaged=False)


def _payload_text(payload: Payload) -> str:
    """Return the fields that say something, as ` name=value`."""
    return "".join(
        f" {field.name}={value}"
        for field in fields(payload)
        if (value := getattr(payload, field.name)) not in (None, (), False)
    )


def _block(block: BlockReference) -> str:
    fork = "" if block.fork == Fork.MAIN else f" fork {_fork_name(block.fork)}"
    image = " FPW" if block.image and block.image.is_applied else ""
    return f", blkref #{block.id}: rel {block.file}{fork} blk {block.block}{image}"


def _fork_name(fork: int) -> str:
    return Fork(fork).name.lower() if fork in Fork._value2member_map_ else str(fork)


def _lsn(lsn: int) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:08X}"


def _count_lines(records: RecordColumns) -> Iterator[str]:
    counts: dict[int, list[int]] = {}
    for rmgr, length, rows in zip(records.rmgr, records.length, records.rows, strict=True):
        count = counts.setdefault(rmgr, [0, 0, 0])
        count[0] += 1
        count[1] += length
        count[2] += rows
    for rmgr, (number, length, rows) in sorted(counts.items()):
        changed = f", {rows} rows changed" if rows else ""
        yield f"{rmgr_name(rmgr):<18} {number:>8} records {length:>10} bytes{changed}"


def _end_lines(end: LogEnd, state: ScanState) -> Iterator[str]:
    kind = "damaged" if end.is_fault else "end"
    where = state.begin if state.carry else state.position
    yield f"{kind}: {Lsn(where)}: {end.meaning}"
