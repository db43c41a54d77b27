"""Compaction: fewer objects, the same states, and at no moment fewer states than promised."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from pitr.archive.lease import acquire
from pitr.errors import ArchiveGap
from pitr.sqlite.pagelog.catalog import Catalog
from pitr.sqlite.pagelog.compaction import (
    FINE_WINDOW_US,
    GRACE_US,
    Merge,
    compact,
    plan,
    run,
    settled_catalog,
    sweep,
)
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.segment import CommitKind, CommitRecord
from pitr.sqlite.pagelog.verify import verify_archive
from tests.memory_store import MemoryStore
from tests.sqlite.builders import (
    HOUR_US,
    START_US,
    ArchiveBuilder,
    RemoteStore,
    a_base,
    a_commit,
    a_history,
    keys,
    read_state,
    small_commits,
    snapshot,
)

_LATER_US = 1 << 60
_KILOBYTE = {1: 1000 * "x"}


def catalog_of(store: MemoryStore) -> Catalog:
    return Catalog.of([*store.list("log/"), *store.list("map/")])


def compact_fully(store: MemoryStore, **options: int | Sequence[int]) -> None:
    """Compact until nothing is left to do, without waiting for the grace period."""
    for _ in range(4):
        compact(store, now_us=_LATER_US, grace_us=0, **options)


def assert_states(store: MemoryStore, builder: ArchiveBuilder, *, all_of_them: bool) -> list[int]:
    """Check that every record leads to its state; return the numbers of the records."""
    archive = PageArchive(store)
    numbers = [record.number for record in archive.commits()]
    for number in numbers:
        assert read_state(archive, number) == builder.states[number], number
    if all_of_them:
        assert numbers == list(range(1, len(builder.records) + 1))
    report = verify_archive(store)
    assert report.ok, report
    return numbers


# ---- merging inside the fine window --------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_merging_keeps_every_commit_as_it_was(seed: int) -> None:
    """Inside the fine window compaction changes nothing but the number of objects."""
    print(f"seed {seed}")
    builder = a_history(random.Random(seed))
    builder.write_apart(*(a_commit(n, {1: f"{n}"}, page_count=1) for n in range(61, 100)))
    records, objects = PageArchive(builder.store).commits(), len(keys(builder.store))

    compact_fully(builder.store, fine_window_us=_LATER_US)

    assert_states(builder.store, builder, all_of_them=True)
    assert PageArchive(builder.store).commits() == records
    assert PageArchive(builder.store).current_pages().digests == builder.current.digests
    assert len(keys(builder.store)) < objects - 20


def test_many_small_tiles_become_one() -> None:
    """Sixteen and more adjacent small objects are worth a merge, fewer are not."""
    for count, left in ((15, 15), (16, 1), (40, 1)):
        builder = ArchiveBuilder().write_apart(*small_commits(range(1, count + 2)))
        compact_fully(builder.store, fine_window_us=_LATER_US)
        assert len(keys(builder.store)) == 1 + left


@pytest.mark.parametrize("fine_window_us", [_LATER_US, 0])
def test_special_commits_keep_their_objects(fine_window_us: int) -> None:
    """Bases, gaps and forks stay as they are, so that a listing shows them for ever."""
    kinds = {20: CommitKind.GAP, 21: CommitKind.GAP, 40: CommitKind.FORK, 60: CommitKind.BASE}
    builder = ArchiveBuilder().write_apart(a_base(1))
    for number in range(2, 81):
        commit = a_commit(number, {1: f"{number}"}, page_count=1, kind=kinds.get(number))
        builder.write_apart(commit)
    special = [tile.objects for tile in catalog_of(builder.store).special]
    assert len(special) == 5

    compact_fully(builder.store, fine_window_us=fine_window_us)

    assert [tile.objects for tile in catalog_of(builder.store).special] == special
    assert len(keys(builder.store)) == 5 + 4
    assert_states(builder.store, builder, all_of_them=bool(fine_window_us))


def test_merged_object_waits_for_equals_before_it_is_merged_again() -> None:
    """A byte is copied about once a tier, not with each small object that comes after it."""
    rng = random.Random(1)
    store = MemoryStore()
    builder = ArchiveBuilder(store).write_apart(a_base(1))
    written = 0
    for number in range(2, 600):
        builder.write_apart(a_commit(number, {1: rng.randbytes(512)}, page_count=1))
        written += compact(store, now_us=_LATER_US, fine_window_us=_LATER_US).bytes_written

    size = sum(tile.size for tile in catalog_of(store).tiles)
    assert written < 6 * size
    assert len(catalog_of(store).tiles) < 40


def test_merge_output_stays_within_an_object() -> None:
    """No merge reads or writes more than 32 MiB, however many tiles there are."""
    names = []
    for number in range(1, 200):
        chain = f"{number - 1:08x}-{number:08x}"
        names.append(f"log/{number:016d}-{number:016d}.0000.00000001.{chain}")
    for size in (100, 900_000, 3 << 20, 15 << 20, 17 << 20):
        store = MemoryStore()
        listing = [type(info)(info.key, size, 0) for info in a_listing(store, names)]
        merges = plan(Catalog.of(listing), coarse_until=0)
        assert all(merge.size <= 32 << 20 for merge in merges)
        assert bool(merges) == (size < 16 << 20)


def a_listing(store: MemoryStore, names: list[str]):
    for name in names:
        store.put_new(name, b"")
    return list(store.list())


def test_plan_can_be_printed() -> None:
    """What would be done is a value that says so."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 21)))

    [merge] = plan(catalog_of(builder.store), coarse_until=0)

    assert str(merge) == f"merge commits 2 to 20: 19 objects, {merge.size} bytes"


