"""The archive as a whole: whose it is, and the moments that were given a name."""

from __future__ import annotations

import re
import secrets
import unicodedata
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import xxhash

from pitr.archive.document import FORMAT_VERSION, decode_document, encode_document, newer_format
from pitr.archive.object import SEALED_MAGIC
from pitr.archive.store import ObjectExists, Store, find_object
from pitr.clock import now_us
from pitr.errors import (
    ArchiveLacks,
    CorruptObject,
    IdentityMismatch,
    NotConfigured,
    ObjectMissing,
    PreconditionFailed,
    StoreUnusable,
    UsageError,
)

IDENTITY_KEY = "pitr-archive"
_IDENTITY_KIND = b"IDEN"
_MARK_KIND = b"MARK"

NAME_CHARACTERS_MAX = 200
# What fits into a file name on every file system, with room for a digest.
_QUOTED_MAX = 160
_READERS = 16


@dataclass(frozen=True, slots=True)
class Identity:
    """Which source an archive holds.

    `source` is what tells one source of its engine from another: for SQLite the absolute `path`.
    """

    archive_id: str
    engine: str
    source: dict[str, str]
    created_us: int
    format: int = FORMAT_VERSION


@dataclass(frozen=True, slots=True)
class Mark:
    """A named restore point: a position that can be used as a target, and its time."""

    name: str
    position: str
    time_us: int


def create_or_adopt(store: Store, *, engine: str, identity: dict[str, str]) -> Identity:
    """Make the archive at a store, or return the identity of the one that is there.

    `identity` tells this source from every other source of its engine. Raises IdentityMismatch
    when the archive holds another source, StoreUnusable when the store cannot be relied on,
    PreconditionFailed for an archive of a newer format.
    """
    probe_conditional_put(store)
    wanted = Identity(uuid.uuid4().hex, engine, identity, now_us())
    try:
        store.put_new(IDENTITY_KEY, encode_document(_IDENTITY_KIND, wanted))
    except ObjectExists:
        found = open_archive(store)
        require_source(store, found, engine=engine, identity=identity)
        return found
    return wanted


def require_source(store: Store, found: Identity, *, engine: str, identity: dict[str, str]) -> None:
    """Raise IdentityMismatch when the archive at a store holds another source than this one."""
    if (found.engine, found.source) != (engine, identity):
        raise IdentityMismatch(
            f"the archive at {store.location} holds another source",
            detail=f"It holds {_name_source(found.engine, found.source)}; "
            f"this is {_name_source(engine, identity)}.",
            hint="Name another LOCATION with --archive: one archive holds one source.",
        )


def open_archive(store: Store) -> Identity:
    """Return the identity of the archive at a store.

    Raises NotConfigured when there is none, or when it is encrypted and the store is not opened;
    PreconditionFailed for a newer format, StoreUnusable, CorruptObject.
    """
    try:
        data = store.get(IDENTITY_KEY)
    except ObjectMissing:
        raise NotConfigured(
            f"no archive at {store.location}",
            detail=f"It has no object {IDENTITY_KEY}.",
            hint="Check the location, or run 'pitr init SOURCE --archive LOCATION'.",
        ) from None
    if data.startswith(SEALED_MAGIC):
        raise NotConfigured(
            f"the archive at {store.location} is encrypted",
            detail="No key is configured for it.",
            hint="Name its key with '--key-file FILE', PITR_KEY_FILE, PITR_PASSPHRASE or "
            "PITR_PASSPHRASE_FILE, or in pitr.toml as key_file or passphrase_file.",
        )
    identity = decode_document(IDENTITY_KEY, data, _IDENTITY_KIND, Identity)
    if identity.format > FORMAT_VERSION:
        raise newer_format(IDENTITY_KEY, identity.format)
    return identity


def probe_conditional_put(store: Store) -> None:
    """Check that the store refuses to create an object twice, for leases rest on it.

    Some S3 servers ignore the condition and overwrite. Raises StoreUnusable.
    """
    key = f"probe/{secrets.token_hex(16)}"
    store.put_new(key, b"first")
    try:
        store.put_new(key, b"second")
        refused = False
    except ObjectExists:
        refused = True
    store.delete(key)
    if not refused:
        raise StoreUnusable(
            f"the store at {store.location} ignores create-if-absent; leases rest on it",
            detail="It replaced an object that was to be created only if it did not exist.",
            hint="Use a server that honours If-None-Match (Amazon S3 and Ceph do), or a folder.",
        )


