"""Objects of the index: Thrift, Parquet, delta encoding. The input: a file, or `D` and a column."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

from pitr.errors import PitrError
from pitr.postgres.index import packing
from pitr.postgres.index.file import Stretch, clip, encode_index, files_in, rows_of_file
from pitr.postgres.index.name import IndexObject
from pitr.postgres.index.reading import IndexFile
from pitr.postgres.index.rows import COLUMNS, NAMES, Rows
from pitr.postgres.verification.description import describe_object
from tests.fuzz.sealing import stored

_COUNTS = (0, 1, 2, 33, 200, 5000)
_Decode = Callable[[bytes, int, int], bytes]


def seeds() -> Iterator[bytes]:
    """Yield a small file, with two row groups, and encoded columns."""
    groups = [_rows(3, is_system=True), _rows(40, is_system=False)]
    stretch = Stretch(1, 0x1000000, 0x2000000, 0x2000028, 1 << 24)
    yield encode_index(stretch, groups, (10**15, 10**15 + 5))[1]
    for number, count in enumerate(_COUNTS):
        for width in (4, 8):
            values = b"".join((n * n * 7).to_bytes(width, "little") for n in range(count))
            head = bytes([ord("D"), number, width])
            yield head + packing.delta_encode(values, width)


def fuzz(data: bytes) -> None:
    """Read every column of every row group as a search does."""
    if data[:1] == b"D":
        _decode_column(data[1:])
        return
    describe_object(b"PAR1" + data[4:])
    key = IndexObject(1, 0x1000000, 0x2000000, 1, 2, _footer_crc(data)).key
    item = IndexObject(1, 0x1000000, 0x2000000, 1, 2, _footer_crc(data), len(data))
    try:
        file = IndexFile(stored(key, data), item)
        for group in file.groups:
            rows = file.read(group, NAMES, is_strict=True)
            for one in files_in(rows):
                rows_of_file(rows, one)
            clip(rows, 0x1000000, 0x2000000, file.stretch.segment_bytes)
    except PitrError:
        pass


def _decode_column(data: bytes) -> None:
    if len(data) < 2:
        return
    count, width = _COUNTS[data[0] % len(_COUNTS)], 8 if data[1] & 8 else 4
    found = [
        _outcome(decode, data[2:], width, count)
        for decode in (packing.delta_decode, packing._delta_decode)
    ]
    assert found[0] == found[1], "the delta decoder in C and its reference disagree"


def _outcome(decode: _Decode, data: bytes, width: int, count: int) -> bytes | None:
    try:
        return decode(data, width, count)
    except ValueError:
        return None


def _rows(count: int, *, is_system: bool) -> Rows:
    columns = {}
    for column in COLUMNS:
        is_file = column.name in ("tablespace", "database", "relation")
        step = 0 if is_system and is_file else 1
        values = [(number * step * 3) % 250 + step for number in range(count)]
        if column.name == "lsn":
            values = [0x1000028 + number * 64 for number in range(count)]
        if column.name in ("kind", "change", "fork"):
            values = [value % 3 for value in values]
        width = column.kind.width
        raw = b"".join(value.to_bytes(width, "little") for value in sorted(values))
        columns[column.name] = packing.integers(raw, width)
    return Rows(columns)


def _footer_crc(data: bytes) -> int:
    size = int.from_bytes(data[-8:-4], "little") if len(data) >= 8 else 0
    return zlib.crc32(data[-8 - size : -8])
