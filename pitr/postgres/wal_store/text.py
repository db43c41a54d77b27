"""The files beside the segments in pg_wal: timeline history and backup history, kept as they are.

Specification: docs/formats/postgres-archive.md, "Files beside the segments".
"""

from __future__ import annotations

from pitr.archive.document import newer_format
from pitr.archive.object import ObjectReader, Section, encode_object, verify_object
from pitr.archive.store import ObjectExists, Store
from pitr.errors import CorruptObject

KIND = b"WALT"
VERSION = 1
_TEXT = 1


def history_key(timeline: int) -> str:
    """Return the key of a timeline's `.history` file."""
    return f"timeline/{timeline:08X}"


def backup_history_key(name: str) -> str:
    """Return the key of a backup history file, by its name in pg_wal."""
    return f"wal/{name[:8]}/{name}"


def encode_text(text: bytes) -> bytes:
    """Return the object that holds one such file."""
    return encode_object(KIND, VERSION, [Section(_TEXT, text, compress=False)])


def decode_text(key: str, data: bytes) -> bytes:
    """Return the file in an object. Raises CorruptObject, PreconditionFailed for a later format."""
    verify_object(key, data, KIND)
    reader = ObjectReader.of_bytes(key, data, KIND)
    if reader.version > VERSION:
        raise newer_format(key, reader.version)
    return reader.section(_TEXT)


def put_text(store: Store, key: str, text: bytes) -> str:
    """Store such a file, which may be there already, and return its key.

    Raises CorruptObject when the archive has another one under the key; StoreUnusable.
    """
    try:
        store.put_new(key, encode_text(text))
    except ObjectExists:
        if decode_text(key, store.get(key)) != text:
            raise CorruptObject(
                key,
                "It is there with another content: two servers were promoted to one timeline.",
                hint="Archive the right server here; give the other one an archive of its own.",
            ) from None
    return key
