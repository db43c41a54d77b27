"""Change bytes at random, as a fuzzer without coverage does: quickly, and aimed at numbers.

Everything follows from one `random.Random`, so a seed replays a run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

# Numbers at which arithmetic breaks, in the widths and byte orders of the formats.
_NUMBERS = (0, 1, 2, 3, 7, 24, 0x7F, 0x80, 0xFF, 0x100, 0x1FFF, 0x2000, 0x7FFF, 0x8000, 0xFFFF)
_NUMBERS += (0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, 1 << 63)
_NUMBERS += ((1 << 64) - 1,)
# Texts that break what reads JSON, TOML, paths, numbers and names.
_TOKENS = (
    b"-1", b"0", b"1e400", b"9" * 5000, b"18446744073709551616", b"99999999999999999999999",
    b"null", b"true", b"[]", b"{}", b'""', b'"x"', b"\\ud800", b"\\u0000", b"../", b"/", b"\0",
    b"\xff\xfe",
    "\u0660".encode(), b"[" * 2000, b'{"a":' * 2000, b"\x19" * 3000, b"0/0", b"FFFFFFFF/FFFFFFFF",
    b"0.1", b"\n", b"nan", b"~/", b"$$", b"/*", b"'", b"(" * 500,
)  # fmt: skip


def mutate(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return one of the seeds with one to eight changes, or parts of two seeds."""
    data = bytearray(chance.choice(seeds))
    if chance.random() < 0.05:
        other = chance.choice(seeds)
        cut = chance.randrange(len(data) + 1)
        data[cut:] = other[chance.randrange(len(other) + 1) :]
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        if not data:
            data += b"\0"
        chance.choice(_CHANGES)(chance, data)
    return bytes(data)


def _at(chance: random.Random, data: bytearray) -> int:
    # Heads and tails say more than what lies between them.
    part = chance.random()
    near = min(len(data), 128)
    if part < 0.3:
        return chance.randrange(near)
    if part < 0.5:
        return len(data) - 1 - chance.randrange(near)
    return chance.randrange(len(data))


def _flip(chance: random.Random, data: bytearray) -> None:
    data[_at(chance, data)] ^= 1 << chance.randrange(8)


def _byte(chance: random.Random, data: bytearray) -> None:
    data[_at(chance, data)] = chance.choice(
        (0, 1, 9, 0x19, 0x7F, 0x80, 0xFF, chance.randrange(256))
    )


def _number(chance: random.Random, data: bytearray) -> None:
    width = chance.choice((1, 2, 4, 8))
    value = chance.choice(_NUMBERS) & ((1 << 8 * width) - 1)
    at = _at(chance, data)
    data[at : at + width] = value.to_bytes(width, chance.choice(("little", "big")))


def _step(chance: random.Random, data: bytearray) -> None:
    at = _at(chance, data)
    data[at] = (data[at] + chance.choice((-16, -1, 1, 16))) & 0xFF


def _digits(chance: random.Random, data: bytearray) -> None:
    """Put a token where a number or a word stands, as in JSON."""
    start = _at(chance, data)
    begin = next((at for at in range(start, len(data)) if data[at : at + 1].isalnum()), start)
    end = begin
    while end < len(data) and data[end : end + 1].isalnum():
        end += 1
    data[begin:end] = chance.choice(_TOKENS)


def _token(chance: random.Random, data: bytearray) -> None:
    at = _at(chance, data)
    data[at:at] = chance.choice(_TOKENS)


def _cut(chance: random.Random, data: bytearray) -> None:
    at = _at(chance, data)
    del data[at : at + chance.choice((1, 2, 4, 8, 100, len(data)))]


def _repeat(chance: random.Random, data: bytearray) -> None:
    at = _at(chance, data)
    part = data[at : at + chance.choice((1, 4, 40, 512))]
    data[at:at] = bytes(part) * chance.choice((1, 2, 50))


def _copy(chance: random.Random, data: bytearray) -> None:
    begin, to = _at(chance, data), _at(chance, data)
    size = chance.choice((1, 2, 4, 8, 64))
    data[to : to + size] = data[begin : begin + size]


_CHANGES: tuple[Callable[[random.Random, bytearray], None], ...] = (
    _flip, _byte, _byte, _number, _number, _step, _digits, _digits, _token, _cut, _repeat, _copy,
)  # fmt: skip