def test_large_commits_are_left_as_they_are() -> None:
    """A commit in parts is not merged, and not merged across."""
    builder = ArchiveBuilder(bytes_max=1000).write_apart(*small_commits(range(1, 19)))
    rng = random.Random(2)
    large = {page: rng.randbytes(512) for page in range(1, 9)}
    builder.write_apart(a_commit(19, large, page_count=8))
    builder.write_apart(*(a_commit(n, {1: f"{n}"}, page_count=8) for n in range(20, 40)))
    parts = [key for key in keys(builder.store) if f"/{19:016d}-" in key]
    assert len(parts) > 1

    compact_fully(builder.store)

    assert keys(builder.store)[2:-1] == parts
    assert_states(builder.store, builder, all_of_them=False)


def test_vacuum_to_another_page_size_is_not_merged_across() -> None:
    """A segment has one page size: the run is cut where it changes."""
    builder = ArchiveBuilder(page_size=512).write_apart(*small_commits(range(1, 21)))
    builder.begin_page_size(1024)
    base = a_commit(21, {1: "21"}, page_count=1, kind=CommitKind.BASE, page_size=1024)
    after = [a_commit(n, {1: f"{n}"}, page_count=1, page_size=1024) for n in range(22, 41)]
    builder.write_apart(base, *after)

    compact_fully(builder.store, fine_window_us=_LATER_US)

    assert len(keys(builder.store)) == 4
    assert_states(builder.store, builder, all_of_them=True)


