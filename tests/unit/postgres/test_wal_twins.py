"""The scan in C returns what the plain-Python reference returns, byte for byte, for any bytes.

Method: WAL with every kind of part in it, damaged by hypothesis at random places (also in length
fields, flags and ids, with the checksum made right again behind it), cut, given in pieces, read
with the wrong version. The long loop, which makes its own WAL out of random parts, runs under
`make soak`; it prints the seed. Both read exactly the bytes they are given: the C twin gets them at
the end of a mapped page behind which nothing may be touched.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import importlib.util
import mmap
import os
import random
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.postgres.wal.end import LogEnd
from pitr.postgres.wal.scan import NO_STOP
from pitr.postgres.wal.scan_reference import Scanned, scan_wal
from pitr.postgres.wal.versions import WalVersion, version_of_major
from tests.unit.postgres.wal_builder import MIB, Block, WalBuilder, encode_record, record_checksum

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pitr._speedups") is None, reason="built without a compiler"
)
PAGE_BYTES = 8192


def both(
    data: bytes | memoryview,
    lsn: int,
    state: tuple[int, int, int, int, bytes],
    version: WalVersion,
    *,
    system: int = 0,
    stop: int = NO_STOP,
) -> Scanned:
    """Scan with both, compare, and return what they agree on."""
    arguments = (
        lsn,
        *state,
        MIB,
        version.magic,
        version.image_apply,
        version.image_compressed,
        version.has_custom_rmgrs,
        version.has_toplevel_xid,
        system,
        stop,
    )
    compiled = importlib.import_module("pitr._speedups").scan_wal(data, *arguments)
    assert compiled == scan_wal(data, *arguments)
    return compiled


# ---- random WAL ----------------------------------------------------------------------------------


def random_block(rng: random.Random, number: int, version: WalVersion, *, is_first: bool) -> Block:
    image, hole, info = None, (0, 0), 0
    kind = rng.randrange(8)
    if kind == 0:
        image = bytes(8192)
    elif kind == 1:
        size = rng.randrange(1, 8192)
        image, hole = bytes(size), (rng.randrange(1, 8192), 8192 - size)
    elif kind == 2:
        image, info = bytes(rng.randrange(8192)), rng.choice(list(version.image_methods))
        hole = rng.choice([(0, 0), (24, 100)])
    return Block(
        number,
        file=(1663, rng.randrange(4), rng.randrange(2**32)),
        fork=rng.randrange(4),
        block=rng.randrange(2**32),
        data=bytes(rng.choice([0, 0, 1, 50, 3000])),
        image=image,
        hole=hole,
        image_info=info | rng.choice([0, version.image_apply]),
        is_compressed=bool(info),
        same_relation=not is_first and rng.random() < 0.5,
        will_init=rng.random() < 0.3,
    )


def random_record(rng: random.Random, prev: int, version: WalVersion) -> bytes:
    """Return a record that is right in itself, with any parts."""
    ids = sorted(rng.sample(range(33), rng.choice([0, 0, 1, 1, 1, 2, 5])))
    blocks = tuple(random_block(rng, id_, version, is_first=not n) for n, id_ in enumerate(ids))
    between = [b"", b"", b"", struct.pack("<BH", 253, 1)]
    if version.has_toplevel_xid:
        between.append(struct.pack("<BI", 252, 9))
    sizes = [8, 14, 100, 255, 256, 9000]
    rmgr = rng.choice([0, 1, 2, 4, 5, 7, 9, 10, 10, 10, 11, 11, 21])
    return encode_record(
        200 if version.has_custom_rmgrs and rng.random() < 0.05 else rmgr,
        rng.randrange(256),
        xid=rng.randrange(2**32),
        prev=prev,
        blocks=blocks,
        main=rng.randbytes(rng.choice(sizes if rmgr in (9, 10) else [0, 2, *sizes])),
        before_main=rng.choice(between),
    )


def wild_record(rng: random.Random, prev: int, version: WalVersion) -> bytes:
    """Return a record of which something cannot be, though its checksum is right."""
    kind = rng.randrange(6)
    if kind == 0:
        return encode_record(rng.choice([22, 127, 128]), prev=prev)
    if kind == 1:
        return encode_record(11, prev=rng.randrange(2**40))
    if kind == 2:
        return encode_record(11, prev=prev, before_main=rng.choice([b"\xf0", b"\xfc" + bytes(4)]))
    if kind == 3:
        return encode_record(rng.choice([9, 10]), 16 * rng.randrange(16), prev=prev, main=b"abc")
    if kind == 4:
        image = bytes(rng.choice([0, 99, 8192, 8193]))
        hole = (rng.choice([0, 24]), rng.choice([0, 24]))
        block = Block(image=image, hole=hole, image_info=rng.randrange(256))
        return encode_record(11, prev=prev, blocks=(block,))
    return damaged_record(rng, random_record(rng, prev, version))


def damaged_record(rng: random.Random, record: bytes) -> bytes:
    """Change a byte behind the header and make the checksum right again."""
    altered = bytearray(record)
    if len(record) > 24:
        altered[rng.randrange(24, min(len(record), 80))] = rng.choice([0, 1, 32, 33, 252, 254, 255])
    altered[20:24] = struct.pack("<I", record_checksum(bytes(altered)))
    return bytes(altered)


def random_wal(rng: random.Random, records: int) -> WalBuilder:
    wal = WalBuilder(major=rng.choice(range(13, 19)))
    wildness = rng.choice([0, 0, 0.02])
    for _ in range(records):
        if rng.random() < 0.02:
            wal.switch()
        make = wild_record if rng.random() < wildness else random_record
        wal.add_encoded(make(rng, wal.prev, wal.version))
    return wal


def damage(rng: random.Random, data: bytearray) -> None:
    """Flip bytes: anywhere, in page headers, or zeros in a row."""
    for _ in range(rng.choice([0, 0, 1, 1, 2, 10])):
        at = rng.randrange(len(data))
        if rng.random() < 0.4:
            at -= at % PAGE_BYTES
            at = min(len(data) - 1, at + rng.randrange(44))
        data[at] = rng.choice([0, 1, 8, 9, 0xFF, rng.randrange(256)])
        if rng.random() < 0.1:
            data[at : at + 5000] = bytes(len(data[at : at + 5000]))


def scan_random(seed: int, records: int) -> None:
    """Make WAL, damage it, and scan it in pieces with both; print nothing unless it fails."""
    rng = random.Random(seed)
    wal = random_wal(rng, records)
    data = wal.data
    damage(rng, data)
    version = wal.version if rng.random() < 0.95 else version_of_major(rng.choice(range(13, 19)))
    state: tuple[int, int, int, int, bytes] = (wal.begin, 0, 0, 0, b"")
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice([0, 1, 3])))
    for cut in [*cuts, len(data)]:
        begin = min(max(wal.begin, state[0] - rng.choice([0, 0, 7, 9000])), wal.begin + cut)
        if begin > state[0]:
            break
        stop = NO_STOP if rng.random() < 0.9 else wal.begin + rng.randrange(len(data))
        end, *moved, carry, _, _, _ = both(
            bytes(data[begin - wal.begin : cut]), begin, state, version, stop=stop
        )
        state = (*moved, carry)  # type: ignore[assignment]
        if end not in (LogEnd.CLEAN, LogEnd.TORN):
            break


@pytest.mark.parametrize("seed", range(60))
def test_twins_agree_on_random_wal(seed: int) -> None:
    """Sixty fixed seeds here, ever new ones under `make soak`."""
    scan_random(seed, records=60)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**64 - 1))
def test_twins_agree_on_any_seed(seed: int) -> None:
    """Hypothesis chooses other ones in every run."""
    scan_random(seed, records=12)


@settings(deadline=None)
@given(data=st.binary(max_size=400), at=st.integers(0, 300), version=st.integers(13, 18))
def test_twins_agree_on_bytes_that_are_no_wal(data: bytes, at: int, version: int) -> None:
    """From a position in the middle of a page, so that they are taken for records."""
    position = MIB + 64 + at // 8 * 8
    both(data, MIB + 64, (position, 0, 0, 0, b""), version_of_major(version))
    both(data, MIB, (MIB, 0, 0, 0, b""), version_of_major(version))


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_twins_agree_for_long() -> None:
    """PITR_SOAK_SECONDS of new seeds, half an hour unless told otherwise."""
    end = time.monotonic() + float(os.environ.get("PITR_SOAK_SECONDS", "1800"))
    while time.monotonic() < end:
        seed = random.SystemRandom().randrange(2**63)
        print(f"seed {seed}")
        scan_random(seed, records=random.Random(seed).choice([5, 60, 400]))


# ---- what the C twin may touch -------------------------------------------------------------------


@contextmanager
def at_the_end_of_memory(data: bytes) -> Iterator[memoryview]:
    """Give the bytes at the end of a page of memory; whoever reads behind them is killed."""
    page = mmap.PAGESIZE
    size = -(-max(len(data), 1) // page) * page
    libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    area = mmap.mmap(-1, size + page)
    view = (ctypes.c_char * (size + page)).from_buffer(area)
    start = ctypes.addressof(view)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    area[size - len(data) : size] = data
    assert libc.mprotect(start + size, page, 0) == 0
    window = memoryview(area)[size - len(data) : size]
    try:
        yield window
    finally:
        window.release()
        assert libc.mprotect(start + size, page, 3) == 0
        del view
        area.close()


@pytest.mark.parametrize("seed", range(12))
def test_compiled_scan_reads_nothing_behind_its_bytes(seed: int) -> None:
    """A read past the end of the data would end this process."""
    rng = random.Random(seed)
    wal = random_wal(rng, 20)
    version = wal.version
    for _ in range(40):
        cut = rng.randrange(len(wal.data) + 1)
        with at_the_end_of_memory(bytes(wal.data[:cut])) as window:
            both(window, wal.begin, (wal.begin, 0, 0, 0, b""), version)


@pytest.mark.parametrize(
    ("lsn", "state", "segment_bytes"),
    [
        (MIB, (MIB - 8, 0, 0, 0, b""), MIB),
        (MIB, (MIB, 0, 0, 0, b""), MIB + 1),
        (MIB, (MIB, 0, 0, 0, b""), 0),
        (MIB, (MIB, 0, 0, 0, b""), 2**31),
        (2**64 - 1, (2**64 - 1, 0, 0, 0, b""), MIB),
        (MIB, (MIB, 0, 0, 0, b"short"), MIB),
        (MIB, (MIB, 0, 0, 0, struct.pack("<II", 8, 0)), MIB),
        (MIB, (MIB, 0, 0, 0, struct.pack("<II", 2**31, 0)), MIB),
    ],
)
def test_compiled_scan_refuses_arguments_that_cannot_be(
    lsn: int, state: tuple[int, int, int, int, bytes], segment_bytes: int
) -> None:
    """Whatever its caller believes."""
    compiled = importlib.import_module("pitr._speedups").scan_wal
    with pytest.raises(ValueError, match="fit together"):
        compiled(b"", lsn, *state, segment_bytes, 0xD110, 2, 28, True, True, 0, NO_STOP)
