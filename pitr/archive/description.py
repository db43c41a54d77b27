"""Describe the frame of one archive object in lines of text, for `pitr debug object FILE`.

Says what the bytes say, also when they contradict each other: a dump is asked for when something
is wrong. What is inside the sections an engine's own describer tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from pitr.archive.object import ObjectReader, verify_object
from pitr.errors import PitrError

KEY = "this object"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DOCUMENT_BYTES_MAX = 1 << 16

DescribeBody = Callable[[ObjectReader], Iterator[str]]


def describe(data: bytes, body: DescribeBody) -> list[str]:
    """Return what the bytes of an object hold, a line each; damage is described, never raised."""
    kind = data[8:12]
    lines: list[str] = []
    try:
        reader = ObjectReader.of_bytes(KEY, data, kind)
        lines.extend(_frame(reader, data))
        verify_object(KEY, data, kind)
        lines.append("checksum     matches")
        lines.extend(body(reader))
    except PitrError as error:
        lines.append(f"damaged      {error.detail or error.message}")
    return lines


def _frame(reader: ObjectReader, data: bytes) -> Iterator[str]:
    kind = data[8:12].decode("ascii", "replace")
    yield f"object       kind {kind}, version {reader.version}, {len(data)} bytes"
    yield f"{'section':>12} {'offset':>10} {'stored':>10} {'raw':>10}  checksum"
    for entry in reader.entries:
        sizes = f"{entry.offset:10} {entry.stored:10} {entry.raw:10}"
        yield f"{entry.id:12} {sizes}  {entry.checksum:016x}"


def describe_documents(reader: ObjectReader) -> Iterator[str]:
    """Yield the sections that are short enough to be read, as text."""
    for entry in reader.entries:
        if entry.raw <= _DOCUMENT_BYTES_MAX:
            text = reader.section(entry.id).decode("utf-8", "backslashreplace")
            yield f"section {entry.id:<4} {text}"


def utc_text(time_us: int) -> str:
    """Return a moment, given in µs since the epoch, as a dump shows it."""
    try:
        moment = _EPOCH + timedelta(microseconds=time_us)
    except OverflowError:
        return f"no time: {time_us} µs"
    return moment.strftime("%Y-%m-%d %H:%M:%S.%fZ")
