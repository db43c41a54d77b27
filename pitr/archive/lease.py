"""The writer lease: at most one capture writes to an archive.

The lease rests on create-if-absent alone, which every store has, for conditional replacement is
broken in some. Each holder creates the object `lease/<epoch>` with the next number; of several
that try the same number one wins. A holder overwrites only its own object, and only as long as no
newer one exists. The newest object says who holds the archive.

A lease prevents waste; it cannot stop a process that slept through a take-over from finishing one
more write. So the epoch is part of the keys of what a capture writes, and readers prefer the
higher one.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pitr.archive.document import decode_document, encode_document
from pitr.archive.holder import Holder, is_alive, this_process
from pitr.archive.store import ObjectExists, ObjectInfo, Store
from pitr.clock import now_us
from pitr.errors import ArchiveHeld, CorruptObject, ObjectMissing
from pitr.vocabulary.event import Event, Level, OnEvent

TTL_SECONDS = 180
RENEW_SECONDS = 60
BRIEF_SECONDS = 10.0
_PAUSE_SECONDS = 0.2
_KIND = b"LEAS"
_TIME_US_MAX = 4_102_444_800_000_000  # the year 2100
_KEY = re.compile(r"lease/(\d{8})")


@dataclass(frozen=True, slots=True)
class LeaseState:
    """What a lease object says. Times in microseconds since the epoch, UTC.

    `head_commit` is the newest commit in the archive, `current_until_us` the time up to which the
    archive is proven to hold everything; both survive into the next holder's first state. `brief`
    says that the holder captures once and ends.
    """

    epoch: int
    holder: Holder
    acquired_us: int
    renewed_us: int
    ttl_seconds: int = TTL_SECONDS
    released: bool = False
    head_commit: int = 0
    current_until_us: int = 0
    last_error: str | None = None
    spooled_bytes: int = 0
    brief: bool = False


class Lease:
    """A lease that this process acquired. Not safe to use from several threads at once."""

    def __init__(self, store: Store, state: LeaseState, clock: Callable[[], int]) -> None:
        self._store = store
        self._state = state
        self._clock = clock

    @property
    def epoch(self) -> int:
        """Return the lease's number, which goes into the keys of what its holder writes."""
        return self._state.epoch

    @property
    def state(self) -> LeaseState:
        """Return what the lease says."""
        return self._state

    def renew(
        self,
        *,
        head_commit: int,
        current_until_us: int,
        last_error: str | None = None,
        spooled_bytes: int = 0,
        force: bool = False,
    ) -> None:
        """Note the state of the capture; write it when RENEW_SECONDS have passed, or forced.

        Raises ArchiveHeld when another capture has taken the archive over: then nothing more may
        be written. Raises StoreUnusable; the next call tries again.
        """
        written_us = self._state.renewed_us
        noted = replace(
            self._state,
            head_commit=head_commit,
            current_until_us=current_until_us,
            last_error=last_error,
            spooled_bytes=spooled_bytes,
        )
        self._state = noted
        now_us = self._clock()
        # The distance, not the difference: a clock that was set back must not stop the renewal.
        if force or abs(now_us - written_us) >= RENEW_SECONDS * 1_000_000:
            self._write(replace(noted, renewed_us=now_us))

    def release(self) -> None:
        """Give the archive free. Giving up a lease that was taken over is no error."""
        try:
            self._write(replace(self._state, renewed_us=self._clock(), released=True))
        except ArchiveHeld:
            return

    def check(self) -> None:
        """Raise ArchiveHeld unless this lease is still the newest of the archive."""
        newest = _lease_objects(self._store)[-1:]
        if newest and newest[0].key == _key(self.epoch):
            return
        message = "the lease of this capture is gone"
        if newest:
            message = f"the lease was taken over by {_read(self._store, newest[0].key).holder}"
        raise ArchiveHeld(
            message,
            detail=f"Lease {self.epoch} was held by this process, {self._state.holder}.",
            hint="Make sure that one capture runs for this archive, and only one.",
        )

    def _write(self, state: LeaseState) -> None:
        self.check()
        self._store.put(_key(state.epoch), encode_document(_KIND, state))
        self._state = state


def acquire_when_free(
    store: Store,
    stop: threading.Event,
    on_event: OnEvent,
    *,
    brief: bool,
    wait_seconds: float = BRIEF_SECONDS,
) -> Lease | None:
    """Take the archive for this process, waiting a moment for a command that holds it briefly.

    None when `stop` was set meanwhile. Raises as `acquire` does: ArchiveHeld at once when a capture
    that goes on holds it.
    """
    deadline = time.monotonic() + wait_seconds
    is_told = False
    while True:
        try:
            return acquire(store, brief=brief)
        except ArchiveHeld:
            holder = read_live_lease(store)  # None when it has just ended
            if time.monotonic() > deadline or (holder is not None and not holder.brief):
                raise
        if holder is not None and not is_told:
            on_event(_waiting(holder, wait_seconds))
            is_told = True
        if stop.wait(_PAUSE_SECONDS):
            return None


