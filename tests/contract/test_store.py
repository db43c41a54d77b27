"""What every store promises, tried on every store there is. Goal: the archive may trust any."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pitr.archive.archive import probe_conditional_put
from pitr.archive.store import ObjectExists, Store, find_object
from pitr.errors import CorruptObject, ObjectMissing
from tests.contract.conftest import StoreMaker

BAD_KEYS = [
    "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "a/./b", "a b", "a~b",
    "a%2Fb", "a\\b", "ä", "a\0b", "a\n", "a" * 513,
]  # fmt: skip
GOOD_KEYS = [
    "pitr-archive", "a/b/c/d/e", "A-z_0.9+=", "...", ".a", "a..b", "log/0001-0002.0000+.00000007",
    "mark/=C3=A4=3D", "a" * 200,
]  # fmt: skip


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
@pytest.mark.parametrize("method", ["put", "put_new"])
def test_object_written_reads_back_whole(store: Store, method: str, size: int) -> None:
    """What was written comes back byte for byte, as plain bytes, whatever its size."""
    data = random.Random(size).randbytes(size)

    getattr(store, method)("log/object", data)

    found = store.get("log/object")
    assert type(found) is bytes
    assert found == data


def test_key_of_every_allowed_form_names_its_own_object(store: Store) -> None:
    """Every character that a key may have is kept apart from every other."""
    for key in GOOD_KEYS:
        store.put_new(key, key.encode())

    assert {key: store.get(key).decode() for key in GOOD_KEYS} == {key: key for key in GOOD_KEYS}
    assert [info.key for info in store.list()] == sorted(GOOD_KEYS)


@pytest.mark.parametrize("key", BAD_KEYS)
def test_key_that_is_no_relative_path_is_refused(store: Store, key: str) -> None:
    """No key leads out of the store, whichever method is handed it."""
    for call in (
        lambda: store.put_new(key, b""),
        lambda: store.put(key, b""),
        lambda: store.get(key),
        lambda: store.get_ranges(key, [(0, 1)]),
        lambda: store.delete(key),
    ):
        with pytest.raises(ValueError, match="not an object key"):
            call()


@pytest.mark.parametrize("prefix", ["../", "/a/", "a/../b/", "log/../../x"])
def test_listing_of_prefix_that_leads_outside_is_refused(store: Store, prefix: str) -> None:
    """No prefix leads out of the store either."""
    with pytest.raises(ValueError, match="not an object key"):
        list(store.list(prefix))


def test_create_of_existing_object_is_refused_and_changes_nothing(make_store: StoreMaker) -> None:
    """put_new never replaces, also not what another process wrote."""
    make_store("archive").put_new("lease/1", b"first")

    with pytest.raises(ObjectExists) as raised:
        make_store("archive").put_new("lease/1", b"second")

    assert raised.value.key == "lease/1"
    assert make_store("archive").get("lease/1") == b"first"


def test_create_by_eight_threads_is_won_by_exactly_one(make_store: StoreMaker) -> None:
    """Of several that create one object at the same time one wins, and the object is its."""
    barrier = threading.Barrier(8)

    def contend(number: int, round_number: int) -> int | None:
        contender = make_store("archive")
        barrier.wait()
        try:
            contender.put_new(f"lease/{round_number}", b"%d" % number)
        except ObjectExists:
            return None
        return number

    with ThreadPoolExecutor(8) as threads:
        for round_number in range(5):
            results = list(threads.map(contend, range(8), [round_number] * 8))
            winners = [number for number in results if number is not None]

            assert len(winners) == 1
            assert make_store("archive").get(f"lease/{round_number}") == b"%d" % winners[0]


def test_probe_finds_that_store_honours_create_if_absent(store: Store) -> None:
    """The check that `init` makes passes here, and leaves nothing behind."""
    probe_conditional_put(store)

    assert list(store.list()) == []


def test_put_replaces_whole_object(make_store: StoreMaker) -> None:
    """After put every reader sees the new bytes and none of the old, also when fewer."""
    store = make_store("archive")
    store.put("lease/1", b"a long first version")
    assert store.get_ranges("lease/1", [(2, 6)]) == [b"long"]

    store.put("lease/1", b"short")

    assert make_store("archive").get("lease/1") == b"short"
    assert store.get_ranges("lease/1", [(0, 5)]) == [b"short"]


def test_ranges_come_in_the_order_asked(store: Store) -> None:
    """Near, far, overlapping, repeated, empty and unordered ranges each give their own bytes."""
    data = random.Random(1).randbytes(3_000_000)
    store.put_new("log/object", data)
    ranges = [
        (2_999_000, 3_000_000), (0, 10), (5, 15), (10, 20), (0, 10), (100, 100),
        (1_500_000, 1_500_004), (700, 1_700), (0, 3_000_000), (20, 21), (2_000_000, 2_000_500),
    ]  # fmt: skip

    found = store.get_ranges("log/object", ranges)

    assert found == [data[begin:end] for begin, end in ranges]
    assert {type(piece) for piece in found} == {bytes}


def test_thousand_small_ranges_equal_slices(store: Store) -> None:
    """Random sets of small ranges, as a restore asks for them, equal slices of the object."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    data = generator.randbytes(1 << 20)
    store.put_new("log/object", data)
    begins = [generator.randrange(len(data) - 2000) for _ in range(1000)]
    ranges = [(begin, begin + generator.randrange(2000)) for begin in begins]

    assert store.get_ranges("log/object", ranges) == [data[begin:end] for begin, end in ranges]
    assert store.get_ranges("log/object", []) == []


