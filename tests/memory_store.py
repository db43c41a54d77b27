"""A store in memory: what an archive asks of a store, in the fewest lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from pitr.archive.store import ObjectExists, ObjectInfo, check_key, prefix_folder
from pitr.errors import CorruptObject, ObjectMissing, StoreUnusable


class MemoryStore:
    """Objects in a dictionary. It ends with the process."""

    is_remote = False
    location = "memory"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[bytes, int]] = {}

    def put_new(self, key: str, data: bytes) -> None:
        """Write an object that must not exist yet; raise ObjectExists when it does."""
        with self._lock:
            if check_key(key) in self._objects:
                raise ObjectExists(key)
            self._objects[key] = (data, time.time_ns() // 1000)

    def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing one of the same name whole."""
        with self._lock:
            self._objects[check_key(key)] = (data, time.time_ns() // 1000)

    def get(self, key: str) -> bytes:
        """Return the whole object."""
        with self._lock:
            found = self._objects.get(check_key(key))
        if found is None:
            raise ObjectMissing(key, location=self.location)
        return found[0]

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each half-open range (begin, end), in the order asked."""
        data = self.get(key)
        for begin, end in ranges:
            if not 0 <= begin <= end:
                raise ValueError(f"not a range: {begin}..{end}")
            if end > len(data):
                raise CorruptObject(
                    key, f"Bytes {begin} to {end} are asked for, but it has {len(data)}."
                )
        return [data[begin:end] for begin, end in ranges]

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key begins with `prefix`, in ascending key order."""
        prefix_folder(prefix)
        with self._lock:
            found = sorted(item for item in self._objects.items() if item[0].startswith(prefix))
        for key, (data, modified_us) in found:
            yield ObjectInfo(key, len(data), modified_us)

    def delete(self, key: str) -> None:
        """Delete an object; deleting one that is not there is no error."""
        with self._lock:
            self._objects.pop(check_key(key), None)


class FaultyStore(MemoryStore):
    """A store that can be out of reach, or accept an object and then lose its own answer."""

    def __init__(self) -> None:
        super().__init__()
        self.is_down = False
        self.loses_answers = False
        self.hang = threading.Event()
        self.hang.set()
        self.written: list[str] = []

    def _fault(self) -> None:
        self.hang.wait()
        if self.is_down:
            raise StoreUnusable("the store cannot be reached", detail="It was switched off.")

    def put_new(self, key: str, data: bytes) -> None:
        self._fault()
        super().put_new(key, data)
        self.written.append(key)
        if self.loses_answers:
            raise StoreUnusable("the store did not answer", detail="The connection broke.")

    def put(self, key: str, data: bytes) -> None:
        self._fault()
        super().put(key, data)
        self.written.append(key)
