"""The loops over the columns of an index: delta encoding, nulls, sorting, taking rows, record ends.

Each has a plain-Python reference here and a C twin in `_speedups`, which returns the same bytes.
Columns are bytes of native unsigned integers of 1, 2, 4 or 8 bytes.

DELTA_BINARY_PACKED as Parquet defines it (apache/parquet-format, Encodings.md), in blocks of 128
values with 4 miniblocks; differences wrap around at the width of the column.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import struct
from array import array
from collections.abc import Callable
from itertools import compress
from operator import itemgetter
from types import ModuleType
from typing import Any, TypeAlias

from pitr.postgres.index.thrift import read_varint, read_zigzag, varint, zigzag
from pitr.postgres.wal.fields import EPOCH_SHIFT_US
from pitr.postgres.wal.page import advance, align

Buffer: TypeAlias = bytes | bytearray | memoryview

BLOCK_VALUES = 128
MINIBLOCKS = 4
MINIBLOCK_VALUES = BLOCK_VALUES // MINIBLOCKS
_TIME = struct.Struct("<q")
CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


def integers(column: Buffer, width: int) -> memoryview:
    """Return a view of a column's bytes as unsigned integers of `width` bytes."""
    view: Any = memoryview(column).cast("B")
    found: memoryview = view.cast(CODES[width])
    return found


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _delta_encode(column: Buffer, width: int) -> bytes:
    """Return a column of `width` 4 or 8 bytes in DELTA_BINARY_PACKED."""
    bits = 8 * width
    mask = (1 << bits) - 1
    values = integers(column, width).tolist()
    first = _signed(values[0], bits) if values else 0
    out = [varint(BLOCK_VALUES), varint(MINIBLOCKS), varint(len(values)), zigzag(first)]
    half = 1 << (bits - 1)
    for begin in range(1, len(values), BLOCK_VALUES):
        end = min(begin + BLOCK_VALUES, len(values))
        # Wrapped differences, seen as signed.
        deltas = [
            ((b - a + half) & mask) - half
            for a, b in zip(values[begin - 1 : end - 1], values[begin:end], strict=True)
        ]
        least = min(deltas)
        widths = bytearray(MINIBLOCKS)
        parts = []
        for number, at in enumerate(range(0, len(deltas), MINIBLOCK_VALUES)):
            rests = [(d - least) & mask for d in deltas[at : at + MINIBLOCK_VALUES]]
            widths[number] = size = max(rests).bit_length()
            packed = sum(rest << i * size for i, rest in enumerate(rests)) if size else 0
            parts.append(packed.to_bytes(size * MINIBLOCK_VALUES // 8, "little"))
        out += [zigzag(least), bytes(widths), *parts]
    return b"".join(out)


def _delta_decode(data: Buffer, width: int, count: int) -> bytes:
    """Return the column of `count` values that `data` encodes. Raises ValueError."""
    try:
        return _decode_blocks(bytes(data), width, count)
    except IndexError:
        raise ValueError("the encoded column is cut short") from None


def _decode_blocks(data: bytes, width: int, count: int) -> bytes:
    bits = 8 * width
    mask = (1 << bits) - 1
    block, at = read_varint(data, 0)
    miniblocks, at = read_varint(data, at)
    total, at = read_varint(data, at)
    value, at = read_zigzag(data, at)
    if (block, miniblocks, total) != (BLOCK_VALUES, MINIBLOCKS, count):
        raise ValueError("the encoded column has another shape than declared")
    value &= mask
    values = array(CODES[width], [value] if count else [])
    while len(values) < count:
        least, at = read_zigzag(data, at)
        widths = data[at : at + MINIBLOCKS]
        if len(widths) < MINIBLOCKS or max(widths) > bits:
            raise ValueError("the encoded column has impossible widths")
        at += MINIBLOCKS
        for size in widths:
            left = min(count - len(values), MINIBLOCK_VALUES)
            if left <= 0:
                break
            end = at + size * MINIBLOCK_VALUES // 8
            if end > len(data):
                raise ValueError("the encoded column is cut short")
            packed = int.from_bytes(data[at:end], "little")
            at = end
            rest = (1 << size) - 1
            for i in range(left):
                value = (value + least + (packed >> i * size & rest)) & mask
                values.append(value)
    return values.tobytes()


def _split_nulls(column: Buffer, width: int) -> tuple[bytes, bytes]:
    """Return which values of a column are not 0, a bit each, lowest first, and those values."""
    values = integers(column, width).tolist()
    digits = "".join("1" if value else "0" for value in reversed(values))
    bits = int(f"0{digits}", 2).to_bytes((len(values) + 7) // 8, "little")
    return bits, array(CODES[width], filter(None, values)).tobytes()


def _join_nulls(bits: Buffer, present: Buffer, width: int, count: int) -> bytes:
    """Return the column that `split_nulls` was given.

    Raises ValueError when there are not as many values as bits.
    """
    mask = int.from_bytes(bits, "little")
    values = integers(present, width).tolist()
    if len(bits) != (count + 7) // 8 or mask >> count or mask.bit_count() != len(values):
        raise ValueError("the nulls of the encoded column do not fit its values")
    left = iter(values)
    digits = reversed(f"{mask:0{count}b}") if count else ""
    return array(CODES[width], [next(left) if digit == "1" else 0 for digit in digits]).tobytes()


def _sort_rows(high: Buffer, low: Buffer) -> bytes:
    """Return the order (4-byte row numbers) that sorts rows by two 4-byte columns, stably."""
    columns = zip(integers(high, 4), integers(low, 4), strict=True)
    keys = [a << 32 | b for a, b in columns]
    return array("I", sorted(range(len(keys)), key=keys.__getitem__)).tobytes()


def _take_rows(column: Buffer, width: int, order: Buffer) -> bytes:
    """Return the values of a column at the row numbers (4 bytes each) of `order`.

    Raises IndexError for a row number that the column does not have.
    """
    rows = integers(order, 4).tolist()
    values = integers(column, width)
    if len(rows) < 2:
        return array(CODES[width], [values[row] for row in rows]).tobytes()
    return array(CODES[width], itemgetter(*rows)(values)).tobytes()


def both(one: bytes, other: bytes) -> bytes:
    """Return the bits that are set in both of two columns of one byte."""
    return (int.from_bytes(one) & int.from_bytes(other)).to_bytes(len(one))


def _end_distances(lsns: Buffer, lengths: Buffer, segment_bytes: int) -> bytes:
    """Return for each record (LSN, length) how far behind its LSN the next one can begin."""
    rows = zip(integers(lsns, 8).tolist(), integers(lengths, 4).tolist(), strict=True)
    ends = [align(advance(lsn, length, segment_bytes)) - lsn for lsn, length in rows]
    return array("Q", ends).tobytes()


def _take_times(data: Buffer, ends: Buffer) -> bytes:
    """Return the times (8 bytes) that end at these offsets (8 bytes each) of `data`.

    There they count from PostgreSQL's epoch, in the result from 1970; 0 for what lies before.
    Raises IndexError for an offset outside.
    """
    offsets = integers(ends, 8).tolist()
    if offsets and not 8 <= min(offsets) <= max(offsets) <= len(data):
        raise IndexError("an offset beyond the data")
    times = (_TIME.unpack_from(data, end - 8)[0] for end in offsets)
    return array("Q", [max(time + EPOCH_SHIFT_US, 0) for time in times]).tobytes()


def _other_rows(count: int, named: Buffer) -> bytes:
    """Return the row numbers (4 bytes each) below `count` that `named` does not have.

    Raises IndexError for a row number that is not below.
    """
    is_other = bytearray(b"\1") * count
    for row in integers(named, 4):
        is_other[row] = 0
    return array("I", compress(range(count), is_other)).tobytes()


def _column_bounds(column: Buffer, width: int) -> tuple[int, int]:
    """Return the least and the greatest value of a column. Raises ValueError for an empty one."""
    values = integers(column, width).tolist()
    return min(values), max(values)


_compiled: ModuleType | None = None
if os.environ.get("PITR_PURE") != "1":
    with contextlib.suppress(ImportError):
        _compiled = importlib.import_module("pitr._speedups")

delta_encode: Callable[[Buffer, int], bytes] = getattr(_compiled, "delta_encode", _delta_encode)
delta_decode: Callable[[Buffer, int, int], bytes]
delta_decode = getattr(_compiled, "delta_decode", _delta_decode)
split_nulls: Callable[[Buffer, int], tuple[bytes, bytes]]
split_nulls = getattr(_compiled, "split_nulls", _split_nulls)
join_nulls: Callable[[Buffer, Buffer, int, int], bytes]
join_nulls = getattr(_compiled, "join_nulls", _join_nulls)
sort_rows: Callable[[Buffer, Buffer], bytes] = getattr(_compiled, "sort_rows", _sort_rows)
take_rows: Callable[[Buffer, int, Buffer], bytes] = getattr(_compiled, "take_rows", _take_rows)
end_distances: Callable[[Buffer, Buffer, int], bytes]
end_distances = getattr(_compiled, "end_distances", _end_distances)
take_times: Callable[[Buffer, Buffer], bytes] = getattr(_compiled, "take_times", _take_times)
other_rows: Callable[[int, Buffer], bytes] = getattr(_compiled, "other_rows", _other_rows)
column_bounds: Callable[[Buffer, int], tuple[int, int]]
column_bounds = getattr(_compiled, "column_bounds", _column_bounds)
