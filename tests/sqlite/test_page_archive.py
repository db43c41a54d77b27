"""Reading states out of an archive: every one equals the reference, by every way there is."""

from __future__ import annotations

import random

import pytest

from pitr.archive.object import ObjectReader
from pitr.errors import ArchiveGap, CorruptObject, OutsideWindow
from pitr.sqlite.pagelog import images, segment
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.segment import CommitKind, SegmentIndex
from tests.memory_store import MemoryStore
from tests.sqlite.builders import (
    START_US,
    ArchiveBuilder,
    RemoteStore,
    a_base,
    a_commit,
    a_history,
    a_store_with,
    an_image,
    keys,
    read_state,
    small_commits,
    snapshot,
)

SEEDS = range(30)
COMMITS = 60


def history(seed: int) -> tuple[random.Random, ArchiveBuilder, PageArchive]:
    print(f"seed {seed}")
    rng = random.Random(seed)
    store = RemoteStore() if seed % 2 else MemoryStore()
    builder = a_history(rng, commits=COMMITS, store=store)
    return rng, builder, PageArchive(store)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_history_gives_every_state_as_it_was(seed: int) -> None:
    """Every page of every commit equals the reference; growth nobody wrote reads as zeros."""
    _, builder, archive = history(seed)

    for number in range(1, COMMITS + 1):
        assert read_state(archive, number) == builder.states[number], number
    assert archive.commits() == builder.records
    assert not archive.catalog.holes


@pytest.mark.parametrize("seed", SEEDS)
def test_random_window_equals_single_states(seed: int) -> None:
    """`window` gives the same states as `at`, the records, and exactly the pages written."""
    rng, builder, archive = history(seed)
    first, last = sorted(rng.sample(range(1, COMMITS + 1), 2))

    window = archive.window(first, last)

    assert window.records == builder.records[first - 1 : last]
    for number in range(first, last + 1):
        source = window.at(number)
        source.prefetch(range(1, 100))
        state = [source.page(page) for page in range(1, source.page_count + 1)]
        assert state == builder.states[number], number
        before, after = builder.states[number - 1], builder.states[number]
        differing = {n for n, image in enumerate(after, 1) if before[n - 1 : n] != [image]}
        assert differing - window.changed(number) <= set(range(len(before) + 1, len(after) + 1))


@pytest.mark.parametrize("seed", SEEDS)
def test_current_pages_of_random_history_equal_the_writers(seed: int) -> None:
    """Capture goes on from exactly the state that the writer had in mind."""
    _, builder, archive = history(seed)

    current = archive.current_pages()

    assert (current.commit, current.chain) == (builder.current.commit, builder.current.chain)
    assert current.commits == builder.current.commits
    assert current.digests == builder.current.digests


@pytest.mark.parametrize("seed", range(6))
def test_states_without_any_map_are_the_same(seed: int) -> None:
    """Page maps only save reading: without them every state is still there."""
    _, builder, archive = history(seed)
    for key in keys(builder.store, "map/"):
        builder.store.delete(key)
    archive.refresh()

    for number in range(1, COMMITS + 1, 7):
        assert read_state(archive, number) == builder.states[number]


def test_commit_at_time_gives_the_last_one_that_had_ended() -> None:
    """At T means the last commit whose interval ended at T or before."""
    archive = PageArchive(ArchiveBuilder().write_apart(*small_commits(range(1, 30))).store)

    assert archive.commit_at_time(START_US) is None
    for number in range(1, 30):
        for microseconds in (0, 1, 999_999):
            found = archive.commit_at_time(START_US + number * 1_000_000 + microseconds)
            assert found is not None
            assert found.number == number


def test_commits_of_one_moment_give_the_last_of_them() -> None:
    """Commits of one poll share their time; at that time all of them had happened."""
    builder = ArchiveBuilder().write_apart(a_base(), a_commit(2, {1: "a"}, time_us=START_US + 5))
    times = [record.time_end_us for record in builder.records]
    same = [a_commit(number, {1: f"{number}"}, time_us=times[0]) for number in (3, 4, 5)]

    found = PageArchive(builder.write_apart(*same).store).commit_at_time(times[0])

    assert found is not None
    assert found.number == 5


@pytest.mark.parametrize("bytes_max", [1 << 20, 300])
def test_special_commits_are_found_without_any_ordinary_index(bytes_max: int) -> None:
    """Every base, gap and fork is told, by reading the objects that are named for them alone."""
    kinds = {7: CommitKind.GAP, 12: CommitKind.FORK, 30: CommitKind.GAP}
    builder = ArchiveBuilder(bytes_max=bytes_max).write_apart(a_base(9))
    for number in range(2, 41):
        pages = {page: f"{page} {number}" for page in range(1, 10)}
        builder.write_apart(a_commit(number, pages, page_count=9, kind=kinds.get(number)))
    named = [key for key in keys(builder.store) if key.endswith((".base", ".gap", ".fork"))]
    store = a_store_with({key: builder.store.get(key) for key in named})
    for key in keys(builder.store, "log/"):
        if key not in named:
            store.put_new(key, b"not to be read")

    special = PageArchive(store).special_commits()

    assert special == [r for r in builder.records if r.kind is not CommitKind.COMMIT]
    assert [record.number for record in special] == [1, 7, 12, 30]


