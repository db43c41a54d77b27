"""Parquet files, as far as the index of WAL records needs them: bytes in, values out, no I/O.

Written is a small part of the format that every engine reads: flat tables of integer columns, some
of them optional, one page a column and row group, zstd, CRC-32 of every page. Read is what is
written.
docs/formats/postgres-index.md states the part; docs/decisions/2026-11-28-wal-index-format.md says
why it is written here and not by a library.

Specification: apache/parquet-format 2.10, README.md, Encodings.md and src/main/thrift.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import zstandard

from pitr.archive.object import ZSTD_GROWTH_MAX
from pitr.postgres.index.packing import (
    Buffer,
    column_bounds,
    delta_decode,
    delta_encode,
    integers,
    join_nulls,
    split_nulls,
)
from pitr.postgres.index.thrift import (
    Byte,
    Long,
    Short,
    Struct,
    Value,
    decode_struct,
    encode_struct,
    read_varint,
    varint,
)

MAGIC = b"PAR1"
TRAILER_BYTES = 8
_ZSTD_LEVEL = 3
# A declared size beyond these is damage or malice, never ours: refused before allocating.
_ROWS_MAX = 1 << 24
_PAGE_BYTES_MAX = 1 << 28

_INT32, _INT64 = 1, 2
_REQUIRED, _OPTIONAL = 0, 1
_PLAIN, _RLE, _DELTA, _DICTIONARY = 0, 3, 5, 8
_ZSTD = 6
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2


class Kind(Enum):
    """The type of a column: bytes in memory, converted type and logical type of Parquet."""

    UINT8 = (1, 11, {10: {1: Byte(8), 2: False}})
    UINT32 = (4, 13, {10: {1: Byte(32), 2: False}})
    UINT64 = (8, 14, {10: {1: Byte(64), 2: False}})
    TIME = (8, 10, {8: {1: True, 2: {2: {}}}})  # microseconds since the epoch, UTC

    @property
    def width(self) -> int:
        """Return the bytes of one value in memory."""
        return int(self.value[0])

    @property
    def physical(self) -> int:
        """Return the physical type in the file."""
        return _INT64 if self.width == 8 else _INT32


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table. In an optional one, of four or eight bytes, 0 stands for a null."""

    name: str
    kind: Kind
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """One column of a row group: where its pages lie, and the bounds of its values, nulls as 0."""

    begin: int
    end: int
    least: int
    greatest: int


@dataclass(frozen=True, slots=True)
class Group:
    """One row group of a file."""

    rows: int
    chunks: Mapping[str, Chunk]

    @property
    def extent(self) -> tuple[int, int]:
        """Return the half-open range of the file in which all its pages lie."""
        return min(c.begin for c in self.chunks.values()), max(c.end for c in self.chunks.values())


class Damaged(ValueError):
    """Say what is wrong with the bytes of a file."""


# --- writing ---------------------------------------------------------------------------------


def encode_file(
    columns: Sequence[Column],
    groups: Iterable[Sequence[Buffer]],
    properties: Mapping[str, str],
    created_by: str,
) -> bytes:
    """Return a file. A group has the bytes of each column, all of the same number of rows (> 0).

    The same arguments give the same bytes, as far as the zstd library does.
    """
    parts = [MAGIC]
    offset = len(MAGIC)
    described: list[Struct] = []
    rows = 0
    compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
    for group in groups:
        count = len(memoryview(group[0]).cast("B")) // columns[0].kind.width
        chunks: list[Value] = []
        begin = offset
        raw_bytes = 0
        for column, values in zip(columns, group, strict=True):
            pages, raw, dictionary_bytes = _encode_chunk(compressor, column, values, count)
            meta = _chunk_metadata(column, values, offset, len(pages), raw, dictionary_bytes, count)
            chunks.append({2: Long(0), 3: meta})
            parts.append(pages)
            offset += len(pages)
            raw_bytes += raw
        described.append(_group_metadata(chunks, raw_bytes, count, begin, offset, len(described)))
        rows += count
    footer = encode_struct(_file_metadata(columns, described, rows, properties, created_by))
    return b"".join([*parts, footer, len(footer).to_bytes(4, "little"), MAGIC])


