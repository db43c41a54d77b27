"""Segments of WAL as bytes: true page headers, and no records, for whoever looks at pages only."""

from __future__ import annotations

import random
import struct

from pitr.postgres.wal_store.object import WalHead, encode_wal
from tests.memory_store import MemoryStore

MIB = 1 << 20
PAGE = 8192
SYSTEM = 7_300_000_000_000_000_001


def segment(
    number: int, *, timeline: int = 1, segment_bytes: int = MIB, system: int = SYSTEM
) -> bytes:
    """Return a whole segment: the same arguments give the same bytes."""
    chance = random.Random(f"{number} {system}")
    pages = []
    for at in range(0, segment_bytes, PAGE):
        address = number * segment_bytes + at
        header = struct.pack("<HHIQI4x", 0xD110, 0 if at else 2, timeline, address, 0)
        if at == 0:
            header += struct.pack("<QII", system, segment_bytes, PAGE)
        body = chance.randbytes(200) * (PAGE // 200 + 1)
        pages.append((header + body)[:PAGE])
    return b"".join(pages)


def head(
    number: int,
    *,
    timeline: int = 1,
    begin: int = 0,
    end: int | None = None,
    segment_bytes: int = MIB,
    system: int = SYSTEM,
) -> WalHead:
    """Return the head of the object for bytes [begin, end) of a segment."""
    return WalHead(
        timeline=timeline,
        segment=number,
        segment_bytes=segment_bytes,
        begin=begin,
        end=segment_bytes if end is None else end,
        system_identifier=str(system),
        page_magic=0xD110,
    )


def store_wal(
    store: MemoryStore, number: int, *, timeline: int = 1, begin: int = 0, end: int = MIB
) -> str:
    """Put bytes [begin, end) of a segment into a store; return the key."""
    of = head(number, timeline=timeline, begin=begin, end=end)
    store.put_new(of.key, encode_wal(of, segment(number, timeline=timeline)[begin:end]))
    return of.key
