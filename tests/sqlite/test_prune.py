"""Pruning: every state that is kept stays what it was, at every step, for every reader."""

from __future__ import annotations

import random
import threading

import pytest

from pitr.archive.lease import acquire
from pitr.errors import ArchiveLacks, PreconditionFailed
from pitr.sqlite.pagelog import pruning
from pitr.sqlite.pagelog.compaction import GRACE_US, compact, sweep
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.pruning import PrunePlan, PrunePlanStale, plan_prune, run_prune
from pitr.sqlite.pagelog.segment import CommitKind
from pitr.sqlite.pagelog.verify import verify_archive
from tests.memory_store import MemoryStore
from tests.sqlite.builders import (
    PAGE_SIZE,
    START_US,
    ArchiveBuilder,
    RemoteStore,
    a_base,
    a_commit,
    a_history,
    a_store_with,
    keys,
    read_state,
    small_commits,
    snapshot,
)
from tests.sqlite.test_compaction import catalog_of

LATER_US = 1 << 60


def prune(
    store: MemoryStore, builder: ArchiveBuilder, commit: int, marks: set[int] | None = None
) -> PrunePlan:
    """Prune so that the state of a commit and all after it stay, and those of marks."""
    time_us = builder.records[commit - 1].time_end_us
    plan = plan_prune(store, horizon_us=time_us, marks=marks or set(), now_us=LATER_US)
    run_prune(store, plan)
    return plan


def assert_kept(store: MemoryStore, builder: ArchiveBuilder, kept: set[int]) -> set[int]:
    """Check that these commits lead to their states; return all that the archive has."""
    archive = PageArchive(store)
    numbers = {record.number for record in archive.commits()}
    assert kept <= numbers
    for number in numbers:
        assert read_state(archive, number) == builder.states[number], number
    return numbers