# ---- folding beyond the fine window --------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_folding_keeps_what_is_promised_and_every_kept_state_exact(seed: int) -> None:
    """Beyond the window: one state an hour, breaks, marks and map commits; each as it was."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    builder = a_history(rng, commits=120)
    marks = rng.sample(range(1, 121), 3)
    maps = {item.commit for item in catalog_of(builder.store).maps}
    parts = {tile.first for tile in catalog_of(builder.store).tiles if len(tile.objects) > 1}
    before = {record.number: record for record in builder.records}

    compact_fully(builder.store, keep=marks)

    kept = set(assert_states(builder.store, builder, all_of_them=False))
    assert kept >= {*marks, *maps, *parts, 1, 120}
    assert len(kept) < 120
    archive = PageArchive(builder.store)
    covered = 0
    for record in archive.commits():
        assert record.first_covered == covered + 1
        covered = record.number
        last, first = before[record.number], before[record.first_covered]
        assert (record.time_begin_us, record.time_end_us) == (first.time_begin_us, last.time_end_us)
        assert (record.chain, record.page_count) == (last.chain, last.page_count)
        if record.kind is not CommitKind.MERGED:
            assert record == last
    for number, record in before.items():
        if record.kind in (CommitKind.GAP, CommitKind.FORK, CommitKind.BASE):
            assert archive.record_of(number) == record
    # Growth that nobody wrote is stored as zeros where its disappearance was folded away.
    digests = archive.current_pages().digests
    assert [digest for digest in builder.current.digests if digest] == [
        digest for digest, own in zip(digests, builder.current.digests, strict=True) if own
    ]


def test_folding_leaves_one_state_an_hour() -> None:
    """Of the commits of one hour of the clock the last one stays."""
    builder = ArchiveBuilder().write_apart(a_base(1))
    start = START_US // HOUR_US * HOUR_US + HOUR_US
    for number in range(2, 200):
        at = start + number * HOUR_US // 10
        builder.write_apart(a_commit(number, {1: f"{number}"}, page_count=1, time_us=at))

    compact_fully(builder.store)

    kept = assert_states(builder.store, builder, all_of_them=False)
    assert kept == [1, *range(9, 199, 10), 199]


def test_folded_commit_is_refused_with_its_neighbours_named() -> None:
    """A target inside a merged stretch is unavailable, and the nearest ones are named."""
    commits = [a_commit(n, {1: f"{n}"}, page_count=1) for n in range(2, 30)]
    builder = ArchiveBuilder().write_apart(a_base(1), *commits)
    compact_fully(builder.store, keep=[12])

    archive = PageArchive(builder.store)
    numbers = [record.number for record in archive.commits()]
    assert 12 in numbers
    gone = next(number for number in range(13, 29) if number not in numbers)
    with pytest.raises(ArchiveGap) as caught:
        archive.at(gone)
    assert "commit:12" in str(caught.value.hint)


def test_commits_within_the_window_are_never_folded() -> None:
    """The window is counted back from now: what is younger keeps every commit."""
    builder = ArchiveBuilder()
    for number in range(1, 101):
        pages = {1: f"{number}"}
        at = START_US + number * 3 * HOUR_US // 100
        builder.write_apart(a_commit(number, pages, page_count=1, time_us=at))
    middle = builder.records[49].time_end_us

    for _ in range(4):
        compact(builder.store, now_us=middle + FINE_WINDOW_US, grace_us=-_LATER_US)

    kept = assert_states(builder.store, builder, all_of_them=False)
    assert kept[-50:] == list(range(51, 101))
    assert len(kept) < 60


def test_folding_happens_once() -> None:
    """What has been folded is not read again and again."""
    builder = a_history(random.Random(5), commits=100)
    compact_fully(builder.store)
    before = snapshot(builder.store)

    done = compact(builder.store, now_us=_LATER_US, grace_us=0)

    assert (done.merges, done.bytes_read, done.deleted) == (0, 0, 0)
    assert snapshot(builder.store) == before


# ---- leases --------------------------------------------------------------------------------------


def test_compaction_across_leases_keeps_the_successor_in_charge() -> None:
    """What was merged over a take-over cannot be replaced by the writer that lost its lease."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 11)))
    zombie = builder.taken_over(1)
    successor = builder.taken_over(2).write_apart(*small_commits(range(11, 21)))
    compact_fully(builder.store, fine_window_us=_LATER_US)
    assert len(keys(builder.store)) == 2

    zombie.write_apart(*(a_commit(n, {1: "zombie"}) for n in range(11, 40)))

    assert_states(builder.store, successor, all_of_them=True)
    assert PageArchive(builder.store).catalog.last_commit == 20
    compact_fully(builder.store, fine_window_us=_LATER_US)
    assert len(keys(builder.store)) == 2


def test_line_is_left_alone_until_the_newest_lease_has_written() -> None:
    """A new writer may go on from a state that a merge would bury: nothing is touched till then."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 21)))
    acquire(builder.store).release()
    assert acquire(builder.store).epoch == 2
    before = snapshot(builder.store)

    assert settled_catalog(builder.store) is None
    compact_fully(builder.store)
    assert snapshot(builder.store) == before

    builder.taken_over(2).write_apart(a_commit(21, {1: "21"}))
    compact_fully(builder.store)
    assert len(keys(builder.store, "log/")) == 2


def test_two_compactions_at_once_do_the_same() -> None:
    """The second finds the object there and is content."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 21)))
    [merge] = plan(catalog_of(builder.store), coarse_until=0)

    assert run(builder.store, merge) > 0
    assert run(builder.store, merge) == 0
    assert_states(builder.store, builder, all_of_them=True)


# ---- sweeping, readers, kills --------------------------------------------------------------------


def test_inputs_stay_through_the_grace_period() -> None:
    """Who listed before the merge finds everything until the grace period is over."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 21)))
    [merge] = plan(catalog_of(builder.store), coarse_until=0)
    run(builder.store, merge)
    catalog = catalog_of(builder.store)
    stored_us = max(info.modified_us for info in builder.store.list())

    assert sweep(builder.store, catalog, now_us=stored_us + GRACE_US - 1) == []
    assert len(sweep(builder.store, catalog, now_us=stored_us + GRACE_US)) == 19
    assert_states(builder.store, builder, all_of_them=True)


def test_sweep_keeps_what_covers_a_hole() -> None:
    """A superseded object is kept as long as the line lacks any of its commits."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 21)))
    zombie = builder.taken_over(1)
    successor = builder.taken_over(2).write_apart(*small_commits(range(21, 31)))
    zombie.write(*(a_commit(n, {1: "zombie"}) for n in range(21, 27))).flush()
    for key in keys(successor.store, f"log/{24:016d}"):
        successor.store.delete(key)
    catalog = catalog_of(successor.store)
    assert catalog.holes == ((24, 24),)

    swept = sweep(successor.store, catalog, now_us=_LATER_US)

    assert not [key for key in swept if f"{26:016d}" in key]


