"""Encrypted archives: sealed objects, sealed names, the document with the keys.

The input: one byte for which, then its bytes. What is sealed is authenticated, so that only heads,
lengths and names can say what was not written; the key that the fuzzer has is the archive's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache

from pitr.archive.encrypted import EncryptedStore
from pitr.archive.keys import Method, Secret, create_keys, open_encrypted, read_key_state
from pitr.archive.sealing import Keyring, seal, seal_name, unseal, unseal_name
from pitr.errors import PitrError
from tests.fuzz.sealing import assemble, open_form, sections
from tests.memory_store import MemoryStore

_KEY = "pack/00112233445566778899aabbccddeeff"
_SECRET = Secret(Method.KEY_FILE, b"k" * 32, "a fuzzer")
_DOCUMENT = 1


@cache
def _ring() -> Keyring:
    return Keyring(b"n" * 64, {b"i" * 8: b"o" * 32}, b"i" * 8)


def seeds() -> Iterator[bytes]:
    """Yield sealed objects, names, and a document of keys."""
    for size in (0, 100, 70_000):
        yield b"\0" + seal(_ring(), _KEY, bytes(range(250)) * (size // 250 + 1))
    for name in (_KEY, "mark/a name that is long " * 6, "catalog/00000005/0000000000000007"):
        yield b"\1" + seal_name(_ring(), name).encode()
    store = MemoryStore()
    create_keys(store, _SECRET)
    [info] = store.list("key/")
    yield b"\2" + sections(open_form(store.get(info.key)))[_DOCUMENT]


def fuzz(data: bytes) -> None:
    """Open it, whole and in ranges."""
    kind, rest = data[:1], data[1:]
    if kind == b"\0":
        _object(rest)
    elif kind == b"\1":
        unseal_name(_ring(), rest.decode("utf-8", "replace"))
    else:
        _keys(rest)


def _object(stored: bytes) -> None:
    with contextlib.suppress(PitrError):
        unseal(_ring(), _KEY, stored)
    inner = MemoryStore()
    inner.put_new(seal_name(_ring(), _KEY), stored)
    store = EncryptedStore(inner, _ring(), _ring)
    for info in store.list(""):
        for begin, end in ((0, 1), (60_000, info.size), (0, info.size)):
            if begin <= end:
                with contextlib.suppress(PitrError):
                    store.get_ranges(info.key, [(begin, end)])


def _keys(document: bytes) -> None:
    store = MemoryStore()
    store.put_new("key/00000001", assemble(b"KEYS", {_DOCUMENT: document}, plain=[_DOCUMENT]))
    with contextlib.suppress(PitrError):
        open_encrypted(store, _SECRET)
        read_key_state(store, _SECRET)
