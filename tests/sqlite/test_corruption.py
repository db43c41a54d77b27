"""Damage of every kind is found: never served, always named."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import deepcopy

import pytest

from pitr.archive.lease import acquire
from pitr.errors import ArchiveLacks, Corrupt, CorruptObject, PitrError, PreconditionFailed
from pitr.sqlite.pagelog.compaction import compact
from pitr.sqlite.pagelog.dump import describe_object
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.pagemap import encode_map
from pitr.sqlite.pagelog.segment import CommitKind, SegmentWriter, page_digest
from pitr.sqlite.pagelog.verify import verify_archive
from tests.memory_store import MemoryStore
from tests.sqlite.builders import (
    START_US,
    ArchiveBuilder,
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

_LATER_US = 1 << 60


def a_small_archive() -> ArchiveBuilder:
    """Two segments with a map between them, the second with three commits."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 4)))
    builder.write_map()
    return builder.write(*small_commits(range(4, 7))).flush()


def served_wrong(store: MemoryStore, builder: ArchiveBuilder) -> list[int]:
    """Return the commits of which something was served that is not what was archived."""
    wrong = []
    for number in range(1, len(builder.records) + 1):
        try:
            state = read_state(PageArchive(store), number)
        except (Corrupt, ArchiveLacks, PreconditionFailed):
            continue
        if state != builder.states[number]:
            wrong.append(number)
    return wrong


@pytest.mark.parametrize("which", range(5))
def test_flipped_byte_anywhere_is_never_served_and_found_by_verify(which: int) -> None:
    """For each byte of each object: no wrong page is read, and verify names the object."""
    print("seed", seed := random.randrange(1 << 32))
    rng = random.Random(seed)
    builder = a_small_archive()
    objects = snapshot(builder.store)
    key = list(objects)[which]
    for at in range(len(objects[key])):
        damaged = bytearray(objects[key])
        damaged[at] ^= 1 << rng.randrange(8)
        store = a_store_with({**objects, key: bytes(damaged)})

        assert served_wrong(store, builder) == [], f"byte {at}"
        try:
            report = verify_archive(store)
        except PreconditionFailed:  # the version is now one of the future
            assert at in (12, 13)
        else:
            assert [found for found, _ in report.damaged] == [key], f"byte {at}"


@pytest.mark.parametrize("which", range(5))
def test_object_cut_short_anywhere_is_never_served(which: int) -> None:
    """A torn object of any length is refused, and verify names it."""
    builder = a_small_archive()
    objects = snapshot(builder.store)
    key = list(objects)[which]
    for length in range(0, len(objects[key]), 7):
        store = a_store_with({**objects, key: objects[key][:length]})

        assert served_wrong(store, builder) == [], f"{length} bytes"
        assert [found for found, _ in verify_archive(store).damaged] == [key]


def test_damaged_segment_is_refused_by_name() -> None:
    """The error names the object; states that do not need it are served."""
    builder = a_small_archive()
    objects = snapshot(builder.store)
    key = list(objects)[1]
    damaged = objects[key][:20] + b"?" + objects[key][21:]
    archive = PageArchive(a_store_with({**objects, key: damaged}))

    with pytest.raises(CorruptObject) as caught:
        read_state(archive, 2)
    assert caught.value.key == key
    assert read_state(archive, 1) == builder.states[1]