def _encode_chunk(
    compressor: zstandard.ZstdCompressor, column: Column, values: Buffer, count: int
) -> tuple[bytes, int, int]:
    """Return the pages of a column, their raw size with headers, and the dictionary page's size."""
    if column.kind is not Kind.UINT8:
        levels = b""
        if column.is_optional:
            bits, values = split_nulls(values, column.kind.width)
            levels = _encode_levels(bits)
        page = levels + delta_encode(values, column.kind.width)
        stored, raw = _page(compressor, page, 5, {1: count, 2: _DELTA, 3: _RLE, 4: _RLE})
        return stored, raw, 0
    # Bytes: a dictionary of the values that occur, and indexes of eight bits, that is of one byte.
    data = bytes(values)
    present = _values_in(data)
    dictionary = b"".join(value.to_bytes(4, "little") for value in present)
    first, first_raw = _page(compressor, dictionary, 7, {1: len(present), 2: _PLAIN})
    indexes = data.translate(_index_table(present))
    runs = (count + 7) // 8
    page = b"\x08" + _run_head(runs) + indexes.ljust(runs * 8, b"\0")
    second, second_raw = _page(compressor, page, 5, {1: count, 2: _DICTIONARY, 3: _RLE, 4: _RLE})
    return first + second, first_raw + second_raw, len(first)


def _run_head(groups: int) -> bytes:
    """Return the head of a bit-packed run of so many groups of eight values."""
    return varint(groups << 1 | 1)


def _encode_levels(bits: bytes) -> bytes:
    """Return the definition levels of a page, one bit each, in one bit-packed run."""
    run = _run_head(len(bits)) + bits
    return len(run).to_bytes(4, "little") + run


def _values_in(data: bytes) -> list[int]:
    """Return the values of bytes, ascending. They are few: one after the other is taken out."""
    found = bytearray()
    while data:
        found.append(data[0])
        data = data.translate(None, data[:1])
    return sorted(found)


def _index_table(present: Sequence[int]) -> bytes:
    table = bytearray(256)
    for index, value in enumerate(present):
        table[value] = index
    return bytes(table)


def _page(
    compressor: zstandard.ZstdCompressor, page: bytes, field: int, head: Struct
) -> tuple[bytes, int]:
    stored = compressor.compress(page)
    header = _page_header(len(page), stored, field, head)
    return header + stored, len(header) + len(page)


def _page_header(raw_bytes: int, stored: bytes, field: int, head: Struct) -> bytes:
    crc = zlib.crc32(stored)
    return encode_struct(
        {
            1: _DATA_PAGE if field == 5 else _DICTIONARY_PAGE,
            2: raw_bytes,
            3: len(stored),
            4: crc - (1 << 32) if crc >> 31 else crc,
            field: head,
        }
    )


def _chunk_metadata(
    column: Column,
    values: Buffer,
    offset: int,
    size: int,
    raw: int,
    dictionary_bytes: int,
    count: int,
) -> Struct:
    encodings = [_DICTIONARY, _PLAIN, _RLE] if dictionary_bytes else [_DELTA, _RLE]
    meta: Struct = {
        1: column.kind.physical,
        2: encodings,
        3: [column.name],
        4: _ZSTD,
        5: Long(count),
        6: Long(raw),
        7: Long(size),
        9: Long(offset + dictionary_bytes),
        12: _statistics(column, values),
    }
    if dictionary_bytes:
        meta[11] = Long(offset)
    return meta


def _statistics(column: Column, values: Buffer) -> Struct:
    width = 8 if column.kind.physical == _INT64 else 4
    nulls = 0
    if column.is_optional:
        present = split_nulls(values, column.kind.width)[1]
        nulls = (len(memoryview(values).cast("B")) - len(present)) // column.kind.width
        values = present
    if not len(values):
        return {3: Long(nulls)}
    least, greatest = column_bounds(values, column.kind.width)
    return {
        3: Long(nulls),
        5: greatest.to_bytes(width, "little"),
        6: least.to_bytes(width, "little"),
    }


