"""Claims: who sees whom, and what becomes of the dead."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace

import msgspec
import pytest

from pitr.archive.claim import (
    PREFIX,
    ClaimKind,
    ClaimState,
    claimed,
    others,
    refuse_others,
    wait_for_others,
)
from pitr.archive.document import encode_document
from pitr.archive.holder import Holder, this_process
from pitr.archive.store import Store
from pitr.errors import PreconditionFailed
from tests.memory_store import MemoryStore


def put(store: Store, state: ClaimState) -> None:
    store.put_new(PREFIX + state.holder.nonce, encode_document(b"CLAM", state))


def test_claim_is_seen_while_it_lasts_and_gone_after() -> None:
    """Others see it, its own holder does not; nothing is left in the archive."""
    store = MemoryStore()
    with claimed(store, ClaimKind.BACKUP) as backup, claimed(store, ClaimKind.PRUNE) as prune:
        assert [state.work for state in others(store, ClaimKind.BACKUP, prune)] == [
            ClaimKind.BACKUP
        ]
        assert others(store, ClaimKind.BACKUP, backup) == []
        with pytest.raises(PreconditionFailed, match="a backup of this archive is running"):
            refuse_others(store, ClaimKind.BACKUP, prune)
        refuse_others(store, ClaimKind.PRUNE, prune)
    assert list(store.list()) == []


def test_of_two_that_begin_at_once_one_sees_the_other() -> None:
    """Both put their claim down before they look: never do both believe to be alone."""
    store = MemoryStore()
    both = threading.Barrier(2)
    alone: list[ClaimKind] = []

    def work(own: ClaimKind, other: ClaimKind) -> None:
        both.wait()
        with claimed(store, own) as claim:
            if not others(store, other, claim):
                alone.append(own)
            both.wait()

    for _ in range(50):
        alone.clear()
        pair = ((ClaimKind.BACKUP, ClaimKind.PRUNE), (ClaimKind.PRUNE, ClaimKind.BACKUP))
        threads = [threading.Thread(target=work, args=each) for each in pair]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(alone) < 2


def test_claim_of_a_dead_process_is_swept() -> None:
    """A killed backup on this machine hinders nobody."""
    code = (
        "import sys, msgspec; from pitr.archive.holder import this_process;"
        "sys.stdout.buffer.write(msgspec.json.encode(this_process()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    holder = msgspec.json.decode(done.stdout, type=Holder)
    store = MemoryStore()
    put(store, ClaimState(ClaimKind.BACKUP, holder, 1 << 60, 1 << 60))
    with claimed(store, ClaimKind.PRUNE) as own:
        assert others(store, ClaimKind.BACKUP, own) == []
        assert [info.key for info in store.list()] == [own.key]


def test_claim_of_another_machine_lapses() -> None:
    """Where nobody can look, a claim counts until it was not renewed for its time."""
    store = MemoryStore()
    elsewhere = replace(this_process(), boot_id="another", host="there")
    put(store, ClaimState(ClaimKind.PRUNE, elsewhere, 0, 1 << 60))
    with claimed(store, ClaimKind.BACKUP) as own:
        assert [state.holder.host for state in others(store, ClaimKind.PRUNE, own)] == ["there"]
        with pytest.raises(PreconditionFailed, match="prune of this archive is running"):
            wait_for_others(store, ClaimKind.PRUNE, own, wait_seconds=0.01, pause_seconds=0.001)
        lapsed = ClaimState(ClaimKind.PRUNE, elsewhere, 0, 0)
        store.put(PREFIX + elsewhere.nonce, encode_document(b"CLAM", lapsed))
        wait_for_others(store, ClaimKind.PRUNE, own, wait_seconds=0.01)