def test_removed_or_damaged_map_costs_nothing_but_time() -> None:
    """A map is an accelerator: every state is served without it."""
    builder = a_history(random.Random(4), commits=40, maps=False)
    map_key = builder.write_map()
    builder.write(a_commit(41, {1: "after the map"}, page_count=9)).flush()
    objects = snapshot(builder.store)
    removed = {key: data for key, data in objects.items() if key != map_key}

    for at in (40, len(objects[map_key]) // 2, len(objects[map_key]) - 60):
        damaged = bytearray(objects[map_key])
        damaged[at] ^= 1
        archive = PageArchive(a_store_with({**removed, map_key: bytes(damaged)}))
        assert read_state(archive, 41) == builder.states[41]
        assert archive.current_pages().digests == builder.current.digests
    assert read_state(PageArchive(a_store_with(removed)), 41) == builder.states[41]


def test_map_removed_while_it_is_read_costs_nothing_but_time() -> None:
    """A reader that has opened a map goes on without it when it is swept."""
    builder = a_history(random.Random(4), commits=40, maps=False)
    map_key = builder.write_map()
    source = PageArchive(builder.store).at(40)
    builder.store.delete(map_key)

    state = [source.page(page) for page in range(1, source.page_count + 1)]
    assert state == builder.states[40]


def test_object_of_another_archive_under_our_name_is_refused() -> None:
    """Two archives can have segments of one name but for the chain; contents cannot be swapped."""
    ours, theirs = (
        ArchiveBuilder().write_apart(a_base(), a_commit(2, {1: text}), a_commit(3, {2: "same"}))
        for text in ("ours", "theirs")
    )
    objects, others = snapshot(ours.store), snapshot(theirs.store)
    key = list(objects)[2]
    objects[key] = others[list(others)[2]]
    store = a_store_with(objects)

    with pytest.raises(CorruptObject) as caught:
        read_state(PageArchive(store), 3)
    assert "belongs to" in caught.value.reason
    assert served_wrong(store, ours) == []
    assert verify_archive(store).last_good_commit == 2


def test_objects_of_another_archive_under_their_own_names_do_not_mix() -> None:
    """Segments that follow no state of ours are a hole at worst, never a continuation."""
    ours, theirs = (
        ArchiveBuilder().write_apart(a_base(), a_commit(2, {1: text}), a_commit(3, {2: "same"}))
        for text in ("ours", "theirs")
    )
    objects, others = snapshot(ours.store), snapshot(theirs.store)
    mixed = {**dict(list(objects.items())[:2]), **dict(list(others.items())[2:])}

    assert served_wrong(a_store_with(mixed), ours) == []
    assert not verify_archive(a_store_with(mixed)).ok


# ---- sound checksums, wrong content --------------------------------------------------------------


def write_forged(
    store: MemoryStore,
    number: int,
    before: bytes,
    *,
    pages: Sequence[int] = (1,),
    chain: bytes | None = None,
) -> None:
    """Write a segment of one commit after a chain, with the chain that it ought not to have."""
    writer = SegmentWriter(store.put_new, page_size=512, lease=1, chain=before)
    writer.begin(
        number=number,
        kind=CommitKind.BASE if number == 1 else CommitKind.COMMIT,
        fork=0,
        time_begin_us=START_US + number - 1,
        time_end_us=START_US + number,
        page_count=4,
        wal=None,
    )
    for page in pages:
        writer.page(page, an_image(f"forged {page}"), page_digest(an_image(f"forged {page}")))
    writer.end(chain=chain)
    writer.flush()


def test_chain_that_does_not_follow_from_the_pages_is_damage() -> None:
    """Pages cannot be exchanged under a chain, even with every checksum made right."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 16)))
    write_forged(builder.store, 16, builder.current.chain, chain=b"a chosen chain..")
    key = keys(builder.store)[-1]

    report = verify_archive(builder.store)
    assert [found for found, _ in report.damaged] == [key]
    assert report.last_good_commit == 15
    with pytest.raises(CorruptObject) as caught:
        compact(builder.store, now_us=_LATER_US)
    assert caught.value.key == key


def test_pages_out_of_order_are_damage() -> None:
    """An index that a search would miss pages in is found by verify."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 4)))
    chains = {record.number: record.chain for record in builder.records}
    write_forged(builder.store, 4, chains[3], pages=(3, 1), chain=b"a chosen chain..")

    [(_, reason)] = verify_archive(builder.store).damaged
    assert "out of order" in reason


def test_segment_whose_chain_agrees_only_in_its_name_is_refused() -> None:
    """A key has four bytes of the chain; what is read is held against all sixteen."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 4)))
    alike = builder.current.chain[:4] + b"and then not"
    write_forged(builder.store, 4, alike)
    archive = PageArchive(builder.store)
    assert not archive.catalog.holes

    with pytest.raises(CorruptObject) as caught:
        archive.at(4)
    assert "chain of commits is broken" in caught.value.reason
    assert caught.value.hint == "The last good commit is commit:3."
    assert verify_archive(builder.store).last_good_commit == 3


def test_map_that_agrees_with_its_chain_only_in_its_name_is_not_used() -> None:
    """Of a map, too, all sixteen bytes count; verify finds one under another's name."""
    builder = a_small_archive()
    other = deepcopy(builder.current)
    other.chain = builder.current.chain[:4] + b"and then not"
    other.record(2, 1, builder.current.digests[1])
    builder.store.put_new(*encode_map(other))
    assert read_state(PageArchive(builder.store), 6) == builder.states[6]
    assert verify_archive(builder.store).ok

    [key, misnamed] = keys(builder.store, "map/")
    builder.store.put(misnamed, builder.store.get(key))
    assert [found for found, _ in verify_archive(builder.store).damaged] == [misnamed]


# ---- verify --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_verify_of_a_sound_archive_is_ok(seed: int) -> None:
    """A random history with parts and maps verifies, and everything was counted."""
    print(f"seed {seed}")
    builder = a_history(random.Random(seed))
    objects = snapshot(builder.store)

    report = verify_archive(builder.store)

    assert report.ok, report
    assert (report.objects, report.last_good_commit) == (len(objects), 60)
    assert report.bytes == sum(map(len, objects.values()))


@pytest.mark.parametrize("seed", range(10))
def test_verify_names_the_removed_commits_and_the_last_good_one(seed: int) -> None:
    """Without one object: exactly its commits are missing, and all before it is good."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    builder = a_history(rng)
    archive = PageArchive(builder.store)
    tile = rng.choice(archive.catalog.tiles[:-1])
    builder.store.delete(rng.choice(tile.objects).key)

    report = verify_archive(builder.store)

    assert report.holes == ((tile.first, tile.last),)
    assert report.last_good_commit == tile.first - 1
    assert not report.ok
    if tile.first > 1:
        good = PageArchive(builder.store)
        assert read_state(good, tile.first - 1) == builder.states[tile.first - 1]


def test_verify_misses_the_newest_object_by_the_lease() -> None:
    """The end of the log has no neighbour after it; the lease says how far it went."""
    builder = a_small_archive()
    lease = acquire(builder.store)
    lease.renew(head_commit=6, current_until_us=START_US, force=True)
    assert verify_archive(builder.store).ok

    builder.store.delete(keys(builder.store, "log/")[-1])

    report = verify_archive(builder.store)
    assert report.holes == ((4, 6),)
    assert report.last_good_commit == 3


@pytest.mark.parametrize("change", ["commit", "digest"])
def test_verify_finds_a_map_that_contradicts_the_log(change: str) -> None:
    """A map with sound checksums and wrong content is damaged."""
    builder = a_small_archive()
    wrong = deepcopy(builder.current)
    if change == "commit":
        wrong.record(2, 1, builder.current.digests[1])
    else:
        wrong.record(2, builder.current.commits[1], 12345)
    key, data = encode_map(wrong)
    builder.store.put_new(key, data)

    assert [found for found, _ in verify_archive(builder.store).damaged] == [key]


def test_map_of_a_fenced_writer_is_no_damage_and_not_used() -> None:
    """A map whose chain is not the line's is passed over."""
    builder = a_small_archive()
    fenced = deepcopy(builder.current)
    fenced.chain = b"another chain..."
    fenced.record(2, 1, builder.current.digests[1])
    builder.store.put_new(*encode_map(fenced))

    assert verify_archive(builder.store).ok
    assert read_state(PageArchive(builder.store), 6) == builder.states[6]


def test_verify_finds_damage_outside_the_log() -> None:
    """The lease, too, is an object of the archive; it harms no commit."""
    builder = a_small_archive()
    acquire(builder.store)
    data = builder.store.get("lease/00000001")
    builder.store.put("lease/00000001", data[:30] + b"?" + data[31:])

    report = verify_archive(builder.store)

    assert [key for key, _ in report.damaged] == ["lease/00000001"]
    assert report.last_good_commit == 6


class _Interrupted(MemoryStore):
    """A store in which something happens at the n-th reading of an object."""

    def __init__(self, at: int, event: Callable[[MemoryStore], object]) -> None:
        super().__init__()
        self.countdown = at
        self.event = event

    def get(self, key: str) -> bytes:
        self.countdown -= 1
        if self.countdown == 0:
            self.event(self)
        return super().get(key)


@pytest.mark.parametrize("at", [1, 5, 20, 41, 45, 60])
def test_verify_beside_compaction_and_sweep_finds_nothing(at: int) -> None:
    """What compaction replaces and deletes during verification is no damage."""

    def compaction(store: MemoryStore) -> None:
        for _ in range(2):
            compact(store, now_us=_LATER_US, grace_us=0)

    builder = ArchiveBuilder(_Interrupted(at, compaction)).write_apart(*small_commits(range(1, 41)))

    report = verify_archive(builder.store)

    assert report.ok, report
    assert len(keys(builder.store)) < 40


def test_compaction_of_damaged_input_refuses_and_deletes_nothing() -> None:
    """Damage is not copied on under a fresh checksum, and its neighbours are kept."""
    builder = ArchiveBuilder().write_apart(*small_commits(range(1, 41)))
    objects = snapshot(builder.store)
    key = list(objects)[20]
    store = a_store_with({**objects, key: objects[key][:20] + b"?" + objects[key][21:]})
    before = snapshot(store)

    with pytest.raises(CorruptObject) as caught:
        compact(store, now_us=_LATER_US, grace_us=0)

    assert caught.value.key == key
    assert snapshot(store) == before


# ---- the dumper ----------------------------------------------------------------------------------


def test_dump_shows_what_an_object_holds() -> None:
    """Header, sections, commits and pages of a segment; runs of a map; documents as they are."""
    builder = a_small_archive()
    acquire(builder.store)
    texts = {key: "\n".join(describe_object(data)) for key, data in snapshot(builder.store).items()}

    segment = texts[keys(builder.store, "log/")[-1]]
    for expected in ("kind SEGM", "commits      4 to 6", "commit       5, COMMIT"):
        assert expected in segment
    assert "chain        matches" in segment
    [map_key] = keys(builder.store, "map/")
    assert "pages      1 to 2: written by commit 1" in texts[map_key]
    assert '"epoch":1' in texts["lease/00000001"]
    assert not any("damaged" in text for text in texts.values())


def test_dump_of_a_part_says_that_more_follow() -> None:
    """Each part of a large commit is described by itself."""
    builder = ArchiveBuilder(bytes_max=100).write(a_base(30))
    texts = ["\n".join(describe_object(data)) for data in snapshot(builder.store).values()]

    assert all("more follow" in text for text in texts[:-1])
    assert "the last" in texts[-1]
    assert not any("damaged" in text for text in texts)


def test_dump_of_damaged_bytes_says_so_and_never_raises() -> None:
    """A dump is asked for when something is wrong: it must not fail then."""
    print("seed", seed := random.randrange(1 << 32))
    rng = random.Random(seed)
    for data in snapshot(a_small_archive().store).values():
        for _ in range(200):
            damaged = bytearray(data[: rng.choice([len(data), rng.randrange(len(data))])])
            for _ in range(rng.randrange(3)):
                if damaged:
                    damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            lines = describe_object(bytes(damaged))
            assert bytes(damaged) == data or any("damaged" in line for line in lines)


def test_errors_of_damage_lead_to_verify() -> None:
    """Whoever meets damage is told the command that shows all of it."""
    error: PitrError = CorruptObject("log/x", "It is torn.")

    assert error.exit_code == 5
    assert "pitr verify" in str(error.hint)
