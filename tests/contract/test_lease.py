"""The writer lease on every store, between real processes. Goal: one capture, whatever dies."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pitr.archive.archive import create_or_adopt
from pitr.archive.document import encode_document
from pitr.archive.holder import Holder, this_process
from pitr.archive.lease import LeaseState, acquire, is_live, read_newest_lease
from pitr.archive.store import Store
from pitr.clock import now_us
from pitr.errors import ArchiveHeld, CorruptObject
from tests.contract.conftest import StoreMaker

SECOND = 1_000_000
FAR_AWAY = Holder("elsewhere", 4711, 99, "another-boot", "pid:[1]", "0" * 32)

Process = subprocess.Popen[str]

# A store in memory ends with its process.
between_processes = pytest.mark.parametrize(
    "make_store", ["local", "moto", pytest.param("ceph", marks=pytest.mark.s3)], indirect=True
)


@pytest.fixture
def store(make_store: StoreMaker) -> Store:
    """A store with an archive in it, for without one there is nothing to hold."""
    store = make_store("archive")
    create_or_adopt(store, engine="sqlite", identity={"path": "/srv/shop.db"})
    return store


@pytest.fixture
def spawn() -> Iterator[Callable[[str], Process]]:
    """Start lease holders; kill and reap at the end those that still run."""
    with contextlib.ExitStack() as stack:

        def start(location: str) -> Process:
            command = [sys.executable, "-m", "tests.contract.lease_holder", location]
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            return process

        yield start


def say(process: Process, line: str = "go") -> None:
    assert process.stdin
    process.stdin.write(line + "\n")
    process.stdin.flush()


def hear(process: Process) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def start_holding(spawn: Callable[[str], Process], location: str) -> Process:
    process = spawn(location)
    assert hear(process) == "ready"
    say(process)
    assert hear(process).startswith("held")
    return process


def write_lease(store: Store, epoch: int, holder: Holder, **fields: object) -> LeaseState:
    """Write a lease object as another holder would have."""
    state = LeaseState(epoch, holder, acquired_us=now_us(), renewed_us=now_us())
    state = replace(state, **fields)  # type: ignore[arg-type]
    store.put(f"lease/{epoch:08d}", encode_document(b"LEAS", state))
    return state


def keys(store: Store) -> list[str]:
    return [info.key for info in store.list("lease/")]


# ---- between processes ---------------------------------------------------------------------------


@between_processes
def test_second_process_is_refused_and_told_who_holds(
    store: Store, spawn: Callable[[str], Process]
) -> None:
    """While one process captures, another is refused; the error names the first."""
    holder = start_holding(spawn, store.location)

    with pytest.raises(ArchiveHeld) as raised:
        acquire(store)

    assert raised.value.exit_code == 3
    assert f"pid {holder.pid} on " in raised.value.message
    assert raised.value.detail
    assert "last renewed" in raised.value.detail


@between_processes
def test_killed_holder_is_replaced_at_once(store: Store, spawn: Callable[[str], Process]) -> None:
    """After SIGKILL nobody waits for the ttl, also while the parent has not reaped the process."""
    holder = start_holding(spawn, store.location)
    holder.send_signal(signal.SIGKILL)
    # Not reaped: it stays in the process table, as under a container's careless first process.
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)

    lease = acquire(store)

    assert lease.epoch == 2
    assert keys(store) == ["lease/00000001", "lease/00000002"]


@between_processes
def test_released_lease_is_free(store: Store, spawn: Callable[[str], Process]) -> None:
    """A capture that ended cleanly leaves nothing to wait for."""
    holder = start_holding(spawn, store.location)
    say(holder, "release")
    assert holder.wait(30) == 0
    state = read_newest_lease(store)
    assert state is not None
    assert state.released

    assert acquire(store).epoch == 2


@between_processes
@pytest.mark.parametrize("dead_holder", [False, True])
def test_race_of_eight_processes_is_won_by_exactly_one(
    store: Store, spawn: Callable[[str], Process], dead_holder: bool
) -> None:
    """Eight that take a free or an orphaned archive at the same moment: one holds it after."""
    if dead_holder:
        holder = start_holding(spawn, store.location)
        holder.kill()
        holder.wait()
    contenders = [spawn(store.location) for _ in range(8)]
    assert [hear(process) for process in contenders] == ["ready"] * 8

    for process in contenders:
        say(process)
    answers = [hear(process) for process in contenders]

    held = [answer for answer in answers if answer.startswith("held")]
    assert held == [f"held {2 if dead_holder else 1}"], answers
    winner = contenders[answers.index(held[0])]
    refused = [answer for answer in answers if answer.startswith("refused")]
    assert len(refused) == 7
    assert all(f"pid {winner.pid} on " in answer for answer in refused), answers


# ---- what cannot be seen from here ---------------------------------------------------------------


def test_lease_of_another_machine_holds_for_its_ttl(store: Store) -> None:
    """A holder on another machine is believed until its ttl is over, and not longer."""
    state = write_lease(store, 7, FAR_AWAY, renewed_us=now_us() - 100 * SECOND)

    with pytest.raises(ArchiveHeld) as raised:
        acquire(store)
    assert "pid 4711 on elsewhere" in raised.value.message
    assert raised.value.hint
    assert "its lease lapses in" in raised.value.hint

    write_lease(store, 7, FAR_AWAY, renewed_us=state.renewed_us - 81 * SECOND)
    assert acquire(store).epoch == 8


@pytest.mark.parametrize("field", ["boot_id", "pid_namespace"])
def test_process_of_another_boot_or_container_is_not_looked_up_here(
    store: Store, field: str
) -> None:
    """The same number in another container or before a reboot says nothing: only the ttl does."""
    ended = replace(this_process(), pid=2**22 + 1)
    write_lease(store, 1, replace(ended, **{field: "another"}))

    with pytest.raises(ArchiveHeld):
        acquire(store)

    write_lease(store, 1, ended)
    assert acquire(store).epoch == 2


def test_number_of_dead_holder_given_to_another_process_is_noticed(store: Store) -> None:
    """A process with the holder's number but another start is not the holder."""
    other_start = replace(this_process(), process_start=1)
    state = write_lease(store, 1, other_start)

    assert not is_live(state, at_us=now_us())
    assert acquire(store).epoch == 2


