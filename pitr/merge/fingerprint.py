"""Digests by which a plan is known again: equal exactly when all that went in is equal.

Not for secrecy: they tell an operator that rows moved, not that somebody forged them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import msgspec
import xxhash

from pitr.vocabulary.diff_row import Row

_BATCH_ROWS = 4096


def rows_digest(rows: Iterable[Row]) -> str:
    """Return the digest of a stream of rows, their order and the types of values included.

    Memory does not grow with the stream. A real and its negative zero differ here.
    """
    digest = xxhash.xxh3_128()
    encode = msgspec.msgpack.Encoder().encode
    stream = iter(rows)
    while batch := list(islice(stream, _BATCH_ROWS)):
        digest.update(encode(batch))
    return digest.hexdigest()


def fingerprint(parts: Sequence[object]) -> str:
    """Return the digest of a nested value of texts, numbers, booleans and sequences."""
    return xxhash.xxh3_128(msgspec.msgpack.encode(parts)).hexdigest()