def _group_metadata(
    chunks: list[Value], raw_bytes: int, count: int, begin: int, end: int, ordinal: int
) -> Struct:
    return {
        1: chunks,
        2: Long(raw_bytes),
        3: Long(count),
        5: Long(begin),
        6: Long(end - begin),
        7: Short(ordinal & 0x7FFF),
    }


def _file_metadata(
    columns: Sequence[Column],
    groups: Sequence[Struct],
    rows: int,
    properties: Mapping[str, str],
    created_by: str,
) -> Struct:
    root: Struct = {4: "schema", 5: len(columns)}
    return {
        1: 2,
        2: [root, *map(_schema_element, columns)],
        3: Long(rows),
        4: groups,
        5: [{1: key, 2: value} for key, value in sorted(properties.items())],
        6: created_by,
        7: [{1: {}} for _ in columns],  # bounds in the order of the type
    }


def _schema_element(column: Column) -> Struct:
    _width, converted, logical = column.kind.value
    repetition = _OPTIONAL if column.is_optional else _REQUIRED
    return {1: column.kind.physical, 3: repetition, 4: column.name, 6: converted, 10: logical}


# --- reading ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Footer:
    """What the end of a file says of it."""

    groups: tuple[Group, ...]
    properties: Mapping[str, str]
    crc: int


def footer_extent(tail: bytes) -> int:
    """Return how many bytes at the end of a file are its footer and trailer.

    `tail` are the last bytes of the file, 8 at least. Raises Damaged.
    """
    if len(tail) < TRAILER_BYTES or tail[-4:] != MAGIC:
        raise Damaged("the end mark is missing")
    return int.from_bytes(tail[-8:-4], "little") + TRAILER_BYTES


def footer_crc(data: bytes) -> int:
    """Return the CRC-32 of the footer of a whole file. Raises Damaged."""
    return zlib.crc32(data[-footer_extent(data) : -TRAILER_BYTES])


def decode_footer(tail: bytes, columns: Sequence[Column], size: int) -> Footer:
    """Return the footer of a file of `size` bytes that ends with `tail`. Raises Damaged."""
    extent = footer_extent(tail)
    if extent > len(tail) or extent + len(MAGIC) > size:
        raise Damaged("the footer is longer than the file")
    data = tail[-extent:-TRAILER_BYTES]
    try:
        metadata: Any = decode_struct(data)[0]
        names = [element[4].decode() for element in metadata[2][1:]]
        if names != [column.name for column in columns]:
            raise Damaged(f"the file has other columns: {', '.join(names)}")
        groups = tuple(_read_group(group, columns, size - extent) for group in metadata[4])
        properties = {item[1].decode(): item[2].decode() for item in metadata.get(5, ())}
    except Damaged:
        raise
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise Damaged(f"the footer does not decode: {error}") from None
    return Footer(groups, properties, zlib.crc32(data))


def _read_group(group: Any, columns: Sequence[Column], end: int) -> Group:
    rows = group[3]
    if not 0 < rows <= _ROWS_MAX:
        raise Damaged(f"a row group declares {rows} rows")
    if len(group[1]) != len(columns):
        raise Damaged("a row group has another number of columns")
    chunks = {}
    for column, chunk in zip(columns, group[1], strict=True):
        meta = chunk[3]
        begin = meta.get(11, meta[9])
        if meta[4] != _ZSTD or meta[5] != rows or not len(MAGIC) <= begin <= begin + meta[7] <= end:
            raise Damaged(f"column {column.name} does not fit its row group")
        bounds = meta[12]
        is_bare = column.is_optional and bounds[3] == rows  # nothing but nulls
        least = 0 if column.is_optional and bounds[3] else int.from_bytes(bounds[6], "little")
        greatest = 0 if is_bare else int.from_bytes(bounds[5], "little")
        chunks[column.name] = Chunk(begin, begin + meta[7], least, greatest)
    return Group(rows, chunks)