# ---- renewal -------------------------------------------------------------------------------------


def test_renewal_writes_once_a_minute_unless_forced(store: Store) -> None:
    """An idle capture costs one overwrite a minute; a forced one is written at once."""
    times = {"now": 1_000 * SECOND}
    lease = acquire(store, clock=lambda: times["now"])

    def newest() -> tuple[int, int, int]:
        state = read_newest_lease(store)
        assert state is not None
        return state.renewed_us // SECOND, state.head_commit, state.current_until_us

    times["now"] += 59 * SECOND
    lease.renew(head_commit=5, current_until_us=50)
    assert newest() == (1_000, 0, 0)

    times["now"] += 1 * SECOND
    lease.renew(head_commit=6, current_until_us=60)
    assert newest() == (1_060, 6, 60)

    lease.renew(head_commit=7, current_until_us=70)
    assert newest() == (1_060, 6, 60)
    lease.renew(head_commit=8, current_until_us=80, force=True)
    assert newest() == (1_060, 8, 80)

    times["now"] -= 600 * SECOND
    lease.renew(head_commit=9, current_until_us=90)
    assert newest() == (460, 9, 90), "a clock set back must not stop the renewal"
    assert keys(store) == ["lease/00000001"]


def test_renewal_after_take_over_is_refused(store: Store) -> None:
    """A holder that slept through its ttl finds the newer lease, and writes nothing more."""
    zombie = acquire(store)
    newer = write_lease(store, zombie.epoch + 1, FAR_AWAY)

    for force in (True, True):
        with pytest.raises(ArchiveHeld, match="taken over by pid 4711 on elsewhere"):
            zombie.renew(head_commit=1, current_until_us=1, force=force)
    zombie.release()

    assert read_newest_lease(store) == newer
    with pytest.raises(ArchiveHeld):
        zombie.check()


