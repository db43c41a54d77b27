"""A store whose objects are sealed: callers read and write plain bytes, the place below sees none.

Any store can lie below, and everything above works on it unchanged, ranges included. The objects
under `key/`, which hold the keys, are not seen through it.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from pitr.archive.sealing import (
    BLOCK_BYTES,
    HEADER_BYTES,
    Keyring,
    SealedObject,
    block_runs,
    is_open_name,
    plain_size,
    seal,
    seal_name,
    unseal,
    unseal_name,
)
from pitr.archive.store import ObjectExists, ObjectInfo, Store, check_key, prefix_folder
from pitr.errors import CorruptObject, ObjectMissing, WrongKey

T = TypeVar("T")

_KEYS = "key/"
# A header costs a request and a key derivation; pages of one object are asked for one by one.
_HEADERS_MAX = 512


class _Opened(NamedTuple):
    """An object that ranges are read of: its header, and the name under which it is stored."""

    header: SealedObject
    name: str


class EncryptedStore:
    """Objects of another store, sealed with the keys of one archive."""

    def __init__(self, store: Store, ring: Keyring, reload: Callable[[], Keyring]) -> None:
        """Take the store below. `reload` returns its keys anew, for objects with a newer one."""
        self._store = store
        self._ring = ring
        self._reload = reload
        self._lock = threading.Lock()
        self._headers: OrderedDict[str, _Opened] = OrderedDict()

    @property
    def location(self) -> str:
        """Return the location of the store below."""
        return self._store.location

    @property
    def is_remote(self) -> bool:
        """Return whether a request to the store below costs a network round trip."""
        return self._store.is_remote

    def put_new(self, key: str, data: bytes) -> None:
        """Write an object that must not exist yet; raise ObjectExists when it does."""
        try:
            self._store.put_new(*self.sealed(key, data))
        except ObjectExists:
            raise ObjectExists(key) from None

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing one of the same name whole."""
        self._store.put(*self.sealed(key, data))
        self._forget(key)

    def get(self, key: str) -> bytes:
        """Return the whole object. Raises CorruptObject when it was altered, WrongKey."""
        with _named(key):
            stored = self._store.get(seal_name(self._ring, check_key(key)))
        return self.unsealed(key, stored)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each half-open range (begin, end), in the order asked.

        Whole blocks of 16 KiB are fetched and verified.
        """
        if any(not 0 <= begin <= end for begin, end in ranges):
            raise ValueError("not a range")
        with self._lock:
            opened = self._headers.get(key)
        if opened is not None:
            try:
                return self._get_ranges(key, opened, ranges)
            except CorruptObject:
                pass  # deleted and written again since: then it has another header
        return self._get_ranges(key, self._open(check_key(key)), ranges)

    def delete(self, key: str) -> None:
        """Delete an object; deleting one that is not there is no error."""
        self._store.delete(seal_name(self._ring, check_key(key)))
        self._forget(key)

    # --- for what waits on disk ---------------------------------------------------------------

    def sealed(self, key: str, data: bytes) -> tuple[str, bytes]:
        """Return name and bytes as which an object is stored, here or on the way to it."""
        return seal_name(self._ring, check_key(key)), seal(self._ring, key, data)

    def unsealed(self, key: str, stored: bytes) -> bytes:
        """Return the plain bytes of an object. Raises CorruptObject, WrongKey."""
        return self._with_key(lambda ring: unseal(ring, key, stored))

    def unsealed_name(self, name: str) -> str | None:
        """Return the key that belongs to a stored name; None for one of another archive."""
        return unseal_name(self._ring, name)

    def _with_key(self, opening: Callable[[Keyring], T]) -> T:
        """Return what opens with the keys in hand, or with those that came since."""
        try:
            return opening(self._ring)
        except WrongKey:
            self._ring = self._reload()
        return opening(self._ring)

    # --- ranges -------------------------------------------------------------------------------

    def _open(self, key: str) -> _Opened:
        name = seal_name(self._ring, key)
        with _named(key):
            [data] = self._store.get_ranges(name, [(0, HEADER_BYTES)])
        opened = _Opened(self._with_key(lambda ring: SealedObject(ring, key, data)), name)
        with self._lock:
            self._headers[key] = opened
            while len(self._headers) > _HEADERS_MAX:
                self._headers.popitem(last=False)
        return opened

    def _get_ranges(
        self, key: str, opened: _Opened, ranges: Sequence[tuple[int, int]]
    ) -> list[bytes]:
        header, name = opened
        if any(end > header.length for _, end in ranges):
            raise CorruptObject(key, f"It has {header.length} bytes, and more are asked for.")
        runs = block_runs(ranges)
        firsts = [first for first, _ in runs]
        extents = [header.extent(*run) for run in runs]
        with _named(key):
            stored = self._store.get_ranges(name, extents) if runs else []
        plain = [
            b"".join(header.blocks(first, piece))
            for (first, _), piece in zip(runs, stored, strict=True)
        ]
        found = []
        for begin, end in ranges:
            if begin == end:
                found.append(b"")
                continue
            at = bisect_right(firsts, begin // BLOCK_BYTES) - 1
            skipped = runs[at][0] * BLOCK_BYTES
            found.append(plain[at][begin - skipped : end - skipped])
        return found

    # --- last, since its name hides the type ---------------------------------------------------

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key begins with `prefix`, in ascending key order.

        Names that are not this archive's are passed over.
        """
        prefix_folder(prefix)
        below = prefix if is_open_name(prefix) else f"{prefix.partition('/')[0]}/"
        found = []
        for info in self._store.list(below):
            key = unseal_name(self._ring, info.key)
            if key is not None and key.startswith(prefix) and not key.startswith(_KEYS):
                found.append(ObjectInfo(key, plain_size(info.size), info.modified_us))
        found.sort(key=lambda info: info.key)
        yield from found

    def _forget(self, key: str) -> None:
        with self._lock:
            self._headers.pop(key, None)


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Let errors of the store below name the object by its key, not by its stored name."""
    try:
        yield
    except ObjectMissing as error:
        raise ObjectMissing(key, location=error.location) from None
    except CorruptObject as error:
        raise CorruptObject(key, error.reason) from None
