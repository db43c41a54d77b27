"""Claims: what a backup or a prune says while it works, so that neither takes from the other.

A base may refer to any pack that was there when its backup began, and prune deletes packs that no
base refers to. So each of them puts its claim down first and looks for the other's then: of two
that begin at once at least one sees the other. Specification: docs/formats/archive-objects.md.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum

from pitr.archive.document import decode_document, encode_document
from pitr.archive.holder import Holder, is_alive, this_process
from pitr.archive.store import Store
from pitr.clock import now_us
from pitr.errors import ObjectMissing, PreconditionFailed, StoreUnusable

PREFIX = "claim/"
TTL_SECONDS = 180
RENEW_SECONDS = 30
_KIND = b"CLAM"


class ClaimKind(StrEnum):
    """What a claim is for."""

    BACKUP = "backup"
    PRUNE = "prune"


@dataclass(frozen=True, slots=True)
class ClaimState:
    """What a claim object says; times in microseconds since the epoch, UTC."""

    work: ClaimKind
    holder: Holder
    made_us: int
    renewed_us: int
    ttl_seconds: int = TTL_SECONDS


class Claim:
    """A claim of this process, renewed by a thread of its own until `claimed` ends."""

    def __init__(self, store: Store, state: ClaimState) -> None:
        self._store = store
        self._state = state
        self._stop = threading.Event()
        self._renewed = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="pitr-claim", daemon=True)

    @property
    def key(self) -> str:
        """Return the key of its object."""
        return PREFIX + self._state.holder.nonce

    @property
    def is_fresh(self) -> bool:
        """Return whether nobody can hold it for lapsed yet; a process that was stopped looks."""
        return time.monotonic() - self._renewed < TTL_SECONDS / 2

    def require_fresh(self) -> None:
        """Raise PreconditionFailed when others may hold it for lapsed: asked before a deletion."""
        if not self.is_fresh:
            raise PreconditionFailed(
                f"the {self._state.work} was given up: it stood still for too long",
                detail="Others may take it for dead. What was deleted so far is not needed.",
                hint=f"Run 'pitr {self._state.work}' again.",
            )

    def _put_down(self) -> None:
        self._store.put_new(self.key, encode_document(_KIND, self._state))
        self._thread.start()

    def _take_away(self) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(StoreUnusable):  # then it lapses
            self._store.delete(self.key)

    def _run(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            renewed = replace(self._state, renewed_us=now_us())
            try:
                self._store.put(self.key, encode_document(_KIND, renewed))
            except StoreUnusable:
                continue  # `is_fresh` tells, and the next round tries again
            self._renewed = time.monotonic()


@contextmanager
def claimed(store: Store, work: ClaimKind) -> Iterator[Claim]:
    """Have a claim while the block runs. A killed process leaves it; it then lapses.

    Raises StoreUnusable.
    """
    now = now_us()
    claim = Claim(store, ClaimState(work, this_process(), now, now))
    claim._put_down()
    try:
        yield claim
    finally:
        claim._take_away()


def others(store: Store, work: ClaimKind, own: Claim) -> list[ClaimState]:
    """Return the live claims of others for a kind of work; dead ones are deleted on the way."""
    found = []
    for info in list(store.list(PREFIX)):
        if info.key == own.key:
            continue
        try:
            state = decode_document(info.key, store.get(info.key), _KIND, ClaimState)
        except ObjectMissing:
            continue
        if not _is_live(state):
            store.delete(info.key)
        elif state.work is work:
            found.append(state)
    return found


def refuse_others(store: Store, work: ClaimKind, own: Claim) -> None:
    """Raise PreconditionFailed when somebody else has a claim for this kind of work."""
    for state in others(store, work, own):
        raise _running(state, "Two at once would take from each other.")


def wait_for_others(
    store: Store, work: ClaimKind, own: Claim, *, wait_seconds: float, pause_seconds: float = 0.5
) -> None:
    """Return when nobody else has a claim for this kind of work.

    Raises PreconditionFailed when that takes too long, StoreUnusable.
    """
    deadline = time.monotonic() + wait_seconds
    while found := others(store, work, own):
        if time.monotonic() > deadline:
            raise _running(found[0], f"It was waited for {wait_seconds:.0f} s.")
        time.sleep(pause_seconds)


def _running(state: ClaimState, detail: str) -> PreconditionFailed:
    return PreconditionFailed(
        f"a {state.work} of this archive is running: {state.holder}",
        detail=detail,
        hint="Run the command again when it has ended.",
    )


def _is_live(state: ClaimState) -> bool:
    alive = is_alive(state.holder)
    if alive is not None:
        return alive
    return now_us() < state.renewed_us + state.ttl_seconds * 1_000_000