def test_renewal_of_deleted_lease_is_refused(store: Store) -> None:
    """A lease object that somebody removed does not come back: the numbers would start anew."""
    lease = acquire(store)
    store.delete("lease/00000001")

    with pytest.raises(ArchiveHeld, match="is gone"):
        lease.renew(head_commit=1, current_until_us=1, force=True)

    assert keys(store) == []


def test_release_writes_what_was_noted_since_the_last_renewal(store: Store) -> None:
    """After a clean end the lease tells the newest commit and time, and that nobody captures."""
    lease = acquire(store)
    lease.renew(head_commit=41, current_until_us=77, last_error="no space", spooled_bytes=9)
    lease.release()

    state = read_newest_lease(store)
    assert state is not None
    assert (state.head_commit, state.current_until_us) == (41, 77)
    assert (state.last_error, state.spooled_bytes) == ("no space", 9)
    assert not is_live(state, at_us=now_us())


# ---- over time -----------------------------------------------------------------------------------


def test_next_holder_knows_what_the_last_one_proved(store: Store) -> None:
    """The window of the archive does not shrink because a new capture begins."""
    lease = acquire(store)
    lease.renew(head_commit=41, current_until_us=77)
    lease.release()

    acquire(store)

    state = read_newest_lease(store)
    assert state is not None
    assert (state.epoch, state.head_commit, state.current_until_us) == (2, 41, 77)


def test_old_leases_are_deleted_but_the_newest_two(store: Store) -> None:
    """Restarts do not pile up objects, and the numbers never begin again."""
    for epoch in range(1, 6):
        lease = acquire(store)
        assert lease.epoch == epoch
        lease.release()

    assert keys(store) == ["lease/00000004", "lease/00000005"]


def test_archive_never_captured_has_no_lease(store: Store) -> None:
    """Before the first capture there is no lease to show; other objects do not look like one."""
    store.put_new("lease/notes", b"")

    assert read_newest_lease(store) is None


def test_damaged_lease_is_named_with_the_way_out(store: Store) -> None:
    """A lease object that does not decode, or that lies about its number, is named."""
    good = encode_document(b"LEAS", write_lease(store, 3, FAR_AWAY))
    for damaged in (b"", good[:-1], good.replace(b"elsewhere", b"elsewhexe"), b"x" * 300):
        store.put("lease/00000003", damaged)
        with pytest.raises(CorruptObject, match="lease/00000003") as raised:
            acquire(store)
        assert raised.value.hint
        assert "delete the object" in raised.value.hint

    store.put("lease/00000004", good)
    with pytest.raises(CorruptObject, match="lease/00000004"):
        read_newest_lease(store)


class _CrowdedStore:
    """A store on which, after the look and before the creation, others come and go."""

    def __init__(self, store: Store, epochs: list[int]) -> None:
        self._store = store
        self._epochs = epochs

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def put_new(self, key: str, data: bytes) -> None:
        for epoch in self._epochs:
            write_lease(self._store, epoch, FAR_AWAY)
        self._store.put_new(key, data)


@pytest.mark.parametrize("epochs", [[1], [3, 4]])
def test_taker_that_was_overtaken_is_refused(store: Store, epochs: list[int]) -> None:
    """Whoever comes between is respected, also when it left our number free again."""
    crowded = _CrowdedStore(store, epochs)

    with pytest.raises(ArchiveHeld, match="pid 4711 on elsewhere"):
        acquire(crowded)  # type: ignore[arg-type]

    state = read_newest_lease(store)
    assert state is not None
    assert state.holder == FAR_AWAY


def test_nonces_differ_between_acquisitions() -> None:
    """Two acquisitions by one process can be told apart."""
    holders = [this_process() for _ in range(3)]

    assert all(one != other for one, other in itertools.combinations(holders, 2))
    assert len({replace(holder, nonce="") for holder in holders}) == 1
