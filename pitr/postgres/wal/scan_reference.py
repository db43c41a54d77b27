"""The scan of WAL in plain Python: the reference of `_speedups.scan_wal`.

Written for speed where it is passed for every record (`_page_of_records`, `_block_references`)
and otherwise for reading. Both implementations pass the same steps in the same order, so that they
agree on damaged bytes too.
"""

from __future__ import annotations

import struct
import sys
from array import array
from dataclasses import dataclass, field

from google_crc32c import extend, value

from pitr.postgres.wal.end import LogEnd
from pitr.postgres.wal.page import (
    ALIGNMENT,
    ALL_FLAGS,
    FIRST_IS_CONTRECORD,
    FIRST_IS_OVERWRITE_CONTRECORD,
    HAS_LONG_HEADER,
    LONG_HEADER_BYTES,
    LONG_TAIL,
    PAGE_BYTES,
    SHORT_HEADER,
    SHORT_HEADER_BYTES,
    Bytes,
    align,
)
from pitr.postgres.wal.record import (
    BLOCK_ID_MAX,
    HAS_DATA,
    HAS_IMAGE,
    HEADER,
    HEADER_BYTES,
    ID_DATA_LONG,
    ID_DATA_SHORT,
    ID_ORIGIN,
    ID_TOPLEVEL_XID,
    IMAGE_HAS_HOLE,
    INFO_MASK,
    RECORD_BYTES_MAX,
    SAME_RELATION,
    XLOG_NOOP,
    XLOG_SWITCH,
)
from pitr.postgres.wal.versions import (
    RM_DBASE,
    RM_HEAP,
    RM_HEAP2,
    RM_RELMAP,
    RM_SMGR,
    RM_TBLSPC,
    RM_XACT,
    RM_XLOG,
    RMGR_NAMES,
)

# In the flags column the bit of SAME_RELATION, which is resolved there, says this instead.
IMAGE_APPLIED = 0x80
HEAP_OPCODE = 0x70

Columns = tuple[bytes, ...]
# end, position, prev, timeline, begin, carry, columns of records, of blocks, of kept records
Scanned = tuple[int, int, int, int, int, bytes, Columns, Columns, Columns]

_LENGTH = struct.Struct("<I")
_BLOCK = struct.Struct("<BBHIIII")
_BLOCK_HEAD = struct.Struct("<BBH")
_IMAGE = struct.Struct("<HHB")
_HOLE = struct.Struct("<H")
_PLACE = struct.Struct("<IIII")

# The header of a record, one block reference without an image, the head of short main data.
_PLAIN = struct.Struct("<I4xQBBxxIBBH16xBB")
_PLAIN_BYTES = _PLAIN.size
# The header of a record without a block, the head of short main data.
_BARE_BYTES = HEADER_BYTES + 2
# What the checksum covers of a header: length, xid, prev, info, rmgr.
_HEADER_PART = HEADER_BYTES - 4
_PLAIN_FLAGS = HAS_IMAGE | HAS_DATA | SAME_RELATION
_WITH_ROWS = 2

_KEPT = bytes(
    rmgr in (RM_XLOG, RM_XACT, RM_SMGR, RM_DBASE, RM_TBLSPC, RM_RELMAP, RM_HEAP)
    for rmgr in range(256)
)
_HAS_ROWS = bytes(rmgr in (RM_HEAP, RM_HEAP2) for rmgr in range(256))
_FORK = bytes(value & 0x0F for value in range(256))
_FLAGS = bytes(value & 0xF0 for value in range(256))
_NO_CHANGE, _INSERT, _UPDATE, _DELETE, _MOVE = range(5)
_UPDATES = (0x20, 0x40)


def scan_wal(
    data: Bytes,
    lsn: int,
    position: int,
    prev: int,
    timeline: int,
    begin: int,
    carry: bytes,
    segment_bytes: int,
    magic: int,
    image_apply: int,
    image_compressed: int,
    custom_rmgrs: bool,  # noqa: FBT001 - the signature of the C twin
    toplevel_xid: bool,  # noqa: FBT001
    system_identifier: int,
    stop: int,
) -> Scanned:
    """Scan WAL; see `pitr.postgres.wal.scan.scan`, which is the only caller besides tests."""
    run = _Run(
        data=bytes(data),
        lsn=lsn,
        end=lsn + len(data),
        at=position,
        prev=prev,
        timeline=timeline,
        begin=begin,
        carry=bytearray(carry),
        segment_bytes=segment_bytes,
        magic=magic,
        image_apply=image_apply,
        image_compressed=image_compressed,
        rmgrs=bytes(r < len(RMGR_NAMES) or (custom_rmgrs and r >= 128) for r in range(256)),
        toplevel_xid=toplevel_xid,
        system_identifier=system_identifier,
        stop=stop,
    )
    run.plain = bytes(
        (_WITH_ROWS if _HAS_ROWS[r] else 1)
        if run.rmgrs[r] and (r == RM_HEAP or not _KEPT[r])
        else 0
        for r in range(256)
    )
    return run.columns(run.scan())


