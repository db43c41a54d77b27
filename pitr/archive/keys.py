"""The keys of an encrypted archive, themselves encrypted under a key file or a passphrase.

Every object `key/<serial>` holds all keys of the archive; the newest one counts. It is written when
the archive is made and at each rotation. Specification: docs/formats/encryption.md.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

import msgspec

from pitr import durable
from pitr.archive.document import decode_document, encode_document
from pitr.archive.encrypted import EncryptedStore
from pitr.archive.sealing import (
    KEY_BYTES,
    KEY_ID_BYTES,
    NAME_KEY_BYTES,
    Keyring,
    derive,
    new_keyring,
    unwrap,
    with_new_key,
    wrap,
)
from pitr.archive.store import ObjectExists, ObjectInfo, Store
from pitr.clock import now_us
from pitr.errors import CorruptObject, NotConfigured, PreconditionFailed, WrongKey

PREFIX = "key/"
_KIND = b"KEYS"
_KEY = re.compile(r"key/(\d{8})")
_SECRET_BYTES_MIN = 32
_PASSPHRASE_CHARACTERS_MIN = 8
_SALT_BYTES = 32
# 128 MiB and some 0.4 s of a core for each try.
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 1 << 17, 8, 1
# A hostile store must not make us take all memory: what a key object may ask for at most.
_SCRYPT_BYTES_MAX = 1 << 30
_SCRYPT_P_MAX = 16


class Method(StrEnum):
    """What opens an archive."""

    KEY_FILE = "key-file"
    PASSPHRASE = "passphrase"


@dataclass(frozen=True, slots=True)
class Secret:
    """What the user has: the bytes of a key file, or a passphrase. `origin` is for messages."""

    method: Method
    value: bytes = field(repr=False)
    origin: str


class _Scrypt(msgspec.Struct, frozen=True):
    n: int
    r: int
    p: int


class _Wrapped(msgspec.Struct, frozen=True, kw_only=True):
    """The document of a key object; bytes are written in hex."""

    serial: int
    created_us: int
    method: Method
    scrypt: _Scrypt | None
    salt: str
    current: str
    keys: str

    @property
    def purpose(self) -> bytes:
        """Return what the encryption of `keys` is bound to."""
        return f"pitr keys 1 {self.serial} {self.method} {self.current}".encode()


class _Ring(msgspec.Struct, frozen=True):
    """What is encrypted in it: the key of names, and the keys of objects by id."""

    name_key: str
    object_keys: dict[str, str]


@dataclass(frozen=True, slots=True)
class KeyState:
    """What may be shown of an archive's keys; `known` are the ids of all that open objects."""

    serial: int
    method: Method
    created_us: int
    current: str
    known: tuple[str, ...]


# ---- the user's side -----------------------------------------------------------------------------


def read_key_file(path: Path) -> Secret:
    """Return the secret in a key file: its bytes without white space around them.

    Raises NotConfigured when it cannot be read, PreconditionFailed when it is too short to be one.
    """
    value = _read(path, "key file")
    if len(value) < _SECRET_BYTES_MIN:
        raise PreconditionFailed(
            f"this is no key file: {path}",
            detail=f"It has {len(value)} bytes; {_SECRET_BYTES_MIN} are the least.",
            hint="Let 'pitr init' make one, or write 32 random bytes or more into it.",
        )
    return Secret(Method.KEY_FILE, value, str(path))


def read_passphrase_file(path: Path) -> Secret:
    """Return the passphrase in a file, without white space around it. Raises NotConfigured."""
    return passphrase(_read(path, "passphrase file").decode(errors="surrogateescape"), str(path))


def passphrase(text: str, origin: str) -> Secret:
    """Return a passphrase. Raises PreconditionFailed when it is too short."""
    if len(text) < _PASSPHRASE_CHARACTERS_MIN:
        raise PreconditionFailed(
            "the passphrase is too short",
            detail=f"{origin} has fewer than {_PASSPHRASE_CHARACTERS_MIN} characters.",
            hint="Choose several words that nobody would put together.",
        )
    return Secret(Method.PASSPHRASE, text.encode(errors="surrogateescape"), origin)


