"""Readings of the live catalog as objects of the archive: values, names, bytes. No I/O.

A reading is of one database, or of the list of databases. It holds everything (full), or what
changed since another reading (delta), which it names as its base. Specification:
docs/formats/postgres-catalog.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec
import xxhash

from pitr.archive.object import ObjectReader, Section, encode_object, verify_object
from pitr.archive.store import ObjectInfo
from pitr.errors import CorruptObject
from pitr.postgres.wal.record import RelationFile

PREFIX = "catalog/"
KIND = b"CTLG"
FORMAT_VERSION = 1
_DOCUMENT = 1
_KEY = re.compile(r"catalog/([0-9A-F]{8})/([0-9A-F]{16})\.([0-9A-F]{8})\.([0-9A-F]{8})")


class Relation(msgspec.Struct, frozen=True, array_like=True):
    """One relation as a reading found it.

    `file` is the number of its file, 0 when it has none. `kind` and `persistence` are the letters
    of pg_class. `owner` is the table whose TOAST table or index it is, `parent` the partitioned
    table or index of which it is a partition; 0 for none.
    """

    oid: int
    file: int
    tablespace: int
    is_shared: bool
    schema: str
    name: str
    kind: str
    persistence: str
    owner: int
    parent: int

    def relation_file(self, database: int) -> RelationFile:
        """Return where its rows are, given the OID of its database."""
        return RelationFile(self.tablespace, 0 if self.is_shared else database, self.file)


class Database(msgspec.Struct, frozen=True, array_like=True):
    """One database of the cluster; `fault` says why its catalog could not be read."""

    oid: int
    name: str
    tablespace: int
    fault: str | None


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What was read at `position` of `timeline` (0: not known), or what changed since `base`.

    `database` 0 is the list of databases, which is always full. `gone` are OIDs of relations that
    `base` has and this one has not.
    """

    database: int
    position: int
    timeline: int
    time_us: int
    base: str | None = None
    relations: list[Relation] = []
    gone: list[int] = []
    databases: list[Database] = []
    superuser: str | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.position < 1 << 64 and 0 <= self.timeline < 1 << 32):
            raise ValueError("its position is none")


# Made here, in one thread: pitr/archive/document.py says why.
_READING = msgspec.json.Decoder(Reading)


@dataclass(frozen=True, slots=True)
class ReadingObject:
    """One stored reading by its name."""

    key: str
    size: int
    database: int
    position: int
    timeline: int

    @classmethod
    def of(cls, info: ObjectInfo) -> ReadingObject | None:
        """Read a listed name; None for one that is no reading."""
        match = _KEY.fullmatch(info.key)
        if match is None:
            return None
        database, position, timeline = (int(match[number], 16) for number in (1, 2, 3))
        return cls(info.key, info.size, database, position, timeline)


def encode_reading(reading: Reading) -> tuple[str, bytes]:
    """Return key and bytes of the object that holds a reading."""
    document = msgspec.json.encode(reading)
    digest = xxhash.xxh3_64_intdigest(document) & 0xFFFFFFFF
    key = (
        f"{PREFIX}{reading.database:08X}/{reading.position:016X}"
        f".{reading.timeline:08X}.{digest:08X}"
    )
    return key, encode_object(KIND, FORMAT_VERSION, [Section(_DOCUMENT, document)])


def decode_reading(key: str, data: bytes) -> Reading:
    """Return the reading in an object's bytes. Raises CorruptObject."""
    verify_object(key, data, KIND)
    reader = ObjectReader.of_bytes(key, data, KIND)
    if reader.version > FORMAT_VERSION:
        raise CorruptObject(
            key,
            f"It has format {reader.version}; this version reads up to {FORMAT_VERSION}.",
            hint="Install the newest version of pitr.",
        )
    try:
        return _READING.decode(reader.section(_DOCUMENT))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptObject(key, f"Its document does not decode: {error}.") from None