@pytest.mark.parametrize("seed", range(25))
def test_random_history_keeps_every_state_from_the_horizon_on(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the states that were written. Parts, gaps, forks, bases, growth and maps at random;
    pruned again and again, compacted between, and written on.
    """
    print(f"seed {seed}")
    rng = random.Random(seed)
    monkeypatch.setattr(pruning, "_OBJECT_BYTES", rng.choice([700, 4000, 1 << 20]))
    store = rng.choice([MemoryStore, RemoteStore])()
    builder = a_history(rng, store=store)
    if rng.random() < 0.5:
        other = rng.choice([PAGE_SIZE, 1024])
        builder.begin_page_size(other)
        base = a_commit(61, {1: rng.randbytes(other), 3: rng.randbytes(other)}, page_count=5,
                        kind=CommitKind.BASE, page_size=other,
                        time_us=builder.records[-1].time_end_us + 1)  # fmt: skip
        builder.write(base).flush()
    last = len(builder.records)
    horizon, marks = 0, set(rng.sample(range(1, last + 1), 4))
    for _ in range(3):
        horizon = rng.randrange(max(1, horizon), last + 1)
        plan = prune(store, builder, horizon, marks)
        kept = {*range(horizon, last + 1), *marks}
        found = assert_kept(store, builder, kept)
        if plan.horizon is not None and plan.horizon.number == horizon:
            assert found == kept, "what nobody keeps is gone"
        if rng.random() < 0.5:
            compact(store, now_us=LATER_US, grace_us=0, keep=marks, fine_window_us=LATER_US)
            assert_kept(store, builder, kept)
    report = verify_archive(store)
    assert report.ok, report
    goes_on = builder.taken_over(2).write(
        a_commit(last + 1, {1: rng.randbytes(builder.current.page_size)},
                 page_size=builder.current.page_size,
                 time_us=builder.records[-1].time_end_us + 1)
    )  # fmt: skip
    goes_on.flush()
    assert_kept(store, goes_on, {*range(horizon, last + 2), *marks})


def test_pruning_frees_what_it_says() -> None:
    """The bytes told are those of the objects that go; and nothing else goes."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 40)))
    before = {info.key: info.size for info in builder.store.list()}
    plan = prune(builder.store, builder, 30)
    after = set(keys(builder.store))

    assert sum(size for key, size in before.items() if key not in after) == sum(
        size for _, size in plan.deleted
    )
    assert len(after) < len(before) - 25


class KilledStore(MemoryStore):
    """A store whose process dies before its n-th change, once."""

    class Killed(Exception):
        """The process is gone."""

    def __init__(self, objects: dict[str, bytes], steps: int) -> None:
        super().__init__()
        for key, data in objects.items():
            super().put_new(key, data)
        self.steps = steps

    def _step(self) -> None:
        if self.steps == 0:
            raise KilledStore.Killed
        self.steps -= 1

    def put_new(self, key: str, data: bytes) -> None:
        """Write an object, or die."""
        self._step()
        super().put_new(key, data)

    def delete(self, key: str) -> None:
        """Delete an object, or die."""
        self._step()
        super().delete(key)


@pytest.mark.parametrize("seed", range(4))
def test_kill_before_every_change_loses_nothing_and_the_next_prune_cleans_up(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill at each put and delete: all kept states, no damage; later, no leftovers."""
    print(f"seed {seed}")
    monkeypatch.setattr(pruning, "_OBJECT_BYTES", [600, 1 << 20][seed % 2])
    builder = a_history(random.Random(seed), commits=25)
    objects = snapshot(builder.store)
    marks, kept = {7}, {7, *range(18, 26)}
    whole = a_store_with(objects)
    prune(whole, builder, 18, marks)
    steps = 0
    while True:
        store = KilledStore(objects, steps)
        try:
            prune(store, builder, 18, marks)
            break
        except KilledStore.Killed:
            store.steps = -1
        assert_kept(store, builder, kept)
        assert verify_archive(store).ok
        prune(store, builder, 18, marks)
        prune(store, builder, 18, marks)  # what lay there before has become a leftover
        assert_kept(store, builder, kept)
        assert keys(store, "log/") == keys(whole, "log/")
        assert verify_archive(store).ok
        steps += 1
    assert steps > 5


@pytest.mark.parametrize("store_class", [MemoryStore, RemoteStore])
def test_reader_that_listed_before_reads_on(store_class: type[MemoryStore]) -> None:
    """A state that stays is read through to its end while its objects go away under the reader."""
    builder = a_history(random.Random(3), store=store_class(), commits=30)
    archive = PageArchive(builder.store)
    source = archive.at(25)
    first = [source.page(1)]
    prune(builder.store, builder, 20)

    assert first + [source.page(n) for n in range(2, source.page_count + 1)] == builder.states[25]


def test_reader_of_a_state_that_goes_is_told() -> None:
    """It gets pages of that state or an error, never pages of another state."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 12)))
    source = PageArchive(builder.store).at(4)
    prune(builder.store, builder, 9)

    for page in range(1, 5):
        try:
            assert source.page(page) == builder.states[4][page - 1]
        except ArchiveLacks:
            continue  # exit 4


def test_writers_and_compaction_beside_prunes_lose_nothing() -> None:
    """A writer, a compaction and prunes at once, each in a thread; then every state is there."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 30)))
    store, ends, errors = builder.store, threading.Event(), []

    def compacting() -> None:
        while not ends.is_set():
            try:
                compact(store, now_us=LATER_US, grace_us=GRACE_US, fine_window_us=LATER_US)
            except ArchiveLacks:
                pass  # an input went away: it is put off
            except Exception as error:
                errors.append(error)

    thread = threading.Thread(target=compacting)
    thread.start()
    for number in range(30, 90):
        builder.write_apart(a_commit(number, {number % 4 + 1: f"commit {number}"}))
        if number % 5 == 0:
            try:
                prune(store, builder, number - 10)
            except (PrunePlanStale, ArchiveLacks):
                continue
    ends.set()
    thread.join()

    assert not errors
    prune(store, builder, 79)
    assert_kept(store, builder, set(range(79, 90)))
    assert verify_archive(store).ok


def test_archive_that_a_new_capture_has_not_written_to_is_left_alone() -> None:
    """Until its first object a new holder may go on from any state that it listed: exit 3."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 12)))
    acquire(builder.store).release()
    lease = acquire(builder.store)
    before = snapshot(builder.store)
    with pytest.raises(PreconditionFailed, match="has stored nothing yet"):
        prune(builder.store, builder, 9)
    assert snapshot(builder.store) == before

    lease.release()
    prune(builder.store, builder, 9)
    assert_kept(builder.store, builder, {9, 10, 11})


def test_parts_of_a_prune_at_work_are_not_swept() -> None:
    """A compaction beside a long prune leaves its unfinished parts for a day."""
    builder = ArchiveBuilder(bytes_max=200)
    builder.write_apart(a_base(60), *(a_commit(n, {n: f"{n}"}, page_count=60) for n in range(2, 9)))
    store = a_store_with(snapshot(builder.store))
    pruning_bytes = pruning._OBJECT_BYTES
    pruning._OBJECT_BYTES = 300
    try:
        plan = plan_prune(store, horizon_us=START_US * 2, marks=set(), now_us=LATER_US)
        written = pruning._write(store, plan)
    finally:
        pruning._OBJECT_BYTES = pruning_bytes
    assert len(written) > 2
    store.delete(written[-1])  # not written yet

    now = max(info.modified_us for info in store.list()) + 2 * GRACE_US
    sweep(store, catalog_of(store), now_us=now)
    assert set(written[:-1]) <= set(keys(store))
