"""The files beside the segments in pg_wal: timeline history and backup history, kept as they are.

Specification: docs/formats/postgres-archive.md, "Files beside the segments".
"""

from __future__ import annotations

from pitr.archive.document import newer_format
from pitr.archive.object import ObjectReader, Section, encode_object, verify_object

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
