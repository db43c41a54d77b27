"""The store interface: what an archive asks of a folder or a bucket.

A store maps keys to byte strings. A key is a relative path of the characters
`A-Z a-z 0-9 - _ . + = /`, without empty, `.` or `..` parts; `check_key` refuses anything else, so
no key can lead outside the store. Objects are written whole: a reader sees all of an object or
nothing of it, and what `put_new` or `put` has returned survives a power loss.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

_KEY = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[A-Za-z0-9_.+=-]+(?:/[A-Za-z0-9_.+=-]+)*")


class ObjectExists(Exception):
    """Say that `put_new` found an object of that name; nothing was written."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(key)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One listed object: its key, its size in bytes and when the store last wrote it (µs, UTC)."""

    key: str
    size: int
    modified_us: int


class Store(Protocol):
    """A place for objects.

    Errors of every method: ObjectMissing when the key is not there (get, get_ranges),
    StoreUnusable when the store cannot be reached or refuses the caller. Safe to call from
    several threads at once.
    """

    @property
    def location(self) -> str:
        """Return the location as a user would write it, without credentials."""

    @property
    def is_remote(self) -> bool:
        """Return whether a request costs a network round trip, so that reads should be merged."""

    def put_new(self, key: str, data: bytes) -> None:
        """Write an object that must not exist yet; raise ObjectExists when it does."""

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing one of the same name whole."""

    def get(self, key: str) -> bytes:
        """Return the whole object."""

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each half-open range (begin, end), in the order asked.

        A range that reaches past the end of the object raises CorruptObject: the caller takes
        its ranges from the object's own directory. Near ranges may be fetched together.
        """

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key begins with `prefix`, in ascending key order.

        An object written or deleted meanwhile may or may not be listed.
        """

    def delete(self, key: str) -> None:
        """Delete an object; deleting one that is not there is no error."""


@runtime_checkable
class Sealing(Protocol):
    """A store that encrypts: what waits for it on this machine is encrypted as well."""

    def sealed(self, key: str, data: bytes) -> tuple[str, bytes]:
        """Return name and bytes as which an object may lie on a disk."""

    def unsealed(self, key: str, stored: bytes) -> bytes:
        """Return the plain bytes of an object. Raises CorruptObject, WrongKey."""

    def unsealed_name(self, name: str) -> str | None:
        """Return the key that belongs to a name; None for one that is not of this archive."""


def find_object(store: Store, key: str) -> ObjectInfo | None:
    """Return what a listing says of one object, None when it is not there. Raises StoreUnusable.

    One listing of its prefix; a key comes before every longer one that begins with it.
    """
    first = next(iter(store.list(key)), None)
    return first if first is not None and first.key == key else None


def check_key(key: str) -> str:
    """Return the key, or raise ValueError when it is not a safe relative path."""
    if len(key) > 512 or not _KEY.fullmatch(key):
        raise ValueError(f"not an object key: {key!r}")
    return key


def prefix_folder(prefix: str) -> str:
    """Return the folder that a listing of `prefix` has to look at: `log` for `log/00`.

    The empty string stands for the whole store. Raises ValueError like check_key.
    """
    folder = prefix.rpartition("/")[0]
    return check_key(folder) if folder else ""
