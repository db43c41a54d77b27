"""Rows of some blocks, told apart by place and by the transaction that put them there.

In one file a row version never changes, and its place is given to another one only by a later
transaction. So a version that two states see at one place, put there by one transaction, is the
same row in both, and only the others are read.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pitr.postgres.index.file import BlockRanges
from pitr.postgres.tables.session import Connection, value_of

# One statement asks for no more: a long list takes the planner more than its scans take.
_RANGES_MAX = 256
_BLOCKS_MAX = 2048
_SCANS_RANGES = 140_000
_LINES_MAX = 291  # MaxHeapTuplesPerPage
_PLACES_MAX = 1 << 16
_VERSION = struct.Struct(">IHI")  # block and line, as tidsend writes them; xid
_XIDS = 1 << 32

Versions = set[bytes]


@dataclass(frozen=True, slots=True)
class XidRange:
    """The xids from `begin` on that were given out before `end`; numbers go round at 2^32."""

    begin: int
    end: int

    def holds(self, xid: int) -> bool:
        """Return whether an xid is one of them."""
        return (xid - self.begin) % _XIDS < (self.end - self.begin) % _XIDS


def portions(ranges: BlockRanges) -> Iterator[BlockRanges]:
    """Yield ranges of blocks in portions for one statement each."""
    portion: list[tuple[int, int]] = []
    blocks = 0
    for begin, end in ranges:
        for low in range(begin, end, _BLOCKS_MAX):
            high = min(low + _BLOCKS_MAX, end)
            if portion and (len(portion) == _RANGES_MAX or blocks + high - low > _BLOCKS_MAX):
                yield portion
                portion, blocks = [], 0
            portion.append((low, high))
            blocks += high - low
    if portion:
        yield portion


def in_blocks(
    source: str, ranges: BlockRanges, version: int, columns: str = "*", where: str | None = None
) -> str:
    """Return a SELECT of the rows of a relation in some blocks, for a version of the server.

    A condition names the columns of the relation alone, and may name the relation itself.
    """
    also = _also(where)
    if version >= _SCANS_RANGES:
        scans = (
            f"SELECT {columns} FROM {source}"
            f" WHERE ctid >= '({begin},0)' AND ctid < '({end},0)'{also}"
            for begin, end in ranges
        )
        return " UNION ALL ".join(scans)
    some = ",".join(str(block) for begin, end in ranges for block in range(begin, end))
    places = (
        "SELECT ('(' || block || ',' || line || ')')::tid"
        f" FROM unnest('{{{some}}}'::int8[]) AS block, generate_series(1, {_LINES_MAX}) AS line"
    )
    return f"SELECT {columns} FROM {source} WHERE ctid = ANY (ARRAY({places})){also}"


def at_places(source: str, versions: Collection[bytes], where: str | None = None) -> Iterator[str]:
    """Yield SELECTs of the rows of a relation that are these versions, and meet a condition."""
    ordered = [_VERSION.unpack(one) for one in sorted(versions)]
    for at in range(0, len(ordered), _PLACES_MAX):
        some = ordered[at : at + _PLACES_MAX]
        listed = ",".join(f'"({block},{line})"' for block, line, _ in some)
        yield f"SELECT * FROM {source} WHERE ctid = ANY ('{{{listed}}}'::tid[]){_also(where)}"


def _also(where: str | None) -> str:
    # An index for the condition must not be used: the list of places is one for scans alone.
    return "" if where is None else f" AND CASE WHEN {where} THEN TRUE ELSE FALSE END"


def read_versions(connection: Connection, source: str, ranges: BlockRanges) -> Versions:
    """Return the row versions that the snapshot sees in some blocks. Raises psycopg.Error."""
    select = in_blocks(source, ranges, connection.info.server_version, "ctid, xmin")
    found = value_of(
        connection,
        "SELECT string_agg(pg_catalog.tidsend(ctid) || pg_catalog.xidsend(xmin), '')"
        f" FROM ({select}) AS found",
    )
    data, width = bytes(found or b""), _VERSION.size
    return {data[at : at + width] for at in range(0, len(data), width)}


def differing(own: Versions, others: Versions, unsure: XidRange) -> Versions:
    """Return the versions that the other state does not see for sure.

    `unsure` are the xids given out between the states: a version with one of those numbers was put
    there when the number was given out the time before, and another one may be in its place.
    """
    same = own & others
    return own - {one for one in same if not unsure.holds(_VERSION.unpack(one)[2])}
