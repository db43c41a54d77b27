"""WAL and wal-index of SQLite. The input: one byte for which, then the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pitr.errors import PitrError
from pitr.sqlite.wal import checksum
from pitr.sqlite.wal.frame import FRAME_HEADER_BYTES, decode_frame_header, iterate_frames
from pitr.sqlite.wal.header import WAL_HEADER_BYTES, decode_wal_header
from pitr.sqlite.wal.index import decode_index

_GOLDEN = Path(__file__).resolve().parents[1] / "golden"
_PAGE_SIZE = 512


def seeds() -> Iterator[bytes]:
    """Yield the golden files that SQLite wrote."""
    yield b"\0" + (_GOLDEN / "sqlite-3.40.1.wal").read_bytes()
    yield b"\1" + (_GOLDEN / "sqlite-3.40.1.shm").read_bytes()


def fuzz(data: bytes) -> None:
    """Decode, as it is and with right checksums; the checksum in C and its reference agree."""
    if data[:1] == b"\1":
        for index in (data[1:], _sealed_index(data[1:])):
            decode_index(index)
        return
    for wal in (data[1:], _sealed_wal(data[1:])):
        with contextlib.suppress(PitrError):
            decode_wal_header(wal[:WAL_HEADER_BYTES])
        frames = wal[WAL_HEADER_BYTES:]
        frames = frames[: len(frames) // (FRAME_HEADER_BYTES + _PAGE_SIZE) * (24 + _PAGE_SIZE)]
        for _ in iterate_frames(frames, _PAGE_SIZE):
            pass
        if frames:
            decode_frame_header(frames)
            salts = decode_frame_header(frames).salts
            arguments = (_PAGE_SIZE, *salts, 1, 2, False)
            found = checksum.verify_frames(frames, *arguments)
            assert found == checksum._verify_frames(frames, *arguments)


def _sealed_wal(wal: bytes) -> bytes:
    if len(wal) < WAL_HEADER_BYTES:
        return wal
    sums = checksum.wal_checksum(wal[:24], 0, 0, bool(wal[3] & 1))
    return wal[:24] + b"".join(value.to_bytes(4, "big") for value in sums) + wal[32:]


def _sealed_index(index: bytes) -> bytes:
    if len(index) < 100:
        return index
    sums = checksum.wal_checksum(index[:40], 0, 0, False)
    copy = index[:40] + b"".join(value.to_bytes(4, "little") for value in sums)
    return copy + copy + index[96:]
