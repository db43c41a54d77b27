"""The tar stream of a base backup. The input: one byte for the size of pieces, then the archive."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pitr.errors import PitrError
from pitr.postgres.base.tar import Member, TarStream
from tests.unit.postgres.test_base_tar import archive

_CHECKSUM = slice(148, 156)
_BLOCK = 512


def seeds() -> Iterator[bytes]:
    """Yield archives with and without an end mark."""
    yield b"\xff" + archive([b"one", b"", b"x" * 513])
    yield b"\7" + archive([b"two"], with_end=False)


def fuzz(data: bytes) -> None:
    """Cut the stream, as it is and with header checksums that are right; nothing leads out."""
    size = (data[0] if data else 0) * 8 + 1
    for tar in (data[1:], _sealed(data[1:])):
        with contextlib.suppress(PitrError):
            _read(tar, size)


def _read(tar: bytes, size: int) -> None:
    stream = TarStream()
    given = 0
    for at in range(0, len(tar), size):
        for part in stream.feed(tar[at : at + size]):
            if isinstance(part, Member):
                assert part.size >= 0
                assert ".." not in part.path.split("/")
                assert not part.path.startswith("/")
            else:
                given += len(part)
    assert given <= len(tar)
    stream.end()


def _sealed(tar: bytes) -> bytes:
    """Return the archive with right checksums in whatever looks like a header."""
    sealed = bytearray(tar)
    for at in range(0, len(sealed) - _BLOCK + 1, _BLOCK):
        block = sealed[at : at + _BLOCK]
        if block[257:262] == b"ustar":
            block[_CHECKSUM] = b" " * 8
            sealed[at + 148 : at + 156] = b"%06o\0 " % (sum(block) & 0o777777)
    return bytes(sealed)
