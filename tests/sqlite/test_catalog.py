"""The line: of everything that lies in the log, which objects are the history.

Names are made by hand here, with one letter for the chain at each state.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from pitr.archive.store import ObjectInfo
from pitr.sqlite.pagelog.catalog import Catalog
from pitr.sqlite.pagelog.compaction import plan, unneeded
from pitr.sqlite.pagelog.segment import Note
from tests.sqlite.builders import infos


def a_link(first: int, last: int, chains: str, *, lease: int = 1, note: str = "") -> str:
    """Return the key of a segment from one state to another: `chains` is a letter for each."""
    before, after = (8 * f"{ord(chain) % 16:x}" for chain in chains)
    name = f"log/{first:016d}-{last:016d}.0000.{lease:08d}.{before}-{after}"
    return f"{name}.{note}" if note else name


def a_part(number: int, part: int, chains: str, *, last: bool = False, lease: int = 1) -> str:
    """Return the key of a part of one large commit."""
    name = a_link(number, number, chains, lease=lease)
    return name.replace(".0000.", f".{part:04d}{'' if last else '+'}.", 1)


def line(*names: str) -> list[tuple[int, int, int]]:
    """Return (first, last, lease) of each tile of the line."""
    return [(tile.first, tile.last, tile.lease) for tile in Catalog.of(infos(*names)).tiles]


def test_empty_archive_has_no_commits() -> None:
    """Nothing listed, nothing held."""
    catalog = Catalog.of([])

    assert (catalog.first_commit, catalog.last_commit, catalog.tile_of(1)) == (0, 0, None)


def test_tile_of_finds_the_covering_tile() -> None:
    """Every commit between the first and the last is covered by its tile, others by none."""
    catalog = Catalog.of(infos(a_link(1, 3, "@a"), a_link(4, 4, "ab"), a_link(5, 9, "bc")))

    found = [catalog.tile_of(number) for number in range(11)]
    assert [tile and tile.first for tile in found] == [None, 1, 1, 1, 4, 5, 5, 5, 5, 5, None]
    assert [tile.first for tile in catalog.tiles_between(3, 4)] == [1, 4]


def test_foreign_names_are_left_alone() -> None:
    """Names that no writer gives are no segments, and never a reason to fail."""
    good = a_link(1, 3, "@a")
    names = ["log/notes.txt", good.replace("log/", "log/x"), good + ".bak", a_link(9, 2, "ab")]

    assert line(*names, good) == [(1, 3, 1)]


def test_compacted_tile_supersedes_its_inputs() -> None:
    """Of several ways between two states the longest is taken; the rest is superseded."""
    inputs = [a_link(1, 2, "@a"), a_link(3, 4, "ab"), a_link(5, 6, "bc")]
    catalog = Catalog.of(infos(*inputs, a_link(1, 4, "@b")))

    assert [(tile.first, tile.last) for tile in catalog.tiles] == [(1, 4), (5, 6)]
    assert [item.key for item in catalog.superseded] == inputs[:2]


def test_folded_tile_supersedes_the_one_it_was_made_of() -> None:
    """A tile folded in place wins over the same commits unfolded."""
    catalog = Catalog.of(infos(a_link(1, 4, "@b"), a_link(1, 4, "@b", note="coarse")))

    assert [tile.note for tile in catalog.tiles] == [Note.COARSE]


def test_special_tiles_are_those_of_the_line_that_are_named_so() -> None:
    """Bases, gaps and forks are listed by name; what a fenced writer wrote is not among them."""
    names = [
        a_link(1, 1, "@a", note="base"),
        a_link(2, 4, "ab", note="coarse"),
        a_link(5, 5, "bx", note="gap"),
        a_link(5, 5, "bc", note="fork", lease=2),
        a_link(6, 9, "cd", lease=2),
    ]

    special = Catalog.of(infos(*names)).special
    assert [(tile.first, tile.note) for tile in special] == [(1, Note.BASE), (5, Note.FORK)]


def test_missing_object_is_a_hole_with_the_rest_on_both_sides() -> None:
    """What is missing between two objects is named; what is there stays in the line."""
    catalog = Catalog.of(infos(a_link(1, 3, "@a"), a_link(7, 9, "cd"), a_link(10, 12, "de")))

    assert catalog.holes == ((4, 6),)
    assert [tile.first for tile in catalog.tiles] == [1, 7, 10]


def test_parts_without_their_end_are_no_tile() -> None:
    """A large commit whose last part never came does not exist, and is not superseded."""
    catalog = Catalog.of(
        infos(a_link(1, 1, "@a"), a_part(2, 0, "ax"), a_part(2, 1, "xy"), a_part(3, 0, "zz"))
    )

    assert catalog.last_commit == 1
    assert not catalog.superseded


@pytest.mark.parametrize("lost", range(3))
def test_large_commit_with_a_part_lost_is_a_hole(lost: int) -> None:
    """All parts make one tile; without any of them the commit is missing."""
    parts = [a_part(2, 0, "ax"), a_part(2, 1, "xy"), a_part(2, 2, "yb", last=True)]
    ends = [a_link(1, 1, "@a"), a_link(3, 3, "bc")]
    assert [len(tile.objects) for tile in Catalog.of(infos(*ends, *parts)).tiles] == [1, 3, 1]

    del parts[lost]
    assert Catalog.of(infos(*ends, *parts)).holes == ((2, 2),)


def test_parts_of_two_attempts_are_not_mixed() -> None:
    """A part follows the part whose chain it continues, not the one that has its number."""
    first = [a_part(2, 0, "ax"), a_part(2, 1, "xy")]
    second = [a_part(2, 0, "au"), a_part(2, 1, "uv"), a_part(2, 2, "vb", last=True)]
    catalog = Catalog.of(infos(a_link(1, 1, "@a"), *first, *second))

    assert [item.key for item in catalog.tiles[-1].objects] == second
    assert {item.key for item in catalog.superseded} == set(first)


# ---- writers that lost their lease ---------------------------------------------------------------


def test_zombie_segment_before_the_successor_wrote_is_replaced() -> None:
    """Lease 1 stores 4 to 5 after lease 2 has listed: from its first write on, lease 2 wins."""
    names = [a_link(1, 3, "@a"), a_link(4, 5, "ax")]
    assert line(*names) == [(1, 3, 1), (4, 5, 1)]

    assert line(*names, a_link(4, 9, "ab", lease=2)) == [(1, 3, 1), (4, 9, 2)]


def test_zombie_segment_cannot_follow_its_successor() -> None:
    """Lease 1 wakes up late and goes on from its own state: that is not the line."""
    names = [
        a_link(1, 3, "@a"),
        a_link(4, 5, "ab", lease=2),
        a_link(4, 8, "ax"),
        a_link(9, 9, "xy"),
    ]

    assert line(*names) == [(1, 3, 1), (4, 5, 2)]


def test_zombie_seen_by_a_third_writer_stays_when_the_second_wakes_up() -> None:
    """Lease 2 slept from its take-over on; what lease 3 built on may not be torn away by it."""
    names = [a_link(1, 3, "@a"), a_link(4, 5, "ax"), a_link(6, 9, "xc", lease=3)]
    late = a_link(4, 7, "ab", lease=2)

    assert line(*names, late) == [(1, 3, 1), (4, 5, 1), (6, 9, 3)]
    assert not Catalog.of(infos(*names, late)).holes


def test_compaction_over_a_take_over_keeps_the_lease_of_its_last_input() -> None:
    """Merging commits of leases 1 and 2 gives an object of lease 2, which a zombie cannot beat."""
    merged = a_link(1, 9, "@b", lease=2)
    zombie = [a_link(4, 9, "ax"), a_link(10, 12, "xy")]

    assert line(*zombie, merged) == [(1, 9, 2)]


def test_compaction_of_a_zombie_does_not_hide_the_line() -> None:
    """Lease 1 merges its own late segment with good ones: the good ones still lead to the end."""
    names = [
        a_link(1, 3, "@a"),
        a_link(4, 6, "ab", lease=2),
        a_link(4, 9, "ax"),
        a_link(1, 9, "@x"),
    ]

    assert line(*names) == [(1, 3, 1), (4, 6, 2)]


def test_overlapping_compactions_leave_a_way_through() -> None:
    """Two merges that overlap can both be there: a way without a hole is found if there is one."""
    names = [a_link(1, 6, "@b"), a_link(4, 9, "ac"), a_link(7, 9, "bc")]

    assert line(*names) == [(1, 6, 1), (7, 9, 1)]


@dataclass
class _Writer:
    lease: int
    number: int
    chain: str
    wrote: str | None = None
    on_its_way: list[str] = field(default_factory=list)


class _World:
    """Writers, compactors and sweepers of one log, each as slow as chance wants."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = 0
        self.objects: dict[str, int] = {}
        self.newest_lease = 0
        self.writers: list[_Writer] = []
        self.merges: list[str] = []
        self.deleted = 0

    def catalog(self) -> Catalog:
        listing = [ObjectInfo(key, 1000, at) for key, at in sorted(self.objects.items())]
        return Catalog.of(listing)

    def put(self, key: str) -> None:
        self.objects.setdefault(key, self.now)

    def take_over(self) -> None:
        self.newest_lease += 1
        tiles = self.catalog().tiles
        number, chain = tiles[-1].ends_at if tiles else (0, "0" * 8)
        self.writers.append(_Writer(self.newest_lease, number, chain))

    def write(self) -> None:
        """Let a writer, mostly the newest, put its next segment; or an older one that it sent."""
        writer = self.rng.choice([*self.writers[-3:], self.writers[-1]])
        if not writer.on_its_way or self.rng.random() < 0.7:
            last = writer.number + self.rng.randrange(1, 4)
            after = f"{self.rng.getrandbits(32):08x}"
            name = f"log/{writer.number + 1:016d}-{last:016d}.0000.{writer.lease:08d}"
            writer.on_its_way.append(f"{name}.{writer.chain}-{after}")
            writer.number, writer.chain = last, after
        if self.rng.random() < 0.6:
            writer.wrote = writer.on_its_way.pop(0)  # in order: a writer has one request open
            self.put(writer.wrote)

    def is_settled(self, catalog: Catalog) -> bool:
        return bool(catalog.tiles) and catalog.tiles[-1].lease >= self.newest_lease

    def begin_merge(self) -> None:
        """Plan a merge; its result may be stored much later."""
        catalog = self.catalog()
        if not self.is_settled(catalog):
            return
        begin = self.rng.randrange(len(catalog.tiles))
        tiles = catalog.tiles[begin : begin + self.rng.randrange(2, 5)]
        (_, before), (last, after) = tiles[0].begins_at, tiles[-1].ends_at
        name = f"log/{tiles[0].first:016d}-{last:016d}.0000.{tiles[-1].lease:08d}"
        self.merges.append(f"{name}.{before}-{after}")

    def end_merge(self) -> None:
        if self.merges:
            self.put(self.merges.pop(self.rng.randrange(len(self.merges))))

    def sweep(self) -> None:
        catalog = self.catalog()
        if self.is_settled(catalog):
            for key in unneeded(catalog, before_us=self.now - 5):
                del self.objects[key]
                self.deleted += 1


