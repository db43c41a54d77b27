"""Archive objects for fuzzers: what was changed gets checksums that fit, so that it is looked at.

Two forms. `reseal` mends the checksums of a whole object, for the frame itself. The open form is
for what the sections say: `id u32, length u32, bytes` one after the other, without any checksum,
which `assemble` turns into an object. A length that is too long means what is left.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import xxhash

from pitr.archive.object import END_MAGIC, ObjectReader, Section, encode_object
from tests.memory_store import MemoryStore

_HEAD = struct.Struct("<II")
_ENTRY_BYTES = 40
_TRAILER_BYTES = 48


def reseal(data: bytes) -> bytes:
    """Return an object with all checksums made right, as far as it still has places for them."""
    if len(data) < 16 + _TRAILER_BYTES:
        return data
    sealed = bytearray(data)
    offset, count = struct.unpack_from("<QI", sealed, len(data) - _TRAILER_BYTES)
    end = offset + count * _ENTRY_BYTES
    if end <= len(data) - _TRAILER_BYTES:
        for at in range(offset, end, _ENTRY_BYTES):
            begin, stored = struct.unpack_from("<QQ", sealed, at + 8)
            if begin + stored <= offset:
                digest = xxhash.xxh3_64_intdigest(sealed[begin : begin + stored])
                struct.pack_into("<Q", sealed, at + 32, digest)
        digest = xxhash.xxh3_64_intdigest(sealed[offset:end])
        struct.pack_into("<Q", sealed, len(data) - 32, digest)
    sealed[-24:-8] = xxhash.xxh3_128_digest(bytes(sealed[:-24]))
    sealed[-8:] = END_MAGIC
    return bytes(sealed)


def open_form(data: bytes) -> bytes:
    """Return the open form of an object that is as it should be."""
    reader = ObjectReader.of_bytes("seed", data, data[8:12])
    parts = ((entry.id, reader.section(entry.id)) for entry in reader.entries)
    return b"".join(_HEAD.pack(number, len(raw)) + raw for number, raw in parts)


def sections(data: bytes) -> dict[int, bytes]:
    """Return the sections that an open form has."""
    return dict(_parts(data))


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEAD.size <= len(data):
        number, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        yield number, data[at : at + length]
        at += length


def assemble(kind: bytes, parts: dict[int, bytes], *, plain: Iterable[int] = ()) -> bytes:
    """Return the object of these sections; those in `plain` are not compressed."""
    found = [Section(number, raw, number not in plain) for number, raw in parts.items()]
    return encode_object(kind, 1, found)


def stored(key: str, data: bytes) -> MemoryStore:
    """Return a store that has these bytes under this key."""
    store = MemoryStore()
    store.put_new(key, data)
    return store