def test_empty_archive_says_how_to_begin() -> None:
    """Before the first commit there is nothing to go back to."""
    archive = PageArchive(MemoryStore())

    with pytest.raises(OutsideWindow, match="nothing is archived"):
        archive.last_commit()
    assert archive.commits() == []


@pytest.mark.parametrize("number", [0, 31, 1000])
def test_commit_outside_the_archive_is_refused(number: int) -> None:
    """No state is invented before the first or after the last commit."""
    archive = PageArchive(ArchiveBuilder().write_apart(*small_commits(range(1, 31))).store)

    with pytest.raises(OutsideWindow) as caught:
        archive.at(number)
    assert "commit:1 to commit:30" in str(caught.value.detail)


def test_page_outside_the_state_is_a_value_error() -> None:
    """A page beyond the end of a state is the caller's mistake."""
    source = PageArchive(ArchiveBuilder().write(a_base(3)).flush().store).at(1)

    for page in (0, 4):
        with pytest.raises(ValueError):
            source.page(page)


def test_vacuum_to_another_page_size_keeps_both_sides_readable() -> None:
    """The page size belongs to a commit: states before and after have each their own."""
    builder = ArchiveBuilder(page_size=512).write_apart(a_base(6))
    builder.begin_page_size(1024)
    builder.write_map()
    pages = {page: an_image(f"large {page}", 1024) for page in (1, 2)}  # and page 3 is left out
    base = a_commit(2, pages, page_count=3, kind=CommitKind.BASE, page_size=1024)
    builder.write(base, a_commit(3, {2: "x"}, page_count=4, page_size=1024)).flush()
    archive = PageArchive(builder.store)

    assert [source.page_size for source in (archive.at(1), archive.at(2))] == [512, 1024]
    assert archive.at(2).page(2) == pages[2]
    for number in (1, 2, 3):
        assert read_state(archive, number) == builder.states[number]
        window = archive.window(1, 3).at(number)
        assert [window.page(n + 1) for n in range(window.page_count)] == builder.states[number]
    current = archive.current_pages()
    assert current.page_size == archive.page_size == 1024
    assert (current.commits, current.digests) == (builder.current.commits, builder.current.digests)


# ---- cost ----------------------------------------------------------------------------------------


def test_remote_scan_needs_few_requests() -> None:
    """Reading every page of a remote state costs a request per megabyte, not one per page."""
    store = RemoteStore()
    rng = random.Random(3)
    pages = {page: rng.randbytes(512) for page in range(1, 4001)}
    ArchiveBuilder(store).write(a_commit(1, pages, page_count=4000)).flush()
    source = PageArchive(store).at(1)
    store.requests = 0

    assert {page: source.page(page) for page in pages} == pages
    assert store.requests < 20


def test_prefetch_joins_near_pages_into_one_request() -> None:
    """Named beforehand, scattered pages of one object come in merged ranges."""
    store = RemoteStore()
    rng = random.Random(3)
    pages = {page: rng.randbytes(512) for page in range(1, 4001)}
    ArchiveBuilder(store).write(a_commit(1, pages, page_count=4000)).flush()
    source = PageArchive(store).at(1)
    store.requests = 0
    wanted = range(1, 4000, 40)

    source.prefetch([0, 5000, *wanted])

    assert store.requests <= 2
    assert [source.page(page) for page in wanted] == [pages[page] for page in wanted]
    assert store.requests <= 2


