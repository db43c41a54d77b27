"""Which index objects are merged, which deleted, and which read: from their names alone."""

from __future__ import annotations

import itertools
import random

from pitr.archive.store import ObjectInfo
from pitr.postgres.index.compaction import DAY_US, HOUR_US, OBJECT_BYTES_MAX, plan, replaced
from pitr.postgres.index.name import IndexObject, cover

SEGMENT = 1 << 24
DAY = 20_000 * DAY_US


def segment(number: int, time_us: int, *, size: int = 1000, modified_us: int = 0) -> IndexObject:
    """Return the object of one segment whose last commit is at a time (0: no commit)."""
    begin = number * SEGMENT
    first = time_us and time_us - 1
    return IndexObject(1, begin, begin + SEGMENT, first, time_us, number, size, modified_us)


def merged(items: list[IndexObject]) -> IndexObject:
    """Return the name that merging these gives."""
    timed = [item for item in items if item.last_time_us]
    return IndexObject(
        1,
        items[0].begin,
        items[-1].end,
        min((i.first_time_us for i in timed), default=0),
        max((i.last_time_us for i in timed), default=0),
        7,
        sum(i.size for i in items),
    )


def tiles(items: list[IndexObject]) -> list[tuple[IndexObject, int]]:
    return [(item, 1 << 64) for item in items]


def test_hours_and_days_that_are_over_are_merged_and_nothing_else() -> None:
    """The last hour stays, the hours of the last day become one each, an older day one."""
    items = [segment(n, DAY + n * HOUR_US // 3) for n in range(3 * 24 + 7)]
    runs = plan(cover(tiles(items)))

    assert [(run[0].begin // SEGMENT, len(run)) for run in runs] == [
        (0, 16), (16, 16), (32, 16), (48, 16), (64, 8), (72, 3), (75, 3),
    ]  # fmt: skip


def test_merging_again_and_again_ends_with_one_object_a_day() -> None:
    """And what is merged already is not touched again."""
    items = [segment(n, DAY + n * HOUR_US // 10) for n in range(10 * 50)]
    for _ in range(10):
        runs = plan(cover(tiles(items)))
        if not runs:
            break
        items += [merged(run) for run in runs]
    whole = [tile.object for tile in cover(tiles(items))]

    assert not plan(cover(tiles(items)))
    assert [(i.end - i.begin) // SEGMENT for i in whole] == [240, 240, 10, *[1] * 10]


def test_sixteens_of_the_last_hour_are_merged_level_by_level() -> None:
    """A busy hour that goes on has a few large objects and fewer than sixteen small ones."""
    items = [segment(0, DAY)] + [segment(n, DAY + HOUR_US) for n in range(1, 301)]
    for _ in range(3):
        items += [merged(run) for run in plan(cover(tiles(items)))]
    whole = [tile.object for tile in cover(tiles(items))]

    assert not plan(cover(tiles(items)))
    assert [(i.end - i.begin) // SEGMENT for i in whole] == [1, 256, 16, 16, *[1] * 12]


def test_sixteen_that_are_too_large_together_are_left_alone() -> None:
    """No object grows beyond its bound, in no hour."""
    items = [segment(n, DAY, size=OBJECT_BYTES_MAX // 15) for n in range(40)]

    assert not plan(cover(tiles(items)))


def test_segments_without_commits_go_with_the_one_before() -> None:
    """An idle night's segments do not stay apart for want of a time."""
    items = [segment(0, DAY), segment(1, 0), segment(2, 0), segment(3, DAY + HOUR_US)]
    (run,) = plan(cover(tiles([*items, segment(4, DAY + 2 * HOUR_US)])))

    assert run == items[:3]


def test_gaps_and_other_sizes_are_respected() -> None:
    """Only neighbours are merged, and never more than fits."""
    items = [segment(n, DAY, size=OBJECT_BYTES_MAX // 3) for n in range(9) if n != 4]
    runs = plan(cover(tiles([*items, segment(9, DAY + HOUR_US)])))

    assert [[i.begin // SEGMENT for i in run] for run in runs] == [[0, 1, 2], [5, 6, 7]]


def test_replaced_are_those_that_an_older_larger_one_holds() -> None:
    """Not before the grace period is over, and never what only overlaps."""
    items = [segment(n, DAY) for n in range(6)]
    larger = merged(items[1:4])

    assert replaced([*items, larger], before_us=-1) == []
    assert replaced([*items, larger], before_us=0) == items[1:4]
    other = merged(items[3:6])
    assert replaced([*items, larger, other], before_us=0) == items[1:6]


def test_cover_reads_everything_once_whatever_was_merged() -> None:
    """Of random merges, as two compactions at once would leave them."""
    rng = random.Random(11)
    for _ in range(200):
        count = rng.randint(1, 12)
        items = [segment(n, DAY) for n in range(count)]
        found = list(items)
        for _ in range(rng.randint(0, 5)):
            begin = rng.randrange(count)
            found.append(merged(items[begin : rng.randint(begin, count) + 1]))
        for item in rng.sample(items, rng.randint(0, count)):
            if any(o.begin <= item.begin and item.end <= o.end for o in found if o != item):
                found.remove(item)
        rng.shuffle(found)
        parts = [(tile.begin, tile.end) for tile in cover(tiles(found))]

        assert all(a[1] == b[0] for a, b in itertools.pairwise(parts))
        assert (parts[0][0], parts[-1][1]) == (0, count * SEGMENT)


def test_objects_of_an_ancestor_count_up_to_where_it_was_left() -> None:
    """What lies beyond is another history."""
    old = [segment(n, DAY) for n in range(4)]
    new = IndexObject(2, 2 * SEGMENT, 3 * SEGMENT, 0, 0, 1)
    left = 2 * SEGMENT + 100
    found = cover([*((item, left) for item in old), (new, 1 << 64)])

    assert [(t.object.timeline, t.begin, t.end) for t in found] == [
        (1, 0, SEGMENT),
        (1, SEGMENT, 2 * SEGMENT),
        (2, 2 * SEGMENT, 3 * SEGMENT),
    ]


def test_names_that_are_not_of_the_index_are_passed_over() -> None:
    """Other files beside it, other versions' names, an empty stretch."""
    good = segment(3, DAY)
    assert IndexObject.of(ObjectInfo(good.key, 1000, 0)) == good
    empty = IndexObject(1, 5, 5, 0, 0, 0)
    for key in (good.key + "x", good.key.lower(), "index/readme", empty.key):
        assert IndexObject.of(ObjectInfo(key, 1000, 0)) is None
