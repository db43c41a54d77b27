"""What is known of catalogs: archived readings, and rows of catalog pages at rest.

The input: 0 and the JSON of a reading, 1 and pages of a catalog, 2 and names of objects by line.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

from pitr.archive.store import ObjectInfo
from pitr.errors import PitrError
from pitr.postgres.catalog.catalog_map import CatalogMap
from pitr.postgres.catalog.reading import ReadingObject, decode_reading
from pitr.postgres.index.name import IndexObject, cover
from pitr.postgres.replay.heap_rows import visible_rows
from pitr.postgres.verification.description import describe_object
from pitr.postgres.wal.record import RelationFile
from pitr.postgres.wal_store.archive import spans_of
from pitr.postgres.wal_store.spans import WalSpans
from pitr.sqlite.pagelog.catalog import Catalog
from tests.fuzz import samples
from tests.fuzz.sealing import assemble, open_form, sections, stored
from tests.unit.postgres.wal_builder import MIB

_DOCUMENT = 1


def seeds() -> Iterator[bytes]:
    """Yield readings, a page with three rows, and a listing."""
    for data in samples.of_kind(b"CTLG").values():
        yield b"\0" + sections(open_form(data))[_DOCUMENT]
    yield b"\1" + _page()
    yield b"\2" + "\n".join(samples.objects()).encode()


def fuzz(data: bytes) -> None:
    """Decode, and ask the map of the catalog what it makes of it."""
    kind, rest = data[:1], data[1:]
    if kind == b"\0":
        _reading(rest)
    elif kind == b"\1":
        _rows(rest)
    else:
        _names(rest)


def _reading(document: bytes) -> None:
    sealed = assemble(b"CTLG", {_DOCUMENT: document})
    describe_object(sealed)
    with contextlib.suppress(PitrError):
        decode_reading("catalog/fuzzed", sealed)
    for key in samples.of_kind(b"CTLG"):
        try:
            known = CatalogMap(stored(key, sealed))
            known.relation_of(RelationFile(1663, 1, 16384), 0x3000000)
            known.databases()
            for database in known.database_oids():
                list(known.versions_between(database, 0, 1 << 62))
        except PitrError:
            pass


def _rows(pages: bytes) -> None:
    try:
        for row in visible_rows(pages, lambda xid: xid < 800):
            str((row.oid, row.name, row.file_number))
    except PitrError:
        pass


def _names(listing: bytes) -> None:
    keys = listing.decode("utf-8", "replace").splitlines()
    infos = [ObjectInfo(key, 100, 10**15 + at) for at, key in enumerate(keys)]
    catalog = Catalog.of(infos)
    catalog.tile_of(2)
    index = [item for item in map(IndexObject.of, infos) if item]
    cover((item, item.end) for item in index)
    [ReadingObject.of(info) for info in infos]
    spans = WalSpans(spans_of(infos, MIB), {})
    for timeline in spans.timelines():
        spans.ranges(timeline)


def _page() -> bytes:
    rows = [
        struct.pack("<II10xHHB", 700 + n, 0, 3, 0x0900, 24) + b"\0" + struct.pack("<I", 16384 + n)
        for n in range(3)
    ]
    page, upper, pointers = bytearray(8192), 8192, b""
    for row in rows:
        row = row.ljust(160, b"n")
        upper -= len(row)
        page[upper : upper + len(row)] = row
        pointers += struct.pack("<I", upper | 1 << 15 | len(row) << 17)
    page[24 : 24 + len(pointers)] = pointers
    struct.pack_into("<HH", page, 12, 24 + len(pointers), upper)
    return bytes(page)