def make_key_file(path: Path) -> Secret:
    """Write a new key file that only its owner may read, and return its secret.

    Durable on return: an archive must never outlive its key. Raises FileExistsError, OSError.
    """
    durable.make_folder(path.parent)
    durable.write_new(path, secrets.token_hex(KEY_BYTES).encode() + b"\n")
    return read_key_file(path)


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes().strip()
    except OSError as error:
        raise NotConfigured(
            f"the {what} cannot be read: {path}",
            detail=f"{error.strerror}.",
            hint="Without it nothing of an encrypted archive can be read or written.",
        ) from None


# ---- the archive's side --------------------------------------------------------------------------


def has_keys(store: Store) -> bool:
    """Return whether the archive at a store is encrypted. Raises StoreUnusable."""
    return bool(_listed(store))


def create_keys(store: Store, secret: Secret) -> EncryptedStore:
    """Give a new archive its keys, and return the store through which it is written.

    Of several at once one wins; the others open what it made. Raises as `open_encrypted`.
    """
    with suppress(ObjectExists):
        store.put_new(*_encode(1, new_keyring(), secret))
    return open_encrypted(store, secret)


def open_encrypted(store: Store, secret: Secret) -> EncryptedStore:
    """Return an encrypted archive's store, opened.

    Raises WrongKey when the secret is not the archive's, NotConfigured when it has no keys,
    CorruptObject, StoreUnusable.
    """
    return EncryptedStore(store, _unlock(store, secret)[0], lambda: _unlock(store, secret)[0])


def read_key_state(store: Store, secret: Secret) -> KeyState:
    """Return what may be shown of the keys. Raises as `open_encrypted`."""
    ring, document = _unlock(store, secret)
    return _state(ring, document)


def rotate(store: Store, secret: Secret, new_secret: Secret | None = None) -> KeyState:
    """Add a key with which everything is sealed from now on, and return what there is then.

    With `new_secret` the keys can be opened by it alone. What was sealed with older keys stays as
    it is and readable. Killed in the middle, either the old or the new state holds. Raises as
    `open_encrypted`, and PreconditionFailed when another rotation came first.
    """
    ring, document = _unlock(store, secret)
    turned = with_new_key(ring)
    key, data = _encode(document.serial + 1, turned, new_secret or secret)
    try:
        store.put_new(key, data)
    except ObjectExists:
        raise PreconditionFailed(
            "another rotation of this archive's keys came first",
            hint="Run 'pitr key show' to see what it came to.",
        ) from None
    unlocked = _unlock(store, new_secret or secret)  # before the old one goes
    for info in _listed(store):
        if info.key < key:
            store.delete(info.key)
    return _state(*unlocked)


def _state(ring: Keyring, document: _Wrapped) -> KeyState:
    known = tuple(sorted(key_id.hex() for key_id in ring.object_keys))
    method, created_us = document.method, document.created_us
    return KeyState(document.serial, method, created_us, document.current, known)


def _listed(store: Store) -> list[ObjectInfo]:
    return [info for info in store.list(PREFIX) if _KEY.fullmatch(info.key)]


def _unlock(store: Store, secret: Secret) -> tuple[Keyring, _Wrapped]:
    found = _listed(store)
    if not found:
        raise NotConfigured(
            f"no encrypted archive at {store.location}",
            detail="There are no keys in it.",
            hint="Run 'pitr init SOURCE --archive LOCATION --key-file FILE' to make one.",
        )
    key = found[-1].key
    document = decode_document(key, store.get(key), _KIND, _Wrapped)
    if document.method is not secret.method:
        raise WrongKey(
            f"the archive at {store.location} is opened by a {_named(document.method)}",
            detail=f"{secret.origin} gives a {_named(secret.method)}.",
            hint="Give the one that 'pitr init' or 'pitr key rotate' was given last.",
        )
    wrapping = _wrapping_key(key, document, secret)
    plain = unwrap(wrapping, document.purpose, _bytes(key, document.keys))
    if plain is None:
        raise WrongKey(
            f"the {_named(secret.method)} does not open the archive at {store.location}",
            detail=f"It comes from {secret.origin}. The archive's keys were last written as {key}.",
            hint="Give the one that 'pitr init' or 'pitr key rotate' was given last.",
        )
    return _decode_ring(key, document, plain), document