def _waiting(holder: LeaseState, seconds: float) -> Event:
    return Event(
        Level.INFO,
        "waiting for a command that holds the archive for a moment",
        f"It runs as {holder.holder}. It is waited for {seconds:.0f} s at most.",
    )


def acquire(
    store: Store,
    *,
    brief: bool = False,
    ttl_seconds: int = TTL_SECONDS,
    clock: Callable[[], int] = now_us,
) -> Lease:
    """Take the archive for this process; `brief` when it captures once and ends.

    A lease is taken over at once when its holder released it or is seen to be dead, and after its
    ttl when the holder ran where this process cannot look. Raises ArchiveHeld, naming the holder;
    StoreUnusable; CorruptObject for a damaged lease.
    """
    previous = read_newest_lease(store)
    now = clock()
    if previous is not None and is_live(previous, at_us=now):
        raise _held(previous, at_us=now)
    state = LeaseState(
        epoch=previous.epoch + 1 if previous else 1,
        holder=this_process(),
        acquired_us=now,
        renewed_us=now,
        ttl_seconds=ttl_seconds,
        head_commit=previous.head_commit if previous else 0,
        current_until_us=previous.current_until_us if previous else 0,
        brief=brief,
    )
    _create(store, state)
    lease = Lease(store, state, clock)
    # Between the look and the creation others may have come and gone, and swept a newer object of
    # our number away; then ours is not the newest.
    lease.check()
    _delete_old(store, state.epoch)
    return lease


def read_newest_lease(store: Store) -> LeaseState | None:
    """Return what the newest lease object says, or None when the archive was never captured.

    Raises StoreUnusable, CorruptObject.
    """
    for _ in range(3):
        found = _lease_objects(store)
        if not found:
            return None
        try:
            return _read(store, found[-1].key)
        except ObjectMissing as error:
            # Since the listing two newer leases came, and this one was deleted: look again.
            missing = error
    raise missing


def read_live_lease(store: Store) -> LeaseState | None:
    """Return the newest lease unless its holder is gone. Raises as `read_newest_lease` does."""
    lease = read_newest_lease(store)
    return lease if lease is not None and is_live(lease, at_us=now_us()) else None


def is_live(state: LeaseState, *, at_us: int) -> bool:
    """Return whether the holder still has the archive at this time."""
    if state.released:
        return False
    alive = is_alive(state.holder)
    if alive is not None:
        return alive
    return at_us < _lapses_us(state)


def _create(store: Store, state: LeaseState) -> None:
    key = _key(state.epoch)
    try:
        store.put_new(key, encode_document(_KIND, state))
    except ObjectExists:
        winner = _read(store, key)
        # Ours, when a store's answer got lost and the request was sent again.
        if winner.holder != state.holder:
            raise _held(winner, at_us=state.acquired_us) from None


def _delete_old(store: Store, epoch: int) -> None:
    """Delete all leases but the newest two: the last one tells who held the archive before."""
    for info in _lease_objects(store):
        if info.key < _key(epoch - 1):
            store.delete(info.key)


def _lease_objects(store: Store) -> list[ObjectInfo]:
    return [info for info in store.list("lease/") if _KEY.fullmatch(info.key)]


def _key(epoch: int) -> str:
    return f"lease/{epoch:08d}"


def _read(store: Store, key: str) -> LeaseState:
    return check_lease(key, store.get(key))


def check_lease(key: str, data: bytes) -> LeaseState:
    """Return the lease in an object's bytes. Raises CorruptObject, PreconditionFailed."""
    try:
        state = decode_document(key, data, _KIND, LeaseState)
        if _key(state.epoch) != key:
            raise CorruptObject(key, f"It says that it is lease {state.epoch}.")
    except CorruptObject as error:
        hint = "Make sure that no capture writes to this archive, then delete the object."
        raise CorruptObject(key, error.reason, hint=hint) from None
    if max(abs(state.renewed_us), abs(state.acquired_us)) > _TIME_US_MAX:
        raise CorruptObject(key, "It has times that no clock shows.")
    return state


def _lapses_us(state: LeaseState) -> int:
    return state.renewed_us + state.ttl_seconds * 1_000_000


def _held(state: LeaseState, *, at_us: int) -> ArchiveHeld:
    detail = f"Held since {_utc(state.acquired_us)}, last renewed {_utc(state.renewed_us)}."
    lapse = ""
    if is_alive(state.holder) is None:
        seconds = max(1, (_lapses_us(state) - at_us) // 1_000_000)
        lapse = f" If it is gone, its lease lapses in {seconds} s."
    if state.brief:
        return ArchiveHeld(
            f"the archive is held by a command that captures once: {state.holder}",
            detail=detail,
            hint=f"Run the command again when that one has ended.{lapse}",
        )
    return ArchiveHeld(
        f"the archive is held by another capture: {state.holder}",
        detail=detail,
        hint=f"Stop that capture first: an archive takes one.{lapse}",
    )


def _utc(time_us: int) -> str:
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