def test_old_maps_are_thinned_to_the_newest_and_one_a_day() -> None:
    """The newest eight maps stay, of older ones the last of each day."""
    day = 86_400_000_000
    names = [(f"map/{n:016d}.00000000", n * day // 5) for n in range(100)]
    store = MemoryStore()
    for name, at in names:
        store._objects[name] = (b"", at)

    sweep(store, catalog_of(store), now_us=_LATER_US)

    left = [int(key[4:20]) for key in keys(store)]
    assert left == [*range(4, 90, 5), 91, *range(92, 100)]


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_reader_with_an_old_listing_finds_everything_after_the_sweep(
    seed: int, remote: bool
) -> None:
    """Objects that a reader knows by name vanish: it looks once more, and reads the same."""
    print(f"seed {seed}")
    store = RemoteStore() if remote else MemoryStore()
    builder = a_history(random.Random(seed), store=store)
    builder.write_apart(*(a_commit(n, {1: f"{n}"}, page_count=1) for n in range(61, 90)))
    with_window, with_nothing = PageArchive(store), PageArchive(store)
    window = with_window.window(1, 89)

    compact_fully(store, fine_window_us=_LATER_US)
    for item in PageArchive(store).catalog.maps:
        store.delete(item.key)

    for number in range(1, 90):
        source = window.at(number)
        source.prefetch(range(1, 50))
        state = [source.page(page) for page in range(1, source.page_count + 1)]
        assert state == builder.states[number], number
        assert read_state(with_nothing, number) == builder.states[number]
    assert with_nothing.last_commit().number == 89


def test_reader_whose_state_was_folded_away_is_told_so() -> None:
    """A state that went beyond the fine window while it was read is refused, never mixed."""
    builder = ArchiveBuilder().write_apart(a_base(1))
    builder.write_apart(*(a_commit(n, {1: f"{n}"}, page_count=1) for n in range(2, 30)))
    window = PageArchive(builder.store).window(1, 29)
    compact_fully(builder.store)
    kept = [record.number for record in PageArchive(builder.store).commits()]

    for number in range(1, 30):
        if number in kept:
            assert window.at(number).page(1) == builder.states[number][0]
        else:
            with pytest.raises(ArchiveGap):
                window.at(number).page(1)


class _Killed(Exception):
    pass


class _Dying(MemoryStore):
    """A store whose user dies at the n-th change."""

    changes_left = 1 << 60

    def _change(self) -> None:
        if self.changes_left == 0:
            raise _Killed
        self.changes_left -= 1

    def put_new(self, key: str, data: bytes) -> None:
        self._change()
        super().put_new(key, data)

    def delete(self, key: str) -> None:
        self._change()
        super().delete(key)


@pytest.mark.parametrize("fine_window_us", [_LATER_US, 0])
def test_compaction_killed_at_any_change_leaves_every_state(fine_window_us: int) -> None:
    """After each single put and delete the archive is whole, and the next run finishes."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 25)))
    builder.write_map()
    objects = snapshot(builder.store)
    for changes in range(60):
        store = _Dying()
        for key, data in objects.items():
            store.put_new(key, data)
        store.changes_left = changes
        try:
            compact_fully(store, fine_window_us=fine_window_us)
        except _Killed:
            store.changes_left = 1 << 60
            assert_states(store, builder, all_of_them=fine_window_us > 0)
            compact_fully(store, fine_window_us=fine_window_us)
        assert_states(store, builder, all_of_them=fine_window_us > 0)
        assert len(keys(store, "log/")) == 2


def test_compaction_stops_between_two_objects_when_asked() -> None:
    """A capture that is told to stop does not wait for a long compaction."""
    builder = a_history(random.Random(9), commits=100)
    asked = iter([False, True])

    done = compact(builder.store, now_us=_LATER_US, should_stop=lambda: next(asked))

    assert done.merges == 1


def test_groups_of_a_plan_keep_what_it_names() -> None:
    """A plan carries the commits to keep, so that it can be printed and run later."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 21)))
    catalog = catalog_of(builder.store)

    [merge] = plan(catalog, coarse_until=20, keep=[3, 7, 99])

    assert merge == Merge(catalog.tiles[1:], coarse=True, keep=frozenset({3, 7}))
    run(builder.store, merge)
    records: list[CommitRecord] = PageArchive(builder.store).commits()
    assert {3, 7} <= {record.number for record in records}