def decode_chunk(data: bytes, column: Column, rows: int) -> memoryview:
    """Return the values of a column of a row group from its pages, verified. Raises Damaged."""
    try:
        first, at = _read_page(data, 0)
        if column.kind is not Kind.UINT8:
            values = _decode_integers(first[1], column, rows)
        else:
            second, at = _read_page(data, at)
            values = _decode_indexes(first[1], second[1], rows)
        if at != len(data):
            raise Damaged("there are bytes after the last page")
    except Damaged as error:
        raise Damaged(f"column {column.name}: {error}") from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise Damaged(f"column {column.name} does not decode: {error}") from None
    return integers(values, column.kind.width)


def check_headers(data: bytes, column: Column, rows: int) -> None:
    """Compare the headers of a column's pages, which decodes, with those that were written.

    They have no checksum, and most of what they say only readers of other programs look at. Raises
    Damaged.
    """
    heads: list[tuple[int, Struct]] = [(5, {1: rows, 2: _DELTA, 3: _RLE, 4: _RLE})]
    if column.kind is Kind.UINT8:
        heads = [(7, {2: _PLAIN}), (5, {1: rows, 2: _DICTIONARY, 3: _RLE, 4: _RLE})]
    at = 0
    for field, head in heads:
        found: Any
        found, begin = decode_struct(data, at)
        stored = data[begin : begin + found[3]]
        wanted = {1: found[2] // 4} | head if field == 7 else head
        if data[at:begin] != _page_header(found[2], stored, field, wanted):
            raise Damaged(f"column {column.name}: the header of a page contradicts it")
        at = begin + len(stored)


def _read_page(data: bytes, at: int) -> tuple[tuple[int, bytes], int]:
    """Return the type and the raw bytes of the page at an offset, and the offset after it."""
    header: Any
    header, begin = decode_struct(data, at)
    kind, raw_bytes, stored_bytes = header[1], header[2], header[3]
    end = begin + stored_bytes
    if not begin <= end <= len(data) or not 0 <= raw_bytes <= min(
        _PAGE_BYTES_MAX, stored_bytes * ZSTD_GROWTH_MAX
    ):
        raise Damaged("a page does not fit its column")
    stored = data[begin:end]
    if zlib.crc32(stored) != header[4] & 0xFFFFFFFF:
        raise Damaged("the checksum of a page does not match")
    try:
        # A frame may declare any size of its own, and that is what zstandard would allocate.
        if zstandard.frame_content_size(stored) != raw_bytes:
            raise Damaged(f"a page declares another size than {raw_bytes} bytes")
        raw = zstandard.ZstdDecompressor().decompress(stored, max_output_size=raw_bytes)
    except zstandard.ZstdError as error:
        raise Damaged(f"a page does not decompress: {error}") from None
    if len(raw) != raw_bytes:
        raise Damaged(f"a page holds {len(raw)} bytes where {raw_bytes} belong")
    return (kind, raw), end


def _decode_integers(page: bytes, column: Column, rows: int) -> bytes:
    width = column.kind.width
    if not column.is_optional:
        return delta_decode(page, width, rows)
    groups = (rows + 7) // 8
    head = _run_head(groups)
    begin = 4 + len(head)
    end = begin + groups
    if page[:begin] != (end - 4).to_bytes(4, "little") + head:
        raise Damaged("the levels have another shape than declared")
    bits = page[begin:end]
    present = int.from_bytes(bits, "little").bit_count()
    return join_nulls(bits, delta_decode(page[end:], width, min(present, rows)), width, rows)


def _decode_indexes(dictionary: bytes, page: bytes, rows: int) -> bytes:
    count = len(dictionary) // 4
    head, at = read_varint(page, 1)
    if page[0] != 8 or head != (((rows + 7) // 8) << 1 | 1) or len(page) - at < rows:
        raise Damaged("the indexes have another shape than declared")
    values = bytes(dictionary[4 * i] for i in range(min(count, 256)))
    indexes = page[at : at + rows]
    if rows and max(indexes) >= count:
        raise Damaged("an index points beyond the dictionary")
    return indexes.translate(values.ljust(256, b"\0"))


assert sys.byteorder == "little"  # columns in memory are those of the file
