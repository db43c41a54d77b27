"""Describe one object of a PostgreSQL archive in lines of text, for `pitr debug object FILE`.

The layouts are in docs/formats/postgres-archive.md, -index.md and -catalog.md. Every checksum is
compared; a dump of a damaged object says how far it can be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from pitr.archive.description import describe, describe_documents, utc_text
from pitr.archive.object import ObjectReader, decompress
from pitr.errors import CorruptObject
from pitr.postgres.base.contents import BaseInfo
from pitr.postgres.base.object import (
    BASE_KIND,
    BASE_PREFIX,
    NO_PACK,
    PACK_KIND,
    BaseManifest,
    read_pack_directory,
)
from pitr.postgres.catalog.reading import KIND as CATALOG_KIND
from pitr.postgres.catalog.reading import Reading
from pitr.postgres.index.file import Stretch, decode_columns, footer_of
from pitr.postgres.index.parquet import Damaged
from pitr.postgres.index.rows import NAMES, RowKind
from pitr.postgres.wal.scan import ScanState, scan
from pitr.postgres.wal.versions import rmgr_name, version_of_magic
from pitr.postgres.wal_store.object import BLOCK_BYTES, WalHead, WalObject
from pitr.postgres.wal_store.object import KIND as WAL_KIND
from pitr.postgres.wal_store.text import KIND as TEXT_KIND
from pitr.vocabulary.position import Lsn

PARQUET_MAGIC = b"PAR1"
_HEAD_OF_WAL, _HEAD_OF_BASE, _DOCUMENT = 1, 0, 1


def describe_object(data: bytes) -> list[str]:
    """Return what the bytes of an object hold, a line each; damage is described, never raised."""
    if data[:4] == PARQUET_MAGIC:
        return _index(data)
    return describe(data, _BODIES.get(data[8:12], describe_documents))


def _wal(reader: ObjectReader) -> Iterator[str]:
    try:
        head = msgspec.json.decode(reader.section(_HEAD_OF_WAL), type=WalHead)
        if not head.is_possible:
            raise ValueError("it is no piece of WAL")
        reader.key = head.key
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise CorruptObject(reader.key, f"Its head does not decode: {error}.") from None
    stored = WalObject.of_reader(reader)
    part = "whole" if head.is_whole else f"bytes {head.begin} to {head.end}"
    version = version_of_magic(head.page_magic)
    yield f"key          {head.key}"
    yield f"WAL          {head.begin_lsn} to {head.end_lsn} of timeline {head.timeline}, {part}"
    yield f"segment      {head.segment_bytes} bytes"
    yield f"cluster      {head.system_identifier}, PostgreSQL {version.major}"
    raw = stored.read(head.begin, head.end)
    yield f"blocks       {-(-len(raw) // BLOCK_BYTES)}, each matches its digest"
    if head.begin % 8192:
        return  # where its first record begins, it does not tell
    found = scan(
        raw,
        head.begin_lsn.value,
        ScanState(head.begin_lsn.value),
        version=version,
        segment_bytes=head.segment_bytes,
    )
    yield f"records      {len(found.records)} that begin and end in it; {found.end.meaning}"
    for rmgr, count in Counter(found.records.rmgr).most_common():
        yield f"  {count:9} {rmgr_name(rmgr)}"
    if found.end.is_fault and head.is_whole:
        raise CorruptObject(reader.key, f"At {Lsn(found.state.position)} {found.end.meaning}.")


def _text(reader: ObjectReader) -> Iterator[str]:
    yield "a file of pg_wal:"
    yield from reader.section(_DOCUMENT).decode("utf-8", "backslashreplace").splitlines()


def _pack(reader: ObjectReader) -> Iterator[str]:
    entries = list(read_pack_directory(reader))
    raw = sum(entry.raw for entry in entries)
    yield f"chunks       {len(entries)}, {raw} bytes: digest @offset+stored, raw"
    for entry in entries:
        place = f"@{entry.offset}+{entry.stored}"
        yield f"  {entry.digest.hex()} {place:>20} {entry.raw:9}"
        # The digest has the archive's own seed, which the object does not tell.
        frame = reader.fetch(entry.offset, entry.offset + entry.stored)
        decompress(reader.key, frame, entry.raw)


def _base(reader: ObjectReader) -> Iterator[str]:
    try:
        info = msgspec.json.decode(reader.section(_HEAD_OF_BASE), type=BaseInfo)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise CorruptObject(reader.key, f"Its head does not decode: {error}.") from None
    reader.key = BASE_PREFIX + info.id
    manifest = BaseManifest(reader)
    for name, value in msgspec.to_builtins(info).items():
        yield f"  {name:18} {value}"
    packs = manifest.packs()
    yield f"packs        {len(packs)}"
    for number, key in enumerate(packs):
        yield f"  {number:5} {key}"
    files = manifest.files()
    yield f"files        {len(files)}: bytes, chunks (pack @offset+stored, - for zeros), path"
    for path, (file, first) in files.items():
        if file.is_folder:
            yield f"  {'folder':>12} {path}"
            continue
        places = manifest.places(first, first + -(-file.size // info.chunk_bytes))
        shown = " ".join(
            "-" if place.pack == NO_PACK else f"{place.pack}@{place.offset}+{place.stored}"
            for place in places
        )
        yield f"  {file.size:12} {path}  {shown}".rstrip()


def _reading(reader: ObjectReader) -> Iterator[str]:
    try:
        reading = msgspec.json.decode(reader.section(_DOCUMENT), type=Reading)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise CorruptObject(reader.key, f"Its document does not decode: {error}.") from None
    yield f"database     {reading.database or 'the list of databases'}"
    yield f"position     {Lsn(reading.position)} of timeline {reading.timeline}"
    yield f"time         {utc_text(reading.time_us)}"
    yield f"rests on     {reading.base or 'nothing: it is full'}"
    for database in reading.databases:
        fault = f": {database.fault}" if database.fault else ""
        yield f"  {database.oid:10} {database.name}{fault}"
    for relation in reading.relations:
        name = f"{relation.schema}.{relation.name}"
        file = f"file {relation.tablespace}/{relation.file}"
        yield f"  {relation.oid:10} {file} {relation.kind} {name}"
    for oid in reading.gone:
        yield f"  {oid:10} gone"


def _index(data: bytes) -> list[str]:
    lines = [f"object       index of WAL records, Parquet, {len(data)} bytes"]
    try:
        footer = footer_of(data)
        stretch = Stretch.of(footer.properties)
        lines.append(f"timeline     {stretch.timeline}")
        lines.append(f"records      that end in ({Lsn(stretch.begin)}, {Lsn(stretch.end)}]")
        lines.append(f"next record  {Lsn(stretch.next_lsn)}")
        lines.append(f"footer       CRC-32 {footer.crc:08X}")
        for number, group in enumerate(footer.groups):
            rows = decode_columns(data, 0, group, NAMES, is_strict=True)
            kinds = Counter(rows["kind"])
            shown = ", ".join(f"{kinds[kind]} {kind.name}" for kind in RowKind if kinds[kind])
            relation = group.chunks["relation"]
            files = f"files {relation.least} to {relation.greatest}" if relation.greatest else ""
            lines.append(f"group {number:6} {group.rows} rows: {shown} {files}".rstrip())
    except Damaged as error:
        lines.append(f"damaged      {error}")
    return lines


_BODIES = {
    WAL_KIND: _wal,
    TEXT_KIND: _text,
    PACK_KIND: _pack,
    BASE_KIND: _base,
    CATALOG_KIND: _reading,
}
