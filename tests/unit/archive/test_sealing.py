"""Sealed objects and names: what comes back, what is refused, what shows."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from itertools import pairwise

import pytest

from pitr.archive.keys import Method, Secret, create_keys, open_encrypted
from pitr.archive.sealing import (
    BLOCK_BYTES,
    HEADER_BYTES,
    Keyring,
    block_runs,
    new_keyring,
    plain_size,
    seal,
    seal_name,
    unseal,
    unseal_name,
    with_new_key,
)
from pitr.errors import CorruptObject, PreconditionFailed, WrongKey
from tests.fuzz.sealing import assemble, open_form, sections, stored
from tests.memory_store import MemoryStore

RING = new_keyring()
KEY = "log/0001"
SIZES = [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 5 * BLOCK_BYTES + 77]


@pytest.mark.parametrize("size", SIZES)
def test_what_was_sealed_comes_back_and_its_size_is_known_from_outside(size: int) -> None:
    """Every length, at the bounds of blocks too; the store's listing tells the plain length."""
    data = random.Random(size).randbytes(size)
    sealed = seal(RING, KEY, data)

    assert unseal(RING, KEY, sealed) == data
    assert plain_size(len(sealed)) == size


def test_sealed_twice_differs_in_every_block() -> None:
    """Equal objects, and equal blocks of one object, do not look alike."""
    one, other = (seal(RING, KEY, bytes(4 * BLOCK_BYTES)) for _ in range(2))
    pieces = [
        data[at : at + 64]
        for data in (one, other)
        for at in range(HEADER_BYTES, len(data), BLOCK_BYTES + 16)
    ]

    assert len(set(pieces)) == len(pieces)


DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda data: data[:-1],
    lambda data: data + b"\0",
    lambda data: data[: HEADER_BYTES + BLOCK_BYTES + 16],
    lambda data: data[:HEADER_BYTES],
    lambda data: data[: HEADER_BYTES - 1],
    lambda data: b"",
    # Blocks in another order, and one twice.
    lambda data: data[:64] + data[16464:32864] + data[64:16464] + data[32864:],
    lambda data: data[:64] + data[64:16464] * 2 + data[32864:],
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_object_that_was_cut_or_shuffled_is_refused(damage: Callable[[bytes], bytes]) -> None:
    """No whole block passes for another, and none may be missing."""
    sealed = seal(RING, KEY, random.Random(1).randbytes(3 * BLOCK_BYTES))

    with pytest.raises(CorruptObject):
        unseal(RING, KEY, damage(sealed))


def test_every_single_byte_counts() -> None:
    """A changed byte anywhere, the header included, is found."""
    sealed = seal(RING, KEY, b"a row of a table")
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises((CorruptObject, WrongKey, PreconditionFailed)):
            unseal(RING, KEY, bytes(changed))


def test_object_under_another_name_is_refused() -> None:
    """Who can write to the store cannot put one object in the place of another."""
    with pytest.raises(CorruptObject):
        unseal(RING, "log/0002", seal(RING, KEY, b"x"))


def test_object_of_another_key_says_which() -> None:
    """The id of the key stands in the object; a ring that has it opens the object."""
    other = with_new_key(RING)
    sealed = seal(other, KEY, b"x")

    with pytest.raises(WrongKey, match="no key at hand"):
        unseal(RING, KEY, sealed)
    assert unseal(other, KEY, sealed) == b"x"
    assert unseal(other, KEY, seal(RING, KEY, b"old")) == b"old"


@pytest.mark.parametrize(
    "key",
    [
        "pitr-archive",
        "wal/00000001/000000010000000000000001.00000000-00002000",
        "log/0000000000000001-0000000000000002.0000+.00000001.00000000-01234567.coarse",
        "mark/before=20the=20migration",
        "mark/" + "a" * 194,
    ],
)
def test_names_are_stable_and_lead_back(key: str) -> None:
    """One key has one stored name, with every part of a length that a file can have."""
    name = seal_name(RING, key)

    assert name == seal_name(with_new_key(RING), key)
    assert unseal_name(RING, name) == key
    assert max(map(len, name.split("/"))) <= 200
    assert name == key if key.startswith(("wal/", "pitr-")) else "migration" not in name


def test_names_of_others_are_passed_over() -> None:
    """A name of another archive, a changed one, and what never was one are no keys."""
    name = seal_name(RING, "mark/a")
    changed = name[:-2] + ("AA" if name[-2:] != "AA" else "BB")
    for foreign in (seal_name(new_keyring(), "mark/a"), changed, "mark/a", "mark/===", name + "/x"):
        assert unseal_name(RING, foreign) is None


def test_length_of_a_mark_does_not_show() -> None:
    """Names of up to 32 characters have stored names of one length."""
    lengths = {len(seal_name(RING, "mark/" + "x" * count)) for count in range(1, 33)}

    assert len(lengths) == 1


def test_runs_of_blocks_hold_the_ranges_and_no_block_twice() -> None:
    """Ranges in any order become ascending runs that do not touch."""
    random_ = random.Random(5)
    for _ in range(200):
        ranges = []
        for _ in range(random_.randrange(6)):
            begin = random_.randrange(10 * BLOCK_BYTES)
            ranges.append((begin, begin + random_.randrange(3 * BLOCK_BYTES)))
        runs = block_runs(ranges)
        assert all(a[1] < b[0] for a, b in pairwise(runs))
        for begin, end in ranges:
            held = any(a * BLOCK_BYTES <= begin and end <= b * BLOCK_BYTES for a, b in runs)
            assert held or begin == end


def test_keys_do_not_show_in_texts() -> None:
    """A ring in a traceback or a log gives nothing away."""
    ring = Keyring(b"\1" * 64, {b"12345678": b"\2" * 32}, b"12345678")

    assert repr(ring) == "Keyring(current=b'12345678')"


@pytest.mark.parametrize("cost", ['"n":8388608', '"r":8192', '"p":17', '"n":0'])
def test_key_object_that_asks_for_too_much_is_refused(cost: str) -> None:
    """A hostile store does not choose how much memory and time a passphrase takes."""
    secret = Secret(Method.PASSPHRASE, b"a passphrase", "a test")
    store = MemoryStore()
    create_keys(store, secret)
    [info] = store.list("key/")
    document = sections(open_form(store.get(info.key)))[1]
    name = cost.partition(":")[0].encode()
    forged = re.sub(name + rb":\d+", cost.encode(), document, count=1)
    hostile = stored(info.key, assemble(b"KEYS", {1: forged}, plain=[1]))

    assert forged != document
    with pytest.raises(CorruptObject, match="is damaged") as caught:
        open_encrypted(hostile, secret)
    assert "cost of a passphrase" in caught.value.reason
