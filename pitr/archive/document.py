"""Small archive objects whose content is one JSON document: identity, leases, marks.

They have the frame of every object, so they are verified like every object; the document is
their one section. Fields that this version does not know are passed over.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

from pitr.archive.object import ObjectReader, Section, encode_object, verify_object
from pitr.errors import CorruptObject, PreconditionFailed

FORMAT_VERSION = 1
_DOCUMENT = 1

T = TypeVar("T")
_making = threading.Lock()
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def encode_document(kind: bytes, value: object) -> bytes:
    """Return the bytes of an object of four-letter `kind` that holds `value` as JSON."""
    # Not compressed: it is a few hundred bytes, and a person with an editor can read it.
    section = Section(_DOCUMENT, msgspec.json.encode(value), compress=False)
    return encode_object(kind, FORMAT_VERSION, [section])


def decode_document(key: str, data: bytes, kind: bytes, form: type[T]) -> T:
    """Return the value in an object's bytes.

    Raises CorruptObject; PreconditionFailed when a newer version of pitr wrote the object.
    """
    verify_object(key, data, kind)
    reader = ObjectReader.of_bytes(key, data, kind)
    if reader.version > FORMAT_VERSION:
        raise newer_format(key, reader.version)
    try:
        return _decoder(form).decode(reader.section(_DOCUMENT))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptObject(key, f"Its document does not decode: {error}.") from None


def _decoder(form: type[T]) -> msgspec.json.Decoder[T]:
    """Return the decoder of a type, made by one thread at a time.

    msgspec (0.22.0) crashes the process when two threads use a type for the first time at once.
    """
    with _making:
        if form not in _decoders:
            _decoders[form] = msgspec.json.Decoder(form)
        return _decoders[form]


def newer_format(key: str, version: int) -> PreconditionFailed:
    """Return the error for an object whose format this version of pitr does not know."""
    return PreconditionFailed(
        "the archive was written by a newer version of pitr",
        detail=f"Object {key} has format {version}; this version reads up to {FORMAT_VERSION}.",
        hint="Install the newest version of pitr.",
    )
