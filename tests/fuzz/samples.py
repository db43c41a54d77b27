"""One small object of every kind, made with the encoders: what seeds are cut from."""

from __future__ import annotations

from array import array
from functools import cache
from typing import Any

import zstandard

from pitr.archive.archive import Identity, Mark
from pitr.archive.document import encode_document
from pitr.archive.holder import Holder
from pitr.archive.lease import LeaseState
from pitr.postgres.base.contents import BaseFile
from pitr.postgres.base.object import (
    NO_PACK,
    ChunkPlace,
    ChunkTable,
    chunk_digest,
    encode_base,
    encode_pack,
)
from pitr.postgres.capture.gap import WalGap, encode_gap
from pitr.postgres.catalog.reading import Database, Reading, Relation, encode_reading
from pitr.postgres.wal_store.object import encode_wal
from pitr.postgres.wal_store.text import encode_text, history_key
from pitr.sqlite.pagelog.pagemap import CurrentPages, encode_map
from pitr.sqlite.pagelog.segment import CommitKind, SegmentWriter, WalMark, page_digest
from tests.unit.postgres.test_base_object import info
from tests.unit.postgres.wal_builder import MIB, Block, WalBuilder
from tests.unit.postgres.wal_bytes import head

PAGE_SIZE = 512
WAL_BYTES = 3 * 8192


@cache
def wal(major: int = 15) -> bytes:
    """Return three pages of WAL with records of several kinds."""
    made = WalBuilder(major=major)
    made.add(10, 0x00, xid=731, blocks=(Block(data=b"row"),), main=bytes(3))
    made.add(0, 0xA0, blocks=(Block(image=bytes(100), hole=(24, 8092)),))
    made.add(10, 0x20, xid=731, blocks=(Block(data=b"new", image=bytes(8192)),), main=bytes(14))
    made.add(1, 0x00, xid=731, main=bytes(8))
    made.add(0, 0x20, main=bytes(WAL_BYTES - len(made.data) - 29 - 64))
    return bytes(made.data).ljust(WAL_BYTES, b"\0")[:WAL_BYTES]


@cache
def objects() -> dict[str, bytes]:
    """Return object by key."""
    of = head(1, end=WAL_BYTES)
    history = b"1\t0/3000000\tno recovery target specified\n"
    made: dict[str, bytes] = {
        of.key: encode_wal(of, wal()),
        history_key(2): encode_text(history),
        **_base(),
        **_commits(),
        **_documents(),
    }
    made.update([_reading(1), _reading(0)])
    return made


def of_kind(kind: bytes) -> dict[str, bytes]:
    """Return the objects of a four-letter kind."""
    return {key: data for key, data in objects().items() if data[8:12] == kind}


def _base() -> dict[str, bytes]:
    raw = [b"a relation".ljust(8192, b"."), b"PG_VERSION 15"]
    frames = [zstandard.compress(one) for one in raw]
    digests = [chunk_digest(one, 7) for one in raw]
    lengths = array("I", [n for f, r in zip(frames, raw, strict=True) for n in (len(f), len(r))])
    key, pack = encode_pack(frames, b"".join(digests), lengths)
    about = info()
    chunks = ChunkTable()
    chunks.append(ChunkPlace(0, 16, len(frames[0]), digests[0]))
    chunks.append(ChunkPlace(0, 16 + len(frames[0]), len(frames[1]), digests[1]))
    chunks.append(ChunkPlace(NO_PACK, 0, 0, bytes(16)))
    files = [
        BaseFile("base", 0, 0o700, 1_700_000_000, is_folder=True),
        BaseFile("base/5/16384", 8192, 0o600, 1_700_000_000),
        BaseFile("PG_VERSION", 13, 0o600, 1_700_000_000),
        BaseFile("base/5/16385", 8192, 0o600, 1_700_000_000),
    ]
    return {f"base/{about.id}": encode_base(about, files, [key], chunks), key: pack}


def _commits() -> dict[str, bytes]:
    made: dict[str, bytes] = {}
    writer = SegmentWriter(made.__setitem__, page_size=PAGE_SIZE, lease=1)
    current = CurrentPages(PAGE_SIZE)
    current.resize(3)
    for number in (1, 2, 3):
        kind = CommitKind.BASE if number == 1 else CommitKind.COMMIT
        times: dict[str, Any] = {"time_begin_us": number * 10**6, "time_end_us": number * 10**6 + 5}
        mark = WalMark(1, 2, number, 3, 4)
        writer.begin(number=number, kind=kind, fork=0, page_count=3, wal=mark, **times)
        for page in (1, 2, 3) if number == 1 else (2,):
            image = f"page {page} of commit {number}".encode().ljust(PAGE_SIZE, b".")
            writer.page(page, image, page_digest(image))
            current.record(page, number, page_digest(image))
        current.chain = writer.end().chain
    writer.flush()
    current.commit = 3
    key, data = encode_map(current)
    return {**made, key: data}


def _documents() -> dict[str, bytes]:
    source = {"system_identifier": "7713215933965017619"}
    lease = LeaseState(1, Holder("host", 7, 9, "boot", None, "nonce"), 10**15, 10**15)
    gap = WalGap(timeline=1, begin="0/1000000", end="0/2000000", from_us=1, to_us=2, reason="gone")
    return {
        "pitr-archive": encode_document(b"IDEN", Identity("id", "postgres", source, 10**15)),
        "lease/00000001": encode_document(b"LEAS", lease),
        "mark/release-7": encode_document(b"MARK", Mark("release-7", "lsn:0/16B3748", 10**15)),
        gap.key: encode_gap(gap),
    }


def _reading(database: int) -> tuple[str, bytes]:
    relation = Relation(16384, 16384, 1663, False, "public", "account", "r", "p", 0, 0)
    reading = Reading(
        database=database,
        position=0x3000000,
        timeline=1,
        time_us=10**15,
        relations=[relation] if database else [],
        databases=[] if database else [Database(5, "shop", 1663, None)],
    )
    return encode_reading(reading)


assert MIB >= WAL_BYTES