@pytest.mark.parametrize("seed", range(60))
def test_line_of_slow_writers_and_compactors_never_breaks(seed: int) -> None:
    """Whatever comes late, the line has no hole and ends with what the newest writer wrote."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    world = _World(rng)
    world.take_over()
    actions = [world.write, world.begin_merge, world.end_merge, world.sweep, world.take_over]
    for world.now in range(300):
        rng.choices(actions, [10, 4, 4, 3, 1])[0]()

        catalog = world.catalog()
        assert not catalog.holes
        assert catalog.first_commit in (0, 1)
        wrote = [writer for writer in world.writers if writer.wrote]
        if wrote:
            newest = max(wrote, key=lambda writer: writer.lease)
            assert newest.wrote is not None
            assert catalog.last_commit == int(newest.wrote[21:37])
            assert catalog.tiles[-1].ends_at[1] == newest.wrote[-8:]
    assert world.deleted


def test_plan_over_a_hole_merges_nothing_across_it() -> None:
    """What is not adjacent is not merged."""
    left = [a_link(n, n, f"{chr(96 + n)}{chr(97 + n)}") for n in range(1, 11)]
    right = [a_link(n, n, f"{chr(96 + n)}{chr(97 + n)}") for n in range(12, 15)]

    for merge in plan(Catalog.of(infos(*left, *right)), coarse_until=100):
        assert merge.tiles[-1].last <= 10 or merge.tiles[0].first >= 12