@dataclass(slots=True)
class _Run:
    """One scan: its arguments, where it stands, and what it has found."""

    data: bytes
    lsn: int
    end: int
    at: int
    prev: int
    timeline: int
    begin: int
    carry: bytearray
    segment_bytes: int
    magic: int
    image_apply: int
    image_compressed: int
    rmgrs: bytes
    toplevel_xid: bool
    system_identifier: int
    stop: int
    plain: bytes = b""
    headers: bytearray = field(default_factory=bytearray)
    lsns: array[int] = field(default_factory=lambda: array("Q"))
    changes: bytearray = field(default_factory=bytearray)
    rows: array[int] = field(default_factory=lambda: array("H"))
    blocks: bytearray = field(default_factory=bytearray)
    block_records: array[int] = field(default_factory=lambda: array("I"))
    kept_records: array[int] = field(default_factory=lambda: array("I"))
    kept_ends: array[int] = field(default_factory=lambda: array("Q"))
    kept: bytearray = field(default_factory=bytearray)

    def scan(self) -> LogEnd:
        """Scan to an end."""
        is_checked = False
        while True:
            if not self.carry:
                is_checked = False
            elif not is_checked and len(self.carry) >= HEADER_BYTES:
                found = self._header_fault(HEADER.unpack_from(self.carry), self.begin)
                if found is not None:
                    return self._fault(found)
                is_checked = True
            if self.at >= self.end:
                return LogEnd.TORN if self.carry else LogEnd.CLEAN
            if self.at % PAGE_BYTES == 0:
                found = self._enter_page()
                if found is not None:
                    return found
                continue
            limit = min(self.at - self.at % PAGE_BYTES + PAGE_BYTES, self.end)
            found = self._continue_record(limit) if self.carry else self._page_of_records(limit)
            if found is not None:
                return found

    def _fault(self, found: LogEnd) -> LogEnd:
        """Leave the position at the record or page that is at fault."""
        if self.carry:
            self.at, self.begin, self.carry = self.begin, 0, bytearray()
        return found

    def _enter_page(self) -> LogEnd | None:
        """Pass the header of the page at `at`, and what is to be skipped behind it."""
        o = self.at - self.lsn
        is_first = self.at % self.segment_bytes == 0
        size = LONG_HEADER_BYTES if is_first else SHORT_HEADER_BYTES
        if self.end - self.at < size:
            return LogEnd.TORN
        magic, flags, timeline, address, remaining = SHORT_HEADER.unpack_from(self.data, o)
        found = self._page_fault(magic, flags, timeline, address, o)
        if found is not None:
            return self._fault(found)
        if self.carry and flags & FIRST_IS_OVERWRITE_CONTRECORD:
            # The record was never finished: recovery wrote on from here.
            self.begin, self.carry = 0, bytearray()
        skipped = 0
        if self.carry:
            if not flags & FIRST_IS_CONTRECORD:
                return self._fault(LogEnd.NO_CONTRECORD)
            if remaining == 0 or remaining != self._missing():
                return self._fault(LogEnd.BAD_CONTRECORD)
        elif flags & FIRST_IS_CONTRECORD:
            if self.prev:
                return LogEnd.NO_CONTRECORD
            skipped = min(align(remaining), PAGE_BYTES - size)
        self.timeline = timeline
        self.at += size + skipped
        return None

    def _page_fault(
        self, magic: int, flags: int, timeline: int, address: int, o: int
    ) -> LogEnd | None:
        if magic != self.magic:
            return LogEnd.BAD_MAGIC if magic or address else LogEnd.UNWRITTEN
        is_first = self.at % self.segment_bytes == 0
        if flags & ~ALL_FLAGS or bool(flags & HAS_LONG_HEADER) != is_first:
            return LogEnd.BAD_PAGE_FLAGS
        if is_first:
            system, segment, page = LONG_TAIL.unpack_from(self.data, o + SHORT_HEADER_BYTES)
            if self.system_identifier and system != self.system_identifier:
                return LogEnd.FOREIGN_SYSTEM
            if segment != self.segment_bytes or page != PAGE_BYTES:
                return LogEnd.WRONG_SEGMENT_SIZE
        if address != self.at:
            return LogEnd.WRONG_ADDRESS
        return LogEnd.WRONG_TIMELINE if timeline < self.timeline else None

    def _missing(self) -> int:
        """Return how many bytes of the carried record are still to come."""
        return int(_LENGTH.unpack_from(self.carry)[0]) - len(self.carry)

    def _continue_record(self, limit: int) -> LogEnd | None:
        """Add the bytes up to `limit` to the carried record, and take it when it is whole."""
        o = self.at - self.lsn
        part = self.data[o : o + min(self._missing(), limit - self.at)]
        self.carry += part
        self.at += len(part)
        if self._missing():
            return None
        record = bytes(self.carry)
        header = HEADER.unpack_from(record)
        found = self._header_fault(header, self.begin) or self._take(record, 0, self.begin, header)
        if found:
            return self._fault(found)
        self.begin, self.carry = 0, bytearray()
        self.at = self._behind(header, self.at)
        return None

    def _header_fault(self, header: tuple[int, ...], begin: int) -> LogEnd | None:
        _, _, prev, _, rmgr, _ = header
        if not self.rmgrs[rmgr]:
            return LogEnd.BAD_RMGR
        if prev != self.prev if self.prev else prev >= begin:
            return LogEnd.PREV_MISMATCH
        return None

    def _page_of_records(self, limit: int) -> LogEnd | None:
        """Take the records that begin and end before `limit`; carry the one that does not end."""
        data, lsn, at = self.data, self.lsn, self.at
        while at < limit:
            self.at = at = self._plain_records(at, limit)
            if at >= self.stop:
                return LogEnd.STOPPED if at < limit else None
            if limit - at < HEADER_BYTES:
                return self._begin_carry(limit) if at < limit else None
            header = HEADER.unpack_from(data, at - lsn)
            total = header[0]
            if not HEADER_BYTES <= total <= limit - at:
                return self._begin_carry(limit)
            found = self._header_fault(header, at) or self._take(data, at - lsn, at, header)
            if found:
                return found
            self.at = at = self._behind(header, at + total)
        return None

    def _plain_records(self, at: int, limit: int) -> int:
        """Take records with one block, no image and short main data, and ends of transactions.

        Returns where others begin. A short cut for most records of most workloads: everything that
        is unusual, and every fault, is left to the steps that all records can take.
        """
        data, lsn, prev, plain = self.data, self.lsn, self.prev, self.plain
        headers, blocks, unpack = self.headers, self.blocks, _PLAIN.unpack_from
        lsns, numbers = self.lsns.append, self.block_records.append
        changes, rows = self.changes.append, self.rows.append
        number = len(self.lsns)
        last = min(limit - _PLAIN_BYTES, self.stop - 1)
        while at <= last:
            o = at - lsn
            total, before, info, rmgr, crc, id_, flags, size, part, main = unpack(data, o)
            if before != prev or total > limit - at:
                break
            end = o + total
            is_end = rmgr == RM_XACT and id_ == ID_DATA_SHORT and total == _BARE_BYTES + flags
            if not is_end and (
                part != ID_DATA_SHORT
                or total != _PLAIN_BYTES + size + main
                or flags & _PLAIN_FLAGS != (HAS_DATA if size else 0)
                or id_ > BLOCK_ID_MAX
                or not plain[rmgr]
            ):
                break
            header = data[o : o + _HEADER_PART]
            if extend(value(data[o + HEADER_BYTES : end]), header) != crc:
                break
            change = count = 0
            if is_end:
                self.kept += data[o:end]
                self.kept_records.append(number)
                self.kept_ends.append(len(self.kept))
            else:
                if rmgr == RM_HEAP and info & HEAP_OPCODE in _UPDATES:
                    change, count = _UPDATE, 1
                elif plain[rmgr] == _WITH_ROWS:
                    change, count = _row_change(rmgr, info & HEAP_OPCODE, data[end - main : end])
                    if change < 0:
                        break
                numbers(number)
                blocks += data[o + HEADER_BYTES : o + _PLAIN_BYTES - 2]
            number += 1
            lsns(at)
            headers += header
            changes(change)
            rows(count)
            prev = at
            at = (at + total + 7) & -8
        self.prev = prev
        return at

    def _begin_carry(self, limit: int) -> LogEnd | None:
        """Carry the record at `at`, which does not end before `limit`."""
        o = self.at - self.lsn
        if limit - self.at < ALIGNMENT:
            return LogEnd.TORN
        total = _LENGTH.unpack_from(self.data, o)[0]
        if not HEADER_BYTES <= total <= RECORD_BYTES_MAX:
            return LogEnd.BAD_LENGTH if total else LogEnd.UNWRITTEN
        self.begin, self.carry = self.at, bytearray(self.data[o : limit - self.lsn])
        self.at = limit
        return None

    def _behind(self, header: tuple[int, ...], end: int) -> int:
        """Return where the record after this one begins, or the page that holds it."""
        if header[4] == RM_XLOG and header[3] & INFO_MASK == XLOG_SWITCH:
            return -(-end // self.segment_bytes) * self.segment_bytes
        return (end + ALIGNMENT - 1) & -ALIGNMENT

    def _take(self, record: bytes, o: int, begin: int, header: tuple[int, ...]) -> LogEnd | None:
        """Verify the record at `o`, which began at the LSN `begin`, and add it to the columns."""
        total, _, _, info, rmgr, crc = header
        end = o + total
        body = o + HEADER_BYTES
        if extend(value(record[body:end]), record[o : body - 4]) != crc:
            return LogEnd.CRC_MISMATCH
        first = len(self.block_records)
        main = self._block_references(record, body, end)
        change, rows = _NO_CHANGE, 0
        if main >= 0 and _HAS_ROWS[rmgr]:
            change, rows = _row_change(rmgr, info & HEAP_OPCODE, record[main:end])
        if main < 0 or change < 0:
            del self.blocks[first * _BLOCK.size :]
            del self.block_records[first:]
            return LogEnd.MALFORMED
        if _KEPT[rmgr] and first == len(self.block_records):
            self._keep(header, record[o:end])
        self.headers += record[o : o + _HEADER_PART]
        self.lsns.append(begin)
        self.changes.append(change)
        self.rows.append(rows)
        self.prev = begin
        return None

    def _keep(self, header: tuple[int, ...], record: bytes) -> None:
        if header[4] == RM_XLOG and header[3] & INFO_MASK == XLOG_NOOP:
            return
        self.kept += record
        self.kept_records.append(len(self.lsns))
        self.kept_ends.append(len(self.kept))

    def _block_references(self, record: bytes, at: int, end: int) -> int:
        """Add the block references of a record whose body is [at, end); return its main data.

        The result is the offset at which they begin, or -1 when the parts contradict each other.
        """
        number = len(self.lsns)
        data_bytes = main_bytes = 0
        id_before = -1
        relation: tuple[int, ...] | None = None
        while end - at > data_bytes:
            id_ = record[at]
            if id_ == ID_DATA_SHORT and end - at >= 2:
                main_bytes = record[at + 1]
                at += 2
                break
            if id_ == ID_DATA_LONG and end - at >= 5:
                main_bytes = _LENGTH.unpack_from(record, at + 1)[0]
                at += 5
                break
            if id_ > BLOCK_ID_MAX:
                size = self._other_part(id_)
                if not size or end - at < size:
                    return -1
                at += size
                continue
            if end - at < 4 or id_ <= id_before:
                return -1
            id_before = id_
            if not record[at + 1] & (HAS_IMAGE | SAME_RELATION) and end - at >= 20:
                block = _BLOCK.unpack_from(record, at)
                if (block[2] > 0) != (block[1] & HAS_DATA > 0):
                    return -1
                data_bytes += block[2]
                at += 20
            else:
                block, size, content = self._unusual_block(record, at, end, relation)
                if not size:
                    return -1
                data_bytes += content
                at += size
            relation = block[3:6]
            self.blocks += _BLOCK.pack(*block)
            self.block_records.append(number)
        return end - main_bytes if end - at == data_bytes + main_bytes else -1

    def _other_part(self, id_: int) -> int:
        """Return the length of a header that is neither of a block nor of main data, or 0."""
        if id_ == ID_ORIGIN:
            return 3
        return 5 if id_ == ID_TOPLEVEL_XID and self.toplevel_xid else 0

    def _unusual_block(
        self, record: bytes, at: int, end: int, relation: tuple[int, ...] | None
    ) -> tuple[tuple[int, ...], int, int]:
        """Decode a block header with an image, or of the relation of the one before.

        Returns (fields, length of the header, bytes of data and image); the length is 0 when the
        header is wrong.
        """
        begin = at
        id_, flags, data_bytes = _BLOCK_HEAD.unpack_from(record, at)
        at += 4
        content = data_bytes
        kept = flags & ~SAME_RELATION
        if (data_bytes > 0) != (flags & HAS_DATA > 0):
            return (), 0, 0
        if flags & HAS_IMAGE:
            if end - at < 5:
                return (), 0, 0
            image_bytes, hole, info = _IMAGE.unpack_from(record, at)
            at += 5
            content += image_bytes
            if info & self.image_apply:
                kept |= IMAGE_APPLIED
            size = 2 if info & IMAGE_HAS_HOLE and info & self.image_compressed else 0
            if end - at < size:
                return (), 0, 0
            if not self._is_image(record, at, image_bytes, hole, info):
                return (), 0, 0
            at += size
        place = 4 if flags & SAME_RELATION else 16
        if end - at < place or (flags & SAME_RELATION and relation is None):
            return (), 0, 0
        fields: tuple[int, ...] = _PLACE.unpack_from(record, at + place - 16)
        if flags & SAME_RELATION and relation is not None:
            fields = (*relation, fields[3])
        return (id_, kept, data_bytes, *fields), at + place - begin, content

    def _is_image(self, record: bytes, at: int, image_bytes: int, hole: int, info: int) -> bool:
        """Return whether the header of a page image, and the hole length at `at`, are possible."""
        if image_bytes > PAGE_BYTES:
            return False
        has_hole = info & IMAGE_HAS_HOLE
        is_compressed = info & self.image_compressed
        if not is_compressed:
            hole_bytes = PAGE_BYTES - image_bytes
        else:
            hole_bytes = _HOLE.unpack_from(record, at)[0] if has_hole else 0
        if has_hole:
            return hole > 0 and hole_bytes != 0 and image_bytes != PAGE_BYTES
        if hole or hole_bytes:
            return False
        return (image_bytes == PAGE_BYTES) != bool(is_compressed)

    def columns(self, end: LogEnd) -> Scanned:
        """Return the result in the form of the C twin."""
        records = (
            self.lsns.tobytes(),
            _column(self.headers, _HEADER_PART, 0, 4),
            _column(self.headers, _HEADER_PART, 4, 4),
            _column(self.headers, _HEADER_PART, 17, 1),
            _column(self.headers, _HEADER_PART, 16, 1),
            bytes(self.changes),
            self.rows.tobytes(),
        )
        flags = _column(self.blocks, _BLOCK.size, 1, 1)
        blocks = (
            self.block_records.tobytes(),
            *(_column(self.blocks, _BLOCK.size, at, 4) for at in (4, 8, 12, 16)),
            flags.translate(_FORK),
            _column(self.blocks, _BLOCK.size, 0, 1),
            flags.translate(_FLAGS),
        )
        kept = (self.kept_records.tobytes(), self.kept_ends.tobytes(), bytes(self.kept))
        where = (int(end), self.at, self.prev, self.timeline, self.begin, bytes(self.carry))
        return (*where, records, blocks, kept)


def _column(rows: bytearray, width: int, offset: int, size: int) -> bytes:
    """Return one field of rows of little-endian bytes, in native order."""
    column = bytearray(len(rows) // width * size)
    for byte in range(size):
        to = byte if sys.byteorder == "little" else size - 1 - byte
        column[to::size] = rows[offset + byte :: width]
    return bytes(column)


def _row_change(rmgr: int, opcode: int, main: bytes) -> tuple[int, int]:
    """Return (RowChange, rows) of a heap record; a change of -1 when its data are cut short.

    Source: src/include/access/heapam_xlog.h. Flags: 0x04 of an insert: speculative; 0x08 of a
    delete: takes a speculative insert back; 0x10: the row goes to another partition.
    """
    if rmgr == RM_HEAP2:
        if opcode != 0x50:
            return _NO_CHANGE, 0
        return (_INSERT, _HOLE.unpack_from(main, 2)[0]) if len(main) >= 4 else (-1, 0)
    if opcode == 0x00:
        if len(main) < 3:
            return -1, 0
        return (_NO_CHANGE, 0) if main[2] & 0x04 else (_INSERT, 1)
    if opcode == 0x10:
        if len(main) < 8:
            return -1, 0
        if main[7] & 0x08:
            return _NO_CHANGE, 0
        return (_MOVE, 1) if main[7] & 0x10 else (_DELETE, 1)
    if opcode in _UPDATES:
        return _UPDATE, 1
    return (_INSERT, 1) if opcode == 0x50 else (_NO_CHANGE, 0)
