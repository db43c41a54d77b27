"""Bring finished objects into the store, in order, without making capture wait for it.

A thread of its own puts one object after the other and renews the lease. While the store fails,
objects go to a spool folder and are tried again with growing pauses; a spool that a killed process
left is delivered by the next one, before anything new.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from pitr import durable
from pitr.archive.lease import Lease
from pitr.archive.store import ObjectExists, Sealing, Store
from pitr.errors import CorruptObject, PitrError, StoreUnusable, WrongKey
from pitr.vocabulary.event import Event, Level, OnEvent

SPOOL_BYTES_MAX = 1 << 30
# A store that is slow, not failing: from here on objects wait on disk, not in memory.
_MEMORY_BYTES_MAX = 64 << 20
_FIRST_PAUSE_SECONDS = 0.25
_PAUSE_SECONDS_MAX = 30.0
_IDLE_SECONDS = 5.0


@dataclass(slots=True)
class _Parcel:
    """One object on its way: in memory, in the spool, or both."""

    ordinal: int
    key: str
    size: int
    data: bytes | None
    path: Path | None
    supersedes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Proof:
    """What can be said of the archive once the parcels up to `ordinal` are stored."""

    ordinal: int
    head_commit: int
    current_until_us: int


def _is_equal(_key: str, stored: bytes, wanted: bytes) -> bool:
    return stored == wanted


class Outbox:
    """The way of objects from capture into the store. `put` and `note` are for one thread."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        on_event: OnEvent,
        *,
        bytes_max: int = SPOOL_BYTES_MAX,
        is_same: Callable[[str, bytes, bytes], bool] = _is_equal,
    ) -> None:
        """Take over what is left in the spool below `folder`. Raises OSError.

        Several archives may share the folder: each has a subfolder named after its location.
        `is_same` says of a key whether what the store holds is what we want to store.
        """
        self._is_same = is_same
        self._store = store
        self._folder = folder / xxhash.xxh3_64_hexdigest(store.location.encode())
        self._on_event = on_event
        self._bytes_max = bytes_max
        self._changed = threading.Condition()
        self._parcels: deque[_Parcel] = deque()
        self._put_count = 0
        self._stored_count = 0
        self._is_failing = False
        self._is_closing = False
        self._last_error: str | None = None
        self._hindrance: str | None = None
        self._fatal: BaseException | None = None
        self._lease: Lease | None = None
        self._proofs: deque[_Proof] = deque()
        self._read_spool()
        self._thread = threading.Thread(target=self._run, name="pitr-outbox", daemon=True)
        self._thread.start()

    # --- the side of capture -----------------------------------------------------------------

    def put(self, key: str, data: bytes, *, supersedes: Sequence[str] = ()) -> None:
        """Take an object. Waits for no store; raises StoreUnusable when it cannot be spooled.

        Once it is stored, the objects that it `supersedes` are deleted; those that still wait are
        not stored at all.
        """
        with self._changed:
            self._put_count += 1
            parcel = _Parcel(self._put_count, key, len(data), data, None, frozenset(supersedes))
            useless = self._waiting(parcel.supersedes)
            is_on_disk = any(old.path is not None for old in useless)
            if self._is_failing or is_on_disk or self._memory_bytes() > _MEMORY_BYTES_MAX:
                self._spool(parcel)
            self._forget(useless, self._put_count)
            self._parcels.append(parcel)
            self._changed.notify_all()

    def _waiting(self, keys: frozenset[str]) -> list[_Parcel]:
        """Return what waits under these keys, but for the oldest of all: it may be on its way."""
        return [old for old in self._parcels if old.key in keys and old is not self._parcels[0]]

    def _forget(self, useless: list[_Parcel], ordinal: int) -> None:
        """Drop parcels; what was proven by them is proven by the parcel `ordinal` only."""
        for parcel in useless:
            self._parcels.remove(parcel)
            if parcel.path is not None:
                durable.remove(parcel.path)
        if useless:
            first = useless[0].ordinal
            self._proofs = deque(
                replace(proof, ordinal=ordinal) if proof.ordinal >= first else proof
                for proof in self._proofs
            )

    def note(self, *, head_commit: int, current_until_us: int) -> None:
        """Say what the archive is proven to hold once everything put so far is stored."""
        with self._changed:
            if self._proofs and self._proofs[-1].ordinal == self._put_count:
                self._proofs.pop()
            self._proofs.append(_Proof(self._put_count, head_commit, current_until_us))

    def use(self, lease: Lease, *, head_commit: int, current_until_us: int) -> None:
        """Renew this lease from now on; the rest is what the archive holds so far."""
        with self._changed:
            self._lease = lease
            self._proofs = deque([_Proof(self._stored_count, head_commit, current_until_us)])

    @property
    def stored_head(self) -> int:
        """Return the newest `head_commit` noted of which everything is in the store; 0 for none."""
        with self._changed:
            return self._head_up_to(self._stored_count)

    @property
    def durable_head(self) -> int:
        """Return the newest `head_commit` noted that a power loss now would not take back.

        What waits for the store is on this machine's disk up to there.
        """
        with self._changed:
            unsafe = [parcel.ordinal for parcel in self._parcels if parcel.path is None]
            return self._head_up_to(unsafe[0] - 1 if unsafe else self._put_count)

    def _head_up_to(self, ordinal: int) -> int:
        heads = [proof.head_commit for proof in self._proofs if proof.ordinal <= ordinal]
        return heads[-1] if heads else 0

    @property
    def is_durable(self) -> bool:
        """Return whether a power loss now would lose nothing of what was put."""
        with self._changed:
            return all(parcel.path is not None for parcel in self._parcels)

    @property
    def is_full(self) -> bool:
        """Return whether the spool has reached its limit."""
        return self.spooled_bytes > self._bytes_max

    @property
    def spooled_bytes(self) -> int:
        """Return how many bytes wait on disk."""
        with self._changed:
            return sum(parcel.size for parcel in self._parcels if parcel.path is not None)

    def check(self) -> None:
        """Raise what has made the outbox give up: the lease is lost, an object contradicts ours."""
        if self._fatal is not None:
            raise self._fatal

    def wait_for_room(self) -> None:
        """Wait while a store that works is behind; for bulk that capture can produce later."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._memory_bytes() <= _MEMORY_BYTES_MAX // 2
                    or self._is_failing
                    or self._fatal is not None
                )
            )

    def wait_until_stored(self, stop: threading.Event) -> bool:
        """Wait until everything is in the store; False when `stop` came first."""
        while not stop.is_set():
            with self._changed:
                self.check()
                if not self._parcels:
                    return True
                self._changed.wait(0.1)
        return False

    def report(self, error: str | None) -> None:
        """Note what hinders capture beside the store, None for nothing; the lease shows it."""
        self._hindrance = error

    @property
    def last_error(self) -> str | None:
        """Return what the store said when it failed last."""
        return self._last_error

    def close(self) -> None:
        """Store what can be stored without a further failure, leave the rest in the spool.

        Closing twice is no error.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()

    # --- the side of the store ---------------------------------------------------------------

    def _run(self) -> None:
        pause_seconds = _FIRST_PAUSE_SECONDS
        try:
            is_last = False
            while not is_last:
                parcel = self._next()
                is_last = parcel is None and self._is_closing
                try:
                    if parcel is not None:
                        self._store_parcel(parcel)
                    self._renew()
                except StoreUnusable as error:
                    self._fail(error)
                    if self._is_closing:
                        return
                    # Jitter: many captures that lost one store must not come back as one.
                    self._pause(pause_seconds * random.uniform(0.5, 1.0))
                    pause_seconds = min(pause_seconds * 2, _PAUSE_SECONDS_MAX)
                else:
                    pause_seconds = _FIRST_PAUSE_SECONDS
                    self._recover()
        except BaseException as error:
            # Raised again by `check`, in capture's thread.
            with self._changed:
                self._fatal = error
                self._changed.notify_all()

    def _next(self) -> _Parcel | None:
        """Return the oldest parcel; None when there is none for a while, or when closing."""
        with self._changed:
            if not self._parcels and not self._is_closing:
                self._changed.wait(_IDLE_SECONDS)
            return self._parcels[0] if self._parcels else None

    def _store_parcel(self, parcel: _Parcel) -> None:
        data = parcel.data
        if data is None:
            assert parcel.path is not None
            data = self._from_disk(parcel.key, parcel.path)
        try:
            self._store.put_new(parcel.key, data)
        except ObjectExists:
            # An earlier attempt arrived although its answer did not.
            if not self._is_same(parcel.key, self._store.get(parcel.key), data):
                raise CorruptObject(
                    parcel.key,
                    "It exists with other bytes than this capture wants to store.",
                    hint="Run 'pitr verify', and make sure that one capture runs per archive.",
                ) from None
        with self._changed:
            self._parcels.popleft()
            self._stored_count = parcel.ordinal
            self._changed.notify_all()
        if parcel.path is not None:
            durable.remove(parcel.path)
        for key in parcel.supersedes:
            self._store.delete(key)

    def _renew(self) -> None:
        with self._changed:
            lease = self._lease
            proof = None
            while self._proofs and self._proofs[0].ordinal <= self._stored_count:
                proof = self._proofs.popleft()
            if proof is not None:
                self._proofs.appendleft(proof)
        if lease is not None and proof is not None:
            lease.renew(
                head_commit=proof.head_commit,
                current_until_us=proof.current_until_us,
                last_error=self._last_error or self._hindrance,
                spooled_bytes=self.spooled_bytes,
            )

    def _fail(self, error: PitrError) -> None:
        with self._changed:
            first, self._is_failing = not self._is_failing, True
            self._last_error = f"{error.message}: {error.detail}"
            for parcel in self._parcels:
                if parcel.path is None:
                    self._spool(parcel)
            self._changed.notify_all()
        if first:
            detail = f"{error.detail or ''} Capture goes on; objects wait in {self._folder}."
            self._on_event(Event(Level.WARNING, error.message, detail.strip()))

    def _recover(self) -> None:
        if self._is_failing and not self._parcels:
            self._is_failing = False
            self._on_event(Event(Level.INFO, "the store is back; all spooled objects are stored"))

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closing, timeout=max(0.0, end - time.monotonic())
            )

    # --- the spool ---------------------------------------------------------------------------

    def _memory_bytes(self) -> int:
        return sum(parcel.size for parcel in self._parcels if parcel.path is None)

    def _spool(self, parcel: _Parcel) -> None:
        assert parcel.data is not None
        name, data = parcel.key, parcel.data
        if isinstance(self._store, Sealing):
            name, data = self._store.sealed(name, data)
        path = self._folder / f"{parcel.ordinal:012d}~{name.replace('/', '~')}"
        try:
            durable.make_folder(self._folder)
            durable.write_new(path, data)
        except OSError as error:
            raise StoreUnusable(
                f"cannot write to the spool folder: {self._folder}",
                detail=f"{error.strerror}. The store cannot be reached either.",
                hint="Make room there; capture has to be started again.",
            ) from None
        parcel.path, parcel.data = path, None

    def _read_spool(self) -> None:
        """Queue what an earlier process left, in its order."""
        if not self._folder.is_dir():
            return
        durable.sweep(self._folder)
        for path in sorted(self._folder.iterdir()):
            if durable.is_temporary(path.name):
                continue
            ordinal, _, name = path.name.partition("~")
            size = path.stat().st_size
            self._put_count = int(ordinal)
            key = self._key_of(name.replace("~", "/"), path)
            self._parcels.append(_Parcel(self._put_count, key, size, None, path))

    def _key_of(self, name: str, path: Path) -> str:
        """Return the key of a spooled object. Raises WrongKey for one of other keys."""
        key = self._store.unsealed_name(name) if isinstance(self._store, Sealing) else name
        if key is None:
            raise WrongKey(
                f"no key at hand opens what waits in the spool: {path}",
                detail="It was captured for an archive with other keys, or without any.",
                hint="Capture once more with that key, or move the file away: its changes are lost "
                "to the archive then.",
            )
        return key

    def _from_disk(self, key: str, path: Path) -> bytes:
        data = path.read_bytes()
        return self._store.unsealed(key, data) if isinstance(self._store, Sealing) else data
