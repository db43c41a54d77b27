"""The chunks that an archive is known to have: what a dictionary would say, in little memory."""

from __future__ import annotations

import random
import tracemalloc

from pitr.postgres.backup.known import KnownChunks


def test_known_chunks_answer_as_a_dictionary_would() -> None:
    """Also where one digest lies across two neighbours, and when a chunk is added twice."""
    rng = random.Random(20261128)
    known = KnownChunks()
    expected: dict[bytes, tuple[int, int, int]] = {}
    # Few different bytes: many digests in one bucket, and many that begin inside another.
    digests = [bytes(rng.choices(b"\0\1", [9, 1], k=16)) for _ in range(5000)]
    for number, digest in enumerate(digests[:3000]):
        expected.setdefault(digest, (number % 7, number, number + 1))
        known.add(digest, number % 7, number, number + 1)

    for digest in digests:
        assert (digest in known) == (digest in expected)
        assert known.use(digest) == expected.get(digest)
    used = {digest for digest in digests if digest in expected}
    assert known.used_bytes == sum(expected[digest][2] for digest in used)


def test_a_known_chunk_takes_a_few_bytes() -> None:
    """A cluster of 10 TB has 80 million chunks: 28 bytes each, and what growing sets aside."""
    rng = random.Random(1)
    digests = [(number % 64).to_bytes(2, "big") + rng.randbytes(14) for number in range(60_000)]
    tracemalloc.start()
    try:
        known = KnownChunks()
        empty, _ = tracemalloc.get_traced_memory()
        for digest in digests:
            known.add(digest, 1, 2, 3)
        full, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (full - empty) / len(digests) < 40