@pytest.mark.parametrize("ranges", [
    [(95, 101)], [(100, 101)], [(200, 300)], [(0, 10), (90, 200)], [(0, 10), (5_000_000, 5_000_001)]
])  # fmt: skip
def test_range_past_end_is_a_damaged_object(store: Store, ranges: list[tuple[int, int]]) -> None:
    """An object shorter than its directory says is reported, and no short bytes are served."""
    store.put_new("log/object", bytes(100))

    with pytest.raises(CorruptObject) as raised:
        store.get_ranges("log/object", ranges)

    assert raised.value.key == "log/object"


@pytest.mark.parametrize("ranges", [[(5, 4)], [(-1, 4)], [(0, 1), (5, 4)]])
def test_range_that_is_none_is_refused(store: Store, ranges: list[tuple[int, int]]) -> None:
    """A range that ends before it begins is a bug of the caller, not a reading of nothing."""
    store.put_new("log/object", bytes(100))

    with pytest.raises(ValueError, match="not a range"):
        store.get_ranges("log/object", ranges)


def test_listing_is_ordered_by_whole_keys(store: Store) -> None:
    """Keys come in the order of their characters, folders or not."""
    keys = [
        "a/z", "a-b", "a.b/c", "a+b", "a=b", "ab", "A", "a_b", "a/b/c", "a/b.c", "a/b-/d", "0/9",
        "b", "a0",
    ]  # fmt: skip
    for number, key in enumerate(keys):
        store.put_new(key, bytes(number))

    found = list(store.list())

    assert [info.key for info in found] == sorted(keys)
    assert {info.key: info.size for info in found} == {key: n for n, key in enumerate(keys)}


@pytest.mark.parametrize("prefix", ["", "l", "log", "log/", "log/000", "log/0001", "log/x", "lo/"])
def test_listing_begins_with_prefix_as_a_string(store: Store, prefix: str) -> None:
    """A prefix is the beginning of a key, wherever in a part of its path it ends."""
    keys = ["lease/1", "log/0001", "log/0001.b", "log/0002", "log2", "log/x/y/z", "map/1"]
    for key in keys:
        store.put_new(key, b"")

    found = [info.key for info in store.list(prefix)]

    assert found == sorted(key for key in keys if key.startswith(prefix))


def test_listing_of_more_than_one_page_is_complete(store: Store) -> None:
    """S3 lists a thousand objects at a time; ours are all there, in order."""
    keys = [f"log/{number:016d}" for number in range(1_103)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: store.put(key, b"x"), keys))

    assert [info.key for info in store.list("log/")] == keys
    assert [info.key for info in store.list("log/00000000000011")] == keys[1_100:]


def test_listing_of_empty_place_is_empty(store: Store) -> None:
    """A prefix without objects is no error, in a store that has some."""
    store.put_new("log/1", b"")

    assert list(store.list("map/")) == []


def test_object_is_found_by_its_whole_key_alone(store: Store) -> None:
    """A longer key that begins with it, or a folder of its name, is not the object."""
    for key in ("mark/a-b", "mark/ab", "mark/b"):
        store.put_new(key, b"")
    assert find_object(store, "mark/a") is None
    store.put_new("mark/a", b"four")

    found = find_object(store, "mark/a")
    assert found is not None
    assert (found.key, found.size) == ("mark/a", 4)
    assert find_object(store, "mark") is None


def test_modification_time_is_now(store: Store) -> None:
    """The listed time is that of the write, in microseconds since the epoch."""
    store.put_new("log/1", b"")

    (info,) = store.list()

    assert abs(info.modified_us / 1e6 - time.time()) < 60


def test_missing_object_is_named(store: Store) -> None:
    """Reading what is not there names the object and the place, by every road."""
    store.put_new("log/1", b"")

    for call in (
        lambda: store.get("log/2"),
        lambda: store.get("log/1/2"),
        lambda: store.get("log"),
        lambda: store.get_ranges("log/2", [(0, 1)]),
        lambda: store.get_ranges("log", [(0, 1)]),
    ):
        with pytest.raises(ObjectMissing) as raised:
            call()
        assert raised.value.location == store.location
        assert raised.value.key in str(raised.value)


def test_deleted_object_is_gone_and_may_come_again(store: Store) -> None:
    """After delete an object is neither read nor listed; its key is free again."""
    store.put_new("log/1", b"first")
    store.put_new("log/2", b"other")
    assert store.get_ranges("log/1", [(0, 5)]) == [b"first"]

    store.delete("log/1")

    with pytest.raises(ObjectMissing):
        store.get("log/1")
    with pytest.raises(ObjectMissing):
        store.get_ranges("log/1", [(0, 5)])
    assert [info.key for info in store.list()] == ["log/2"]
    store.put_new("log/1", b"again")
    assert store.get("log/1") == b"again"


def test_delete_of_missing_object_is_no_error(store: Store) -> None:
    """Two that sweep the same leftovers do not disturb each other."""
    store.put_new("log/1", b"")

    store.delete("log/2")
    store.delete("map/x/y")

    assert [info.key for info in store.list()] == ["log/1"]


def test_stores_at_other_prefixes_do_not_see_each_other(make_store: StoreMaker) -> None:
    """Archives side by side, also with names that begin alike, stay apart."""
    names = ["a", "ab", "a.b"]
    for name in names:
        make_store(name).put_new("pitr-archive", name.encode())

    for name in names:
        assert make_store(name).get("pitr-archive") == name.encode()
        assert [info.key for info in make_store(name).list()] == ["pitr-archive"]


def test_threads_share_one_store(store: Store) -> None:
    """Eight threads that write, read and delete through one store each see their own objects."""

    def work(number: int) -> bool:
        for turn in range(10):
            key = f"log/{number}-{turn}"
            store.put_new(key, key.encode() * 100)
            if store.get_ranges(key, [(0, len(key))]) != [key.encode()]:
                return False
            store.delete(key)
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))
    assert list(store.list()) == []