@pytest.mark.parametrize("store", [MemoryStore(), RemoteStore()])
def test_images_fetched_ahead_are_bounded(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fetched and never asked for does not fill the memory."""
    monkeypatch.setattr(images, "AHEAD_BYTES_MAX", 50 * 512)
    rng = random.Random(3)
    pages = {page: rng.randbytes(512) for page in range(1, 4001)}
    ArchiveBuilder(store).write(a_commit(1, pages, page_count=4000)).flush()
    archive = PageArchive(store)
    source = archive.at(1)

    monkeypatch.setattr(images, "_IMAGES_BYTES", 80 * 512)

    for _ in range(5):
        source.prefetch(rng.sample(range(1, 4001), 100))
        assert 0 < len(archive.images._ahead) <= 50
        for page in rng.sample(range(1, 4001), 300):
            assert source.page(page) == pages[page]
            assert len(archive.images._images) <= 80


def test_few_neighbours_are_read_locally_without_those_behind_them() -> None:
    """A selective read of a local archive costs its own pages; only a longer one reads ahead."""
    builder = ArchiveBuilder()
    rng = random.Random(3)
    pages = {page: rng.randbytes(512) for page in range(1, 401)}
    builder.write(a_commit(1, pages, page_count=400)).flush()
    archive = PageArchive(builder.store)
    source = archive.at(1)
    before = archive.bytes_read

    for page in (300, 40, 41, 42, 43, 300, 9):
        assert source.page(page) == pages[page]
    assert archive.bytes_read - before < 7 * 600

    for page in range(100, 110):
        source.page(page)
    assert archive.bytes_read - before > 30 * 512


def test_damage_in_pages_read_ahead_is_told_of_the_damaged_page_alone() -> None:
    """Of images that are fetched together one is altered: the others are served, it is not."""
    builder = ArchiveBuilder()
    rng = random.Random(3)
    pages = {page: rng.randbytes(256) * 2 for page in range(1, 201)}
    builder.write(a_commit(1, pages, page_count=200)).flush()
    [(key, data)] = snapshot(builder.store).items()
    index = SegmentIndex(ObjectReader.of_bytes(key, data, segment.KIND))
    for page, at in ((50, 40), (120, 2)):  # in the content of an image, and in its zstd header
        offset = index.offsets[page - 1] + at
        data = data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :]
    source = PageArchive(a_store_with({key: data})).at(1)

    for page in range(1, 201):
        if page in (50, 120):
            with pytest.raises(CorruptObject):
                source.page(page)
        else:
            assert source.page(page) == pages[page]


def test_selective_read_of_a_mapped_state_reads_little() -> None:
    """One page of a state right after a map costs the map's head, its block and that page."""
    builder = ArchiveBuilder()
    for number in range(1, 200):
        rng = random.Random(number)
        pages = {page: rng.randbytes(512) for page in range(1, 61)}
        builder.write(a_commit(number, pages, page_count=60)).flush()
    builder.write_map()
    builder.write(a_commit(200, {1: "new"}, page_count=60)).flush()
    archive = PageArchive(builder.store)

    assert archive.at(200).page(5) == builder.states[200][4]
    assert archive.bytes_read < 150_000 < sum(map(len, snapshot(builder.store).values())) / 30


# ---- holes, and objects that went away -----------------------------------------------------------


def without(builder: ArchiveBuilder, prefix: str) -> PageArchive:
    objects = snapshot(builder.store)
    gone = [key for key in objects if key.startswith(prefix)]
    assert gone
    return PageArchive(a_store_with({k: v for k, v in objects.items() if k not in gone}))


def test_removed_object_is_a_hole_that_names_the_good_commits_around_it() -> None:
    """States before a missing object are served, those that need it are refused by name."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 11)))
    archive = without(builder, f"log/{5:016d}")

    assert archive.catalog.holes == ((5, 5),)
    assert read_state(archive, 4) == builder.states[4]
    with pytest.raises(ArchiveGap) as caught:
        archive.at(5)
    assert caught.value.hint is not None
    assert "commit:4" in caught.value.hint
    assert "commit:6" in caught.value.hint
    with pytest.raises(ArchiveGap):
        archive.at(9)


def test_state_after_a_hole_is_served_as_far_as_a_map_knows_it() -> None:
    """A map after the hole still leads to all pages that the missing commits did not write."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 9)))
    builder.write_map()
    builder.write_apart(a_commit(9, {1: "last"}))
    archive = without(builder, f"log/{5:016d}")  # it wrote page 2
    source = archive.at(9)

    assert [source.page(page) for page in (1, 3, 4)] == [builder.states[9][n] for n in (0, 2, 3)]


def test_missing_beginning_is_never_read_as_zeros() -> None:
    """Without the base there is no state, even though the commits after it are all there."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 9)))
    archive = without(builder, f"log/{1:016d}")

    with pytest.raises(ArchiveGap, match="from commit:2 on"):
        archive.at(5)
    with pytest.raises(ArchiveGap):
        archive.current_pages()


def test_listing_that_ran_beside_a_writer_is_repeated() -> None:
    """A listing can miss the last but one object and show the last: that is no hole."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 9)))

    class Listed(MemoryStore):
        rounds = 0

        def list(self, prefix: str = ""):
            self.rounds += 1
            for info in super().list(prefix):
                if self.rounds > 1 or f"{7:016d}-" not in info.key:
                    yield info

    store = Listed()
    for key, data in snapshot(builder.store).items():
        store.put_new(key, data)

    assert not PageArchive(store).catalog.holes
