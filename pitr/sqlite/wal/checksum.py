"""The WAL checksum: over a few bytes, and along a run of frames.

The C of `_speedups` does it at memory speed. Its twin here runs the plain algorithm too, but for
many frames at once: one Python integer holds a 64-bit lane for every frame, and the frames' own
checksums are chained afterwards, which the linearity of the checksum allows
(docs/formats/sqlite-wal.md). That is eight times as fast as a loop over words.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import struct
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Literal

Bytes = bytes | memoryview

_WORD = 0xFFFFFFFF
_FRAME_HEADER_BYTES = 24
_LANES = 256
# The values grow by less than 1.4 bits a pair and a lane has 32 bits to spare: up to 23 pairs.
_PAIRS_BETWEEN_MASKS = 16


def _wal_checksum(
    data: Bytes,
    s0: int,
    s1: int,
    big_endian: bool,  # noqa: FBT001 - the signature of the C twin
) -> tuple[int, int]:
    for first, second in struct.iter_unpack(">II" if big_endian else "<II", data):
        s0 = (s0 + first + s1) & _WORD
        s1 = (s1 + second + s0) & _WORD
    return s0, s1


def _verify_frames(
    buffer: Bytes,
    page_size: int,
    salt1: int,
    salt2: int,
    s0: int,
    s1: int,
    big_endian: bool,  # noqa: FBT001 - the signature of the C twin
) -> tuple[int, int, int]:
    frame_bytes = _FRAME_HEADER_BYTES + page_size
    frames = memoryview(buffer)[: len(buffer) // frame_bytes * frame_bytes]
    m00, m01, m11 = _matrix(page_size // 8 + 1)
    head = struct.Struct(f">8x4I{page_size}x")
    valid = 0
    for begin in range(0, len(frames), _LANES * frame_bytes):
        batch = frames[begin : begin + _LANES * frame_bytes]
        own = _own_checksums(batch, frame_bytes, big_endian=big_endian)
        for stored, p0, p1 in zip(head.iter_unpack(batch), *own, strict=True):
            n0 = (m00 * s0 + m01 * s1 + p0) & _WORD
            n1 = (m01 * s0 + m11 * s1 + p1) & _WORD
            if stored != (salt1, salt2, n0, n1):
                return valid, s0, s1
            s0, s1 = n0, n1
            valid += 1
    return valid, s0, s1


def _own_checksums(
    batch: memoryview, frame_bytes: int, *, big_endian: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return s0 and s1 of every frame, each computed from (0, 0)."""
    count = len(batch) // frame_bytes
    pairs = batch.cast("Q")
    step = frame_bytes // 8
    mask = int.from_bytes(b"\xff\xff\xff\xff\0\0\0\0" * count, "little")
    s0 = s1 = 0
    # Of the frame header the checksum covers the first pair alone, then the whole page.
    for done, column in enumerate((0, *range(3, step))):
        lanes = pairs[column::step].tobytes()
        if big_endian:
            pair = int.from_bytes(lanes, "big")
            first, second = (pair >> 32) & mask, pair & mask
        else:
            pair = int.from_bytes(lanes, "little")
            first, second = pair & mask, (pair >> 32) & mask
        s0 += first + s1
        s1 += second + s0
        if done % _PAIRS_BETWEEN_MASKS == 0:
            s0 &= mask
            s1 &= mask
    # Read as big-endian the first frame lies in the highest lane: write it out the same way.
    unpack = struct.Struct(f"{'>' if big_endian else '<'}{count}Q").unpack
    order: Literal["big", "little"] = "big" if big_endian else "little"
    return (
        unpack((s0 & mask).to_bytes(8 * count, order)),
        unpack((s1 & mask).to_bytes(8 * count, order)),
    )


@lru_cache(maxsize=8)
def _matrix(pairs: int) -> tuple[int, int, int]:
    """Return [[1, 1], [1, 2]] to the power `pairs`, modulo 2^32; it stays symmetric.

    Its entries are the Fibonacci numbers F(2k-1), F(2k), F(2k+1).
    """
    before, current = 1, 1
    for _ in range(2 * pairs - 2):
        before, current = current, (before + current) & _WORD
    return before, current, (before + current) & _WORD


# Built without a compiler there is no such module: the twins are right, only slower.
_compiled: ModuleType | None = None
if os.environ.get("PITR_PURE") != "1":
    with contextlib.suppress(ImportError):
        _compiled = importlib.import_module("pitr._speedups")

wal_checksum: Callable[[Bytes, int, int, bool], tuple[int, int]] = getattr(
    _compiled, "wal_checksum", _wal_checksum
)
verify_frames: Callable[[Bytes, int, int, int, int, int, bool], tuple[int, int, int]] = getattr(
    _compiled, "verify_frames", _verify_frames
)