def _encode(serial: int, ring: Keyring, secret: Secret) -> tuple[str, bytes]:
    """Return key and bytes of the object that holds the keys, under a secret."""
    is_phrase = secret.method is Method.PASSPHRASE
    head = _Wrapped(
        serial=serial,
        created_us=now_us(),
        method=secret.method,
        scrypt=_Scrypt(_SCRYPT_N, _SCRYPT_R, _SCRYPT_P) if is_phrase else None,
        salt=secrets.token_hex(_SALT_BYTES),
        current=ring.current.hex(),
        keys="",
    )
    plain = msgspec.json.encode(
        _Ring(
            ring.name_key.hex(),
            {key_id.hex(): key.hex() for key_id, key in ring.object_keys.items()},
        )
    )
    key = f"{PREFIX}{serial:08d}"
    wrapped = wrap(_wrapping_key(key, head, secret), head.purpose, plain)
    document = msgspec.structs.replace(head, keys=wrapped.hex())
    return key, encode_document(_KIND, document)


def _wrapping_key(key: str, document: _Wrapped, secret: Secret) -> bytes:
    """Return the key that a secret comes to: by HKDF for random bytes, by scrypt for words."""
    salt = _bytes(key, document.salt)
    if document.method is Method.KEY_FILE:
        return derive(secret.value, salt, b"pitr key file 1")
    cost = document.scrypt
    if cost is None or not _is_bearable(cost):
        raise CorruptObject(key, f"Its cost of a passphrase is not usable: {cost}.")
    try:
        return _stretched(secret.value, salt, cost)
    except ValueError as error:
        raise CorruptObject(key, f"Its cost of a passphrase is not usable: {error}.") from None


@lru_cache(4)  # a command opens its archive more than once
def _stretched(phrase: bytes, salt: bytes, cost: _Scrypt) -> bytes:
    needed = 128 * cost.n * cost.r
    room = needed + (needed >> 2) + (1 << 20)
    return hashlib.scrypt(
        phrase, salt=salt, n=cost.n, r=cost.r, p=cost.p, maxmem=room, dklen=KEY_BYTES
    )


def _is_bearable(cost: _Scrypt) -> bool:
    positive = cost.n > 1 and cost.r > 0 and 0 < cost.p <= _SCRYPT_P_MAX
    return positive and 128 * cost.n * cost.r <= _SCRYPT_BYTES_MAX


def _decode_ring(key: str, document: _Wrapped, plain: bytes) -> Keyring:
    try:
        found = msgspec.json.decode(plain, type=_Ring)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptObject(key, f"Its keys do not decode: {error}.") from None
    name_key = _bytes(key, found.name_key)
    keys = {_bytes(key, each): _bytes(key, value) for each, value in found.object_keys.items()}
    current = _bytes(key, document.current)
    sizes = {(len(each), len(value)) for each, value in keys.items()}
    if len(name_key) != NAME_KEY_BYTES or sizes != {(KEY_ID_BYTES, KEY_BYTES)}:
        raise CorruptObject(key, "Its keys have other lengths than keys have.")
    if current not in keys:
        raise CorruptObject(key, f"Its current key {document.current} is not in it.")
    return Keyring(name_key, keys, current)


def _bytes(key: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise CorruptObject(key, "It has a field that is not hexadecimal.") from None


def _named(method: Method) -> str:
    return "key file" if method is Method.KEY_FILE else "passphrase"
