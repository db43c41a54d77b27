"""Sealed objects and names: what an encrypted archive lets its store see. No I/O.

An object is cut into blocks of 16 KiB, each encrypted and authenticated by itself with a key that
only this object has, so that a part of it can be read without the rest. Its name goes into that
key: an object that is put under another name does not open. Names that say more than a place or a
time are encrypted as well. Specification: docs/formats/encryption.md.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pitr.archive.object import SEALED_MAGIC
from pitr.errors import CorruptObject, PreconditionFailed, WrongKey

VERSION = 1
BLOCK_BYTES = 16 << 10
HEADER_BYTES = 64
KEY_BYTES, NAME_KEY_BYTES, KEY_ID_BYTES = 32, 64, 8

_HEADER = struct.Struct("<8sHHI8sQ32s")
assert _HEADER.size == HEADER_BYTES
_TAG_BYTES = 16
_STORED_BLOCK = BLOCK_BYTES + _TAG_BYTES
_SALT_BYTES = 32
_PURPOSE = b"pitr object 1\0"

# Folders whose names say a place in the WAL or a time and nothing of the content: left readable,
# so that one timeline or one segment can be listed. All others are encrypted, new ones too.
_OPEN_FOLDERS = frozenset({"base", "gap", "key", "lease", "probe", "timeline", "wal"})
# The length of a mark's name is nobody's business; a file name has at most 255 bytes.
_PAD_BYTES = 32
_NAME_PART = 200


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys of one archive: of its names, and of its objects by id; `current` seals new ones."""

    name_key: bytes = field(repr=False)
    object_keys: Mapping[bytes, bytes] = field(repr=False)
    current: bytes


def new_keyring() -> Keyring:
    """Return the keys of a new archive."""
    key_id = secrets.token_bytes(KEY_ID_BYTES)
    keys = {key_id: secrets.token_bytes(KEY_BYTES)}
    return Keyring(secrets.token_bytes(NAME_KEY_BYTES), keys, key_id)


def with_new_key(ring: Keyring) -> Keyring:
    """Return the keys with one more, which seals what is written from now on."""
    key_id = secrets.token_bytes(KEY_ID_BYTES)
    keys = {**ring.object_keys, key_id: secrets.token_bytes(KEY_BYTES)}
    return Keyring(ring.name_key, keys, key_id)


# ---- objects -------------------------------------------------------------------------------------