def write_mark(store: Store, name: str, *, position: str, time_us: int) -> Mark:
    """Give a position a name. Raises UsageError for a bad name, PreconditionFailed for a used one.

    Names are compared in Unicode's composed form (NFC).
    """
    mark = Mark(_normal_name(name), position, time_us)
    try:
        store.put_new(_mark_key(mark.name), encode_document(_MARK_KIND, mark))
    except ObjectExists:
        raise _name_taken(mark.name) from None
    return mark


def _name_taken(name: str) -> PreconditionFailed:
    return PreconditionFailed(
        f"a mark of this name exists: {name}",
        hint="Choose another name: a mark is never moved.",
    )


def require_free_name(store: Store, name: str) -> None:
    """Raise UsageError for a bad name, PreconditionFailed for one that a mark has already."""
    normal = _normal_name(name)
    if find_object(store, _mark_key(normal)):
        raise _name_taken(normal)


def read_mark(store: Store, name: str) -> Mark:
    """Return a mark. Raises UsageError for a bad name, ArchiveLacks when there is no such mark."""
    normal = _normal_name(name)
    try:
        return _read_mark(store, _mark_key(normal))
    except ObjectMissing:
        raise ArchiveLacks(
            f"no mark of this name: {normal}",
            hint="Run 'pitr status' to see the marks of the archive.",
        ) from None


def delete_mark(store: Store, name: str) -> None:
    """Take a name away from its position; one that is not there is no error."""
    store.delete(_mark_key(_normal_name(name)))


def read_marks(store: Store) -> list[Mark]:
    """Return all marks, by time."""
    keys = [info.key for info in store.list("mark/")]
    # One request a mark; in a bucket they have to run side by side.
    with ThreadPoolExecutor(_READERS) as readers:
        marks = list(readers.map(lambda key: _read_mark(store, key), keys))
    return sorted(marks, key=lambda mark: (mark.time_us, mark.name))


def _read_mark(store: Store, key: str) -> Mark:
    return check_mark(key, store.get(key))


def check_mark(key: str, data: bytes) -> Mark:
    """Return the mark in an object's bytes. Raises CorruptObject, PreconditionFailed."""
    mark = decode_document(key, data, _MARK_KIND, Mark)
    if _mark_key(mark.name) != key:
        raise CorruptObject(key, f"It says that it is the mark {mark.name!r}.")
    return mark


def _normal_name(name: str) -> str:
    """Return the composed form of a mark's name. Raises UsageError when it cannot be one."""
    normal = unicodedata.normalize("NFC", name)
    problem = None
    if not normal.strip():
        problem = "It is empty."
    elif len(normal) > NAME_CHARACTERS_MAX:
        problem = f"It has {len(normal)} characters; {NAME_CHARACTERS_MAX} are allowed."
    elif any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in normal):
        problem = "It has control characters, line breaks, or bytes that are not UTF-8."
    if problem:
        raise UsageError(
            "this cannot be the name of a mark", detail=problem, hint="Choose a name in one line."
        )
    return normal


def _mark_key(name: str) -> str:
    """Return the key of a mark: its name with all but letters, digits, `_`, `-` and `.` as =XX.

    XX are the bytes of the name in UTF-8. A dot in front is quoted as well, since `.` and `..` are
    no keys. A name too long for a file keeps its beginning, then `==` and the digest of the whole.
    """
    quoted = re.sub(
        rb"[^A-Za-z0-9_.-]|^\.", lambda match: b"=%02X" % match[0][0], name.encode()
    ).decode()
    if len(quoted) > _QUOTED_MAX:
        quoted = f"{quoted[:_QUOTED_MAX]}=={xxhash.xxh3_128_hexdigest(name.encode())}"
    return f"mark/{quoted}"


def _name_source(engine: str, source: dict[str, str]) -> str:
    fields = ", ".join(f"{name} {value}" for name, value in sorted(source.items()))
    return f"{engine} ({fields})"