def plain_size(stored: int) -> int:
    """Return the length of what is sealed in an object of `stored` bytes; 0 when nothing can be."""
    body = stored - HEADER_BYTES
    return max(0, body - _TAG_BYTES * max(1, -(-body // _STORED_BLOCK)))


def seal(ring: Keyring, key: str, data: bytes) -> bytes:
    """Return the sealed bytes of the object `key`. Sealed again they are others."""
    salt = secrets.token_bytes(_SALT_BYTES)
    header = _HEADER.pack(SEALED_MAGIC, VERSION, 0, BLOCK_BYTES, ring.current, len(data), salt)
    cipher = _cipher(ring.object_keys[ring.current], header, key)
    view = memoryview(data)
    parts = [header]
    for number in range(_block_count(len(data))):
        block = view[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES]
        parts.append(cipher.encrypt(_nonce(number), block, None))
    return b"".join(parts)


def unseal(ring: Keyring, key: str, stored: bytes) -> bytes:
    """Return what was sealed as the object `key`. Raises CorruptObject, WrongKey."""
    opened = SealedObject(ring, key, stored[:HEADER_BYTES])
    begin, end = opened.extent(0, _block_count(opened.length))
    if len(stored) != end:
        raise CorruptObject(key, f"It has {len(stored)} bytes where {end} belong.")
    return b"".join(opened.blocks(0, memoryview(stored)[begin:end]))


class SealedObject:
    """One sealed object by its header: which bytes to fetch for a range, and what is in them."""

    __slots__ = ("_cipher", "_key", "length")

    def __init__(self, ring: Keyring, key: str, header: bytes) -> None:
        """Read a header. Raises CorruptObject, WrongKey, PreconditionFailed for a newer format."""
        if len(header) < HEADER_BYTES or header[:8] != SEALED_MAGIC:
            raise CorruptObject(key, f"Not a sealed object: it begins with {header[:8]!r}.")
        _, version, _, block_bytes, key_id, self.length, _ = _HEADER.unpack(header)
        if version > VERSION:
            raise PreconditionFailed(
                "the archive was written by a newer version of pitr",
                detail=f"Object {key} is sealed in format {version}; this version knows {VERSION}.",
                hint="Install the newest version of pitr.",
            )
        if block_bytes != BLOCK_BYTES:
            raise CorruptObject(key, f"It declares blocks of {block_bytes} bytes.")
        secret = ring.object_keys.get(key_id)
        if secret is None:
            raise WrongKey(
                f"no key at hand opens the object {key}",
                detail=f"It is sealed with key {key_id.hex()}; there is "
                f"{', '.join(sorted(known.hex() for known in ring.object_keys))}.",
                hint="If the key was rotated, start this command again with the new key.",
            )
        self._key = key
        self._cipher = _cipher(secret, header, key)

    def extent(self, first: int, end: int) -> tuple[int, int]:
        """Return where blocks `first` to `end` (excluded) lie in the stored bytes."""
        whole = HEADER_BYTES + self.length + _TAG_BYTES * _block_count(self.length)
        return HEADER_BYTES + first * _STORED_BLOCK, min(HEADER_BYTES + end * _STORED_BLOCK, whole)

    def blocks(self, first: int, stored: bytes | memoryview) -> Iterator[bytes]:
        """Yield the plain bytes of blocks that lie side by side. Raises CorruptObject."""
        view = memoryview(stored)
        for at in range(0, len(view), _STORED_BLOCK):
            number = first + at // _STORED_BLOCK
            try:
                yield self._cipher.decrypt(_nonce(number), view[at : at + _STORED_BLOCK], None)
            except InvalidTag:
                raise CorruptObject(
                    self._key, f"Block {number} is not what was sealed under this name."
                ) from None


def block_runs(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the runs of blocks that hold these ranges of plain bytes, ascending, none twice."""
    runs: list[tuple[int, int]] = []
    for begin, end in sorted(item for item in ranges if item[0] < item[1]):
        first, last = begin // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        if runs and first <= runs[-1][1]:
            runs[-1] = (runs[-1][0], max(runs[-1][1], last))
        else:
            runs.append((first, last))
    return runs


def _block_count(length: int) -> int:
    # An empty object has one empty block: what is not there has no tag to be checked.
    return max(1, -(-length // BLOCK_BYTES))


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _cipher(secret: bytes, header: bytes, key: str) -> AESGCM:
    """Return the cipher of one object: no other has its key, since no other has its salt."""
    _, _, _, _, _, _, salt = _HEADER.unpack(header)
    return AESGCM(derive(secret, salt, _PURPOSE + header + key.encode()))


def derive(secret: bytes, salt: bytes, purpose: bytes) -> bytes:
    """Return a key of 32 bytes for one purpose (HKDF with SHA-256)."""
    return HKDF(SHA256(), KEY_BYTES, salt, purpose).derive(secret)


def wrap(secret: bytes, purpose: bytes, plain: bytes) -> bytes:
    """Return a few bytes encrypted under a key that is used for this only."""
    nonce = secrets.token_bytes(12)
    return nonce + AESGCM(secret).encrypt(nonce, plain, purpose)


def unwrap(secret: bytes, purpose: bytes, wrapped: bytes) -> bytes | None:
    """Return what `wrap` was given; None under another key."""
    try:
        return AESGCM(secret).decrypt(wrapped[:12], wrapped[12:], purpose)
    except (InvalidTag, ValueError):
        return None


# ---- names ---------------------------------------------------------------------------------------


def is_open_name(key: str) -> bool:
    """Return whether a key, or a prefix of keys, is stored as it is."""
    folder, slash, _ = key.partition("/")
    return not slash or folder in _OPEN_FOLDERS


def seal_name(ring: Keyring, key: str) -> str:
    """Return the name under which the object `key` is stored: always the same one.

    Raises ValueError for a key that would become too long.
    """
    if is_open_name(key):
        return key
    folder, _, rest = key.partition("/")
    plain = rest.encode()
    plain += bytes(-len(plain) % _PAD_BYTES)
    sealed = AESSIV(ring.name_key).encrypt(plain, [folder.encode()])
    text = base64.urlsafe_b64encode(sealed).decode().rstrip("=")
    return "/".join([folder, *_parts(text)])


def unseal_name(ring: Keyring, name: str) -> str | None:
    """Return the key of a stored name; None for a name that this archive has given to nothing."""
    if is_open_name(name):
        return name
    folder, _, rest = name.partition("/")
    text = rest.replace("/", "")
    try:
        sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        plain = AESSIV(ring.name_key).decrypt(sealed, [folder.encode()])
        key = f"{folder}/{plain.rstrip(bytes(1)).decode()}"
    except (InvalidTag, binascii.Error, ValueError):
        return None
    return key if rest == "/".join(_parts(text)) else None


def _parts(text: str) -> list[str]:
    return [text[at : at + _NAME_PART] for at in range(0, len(text), _NAME_PART)]
