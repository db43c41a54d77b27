"""A fingerprint of rows of the index that does not depend on their order and can be added up.

The sums of all columns, each times a number of its own, modulo 2^64, and the number of rows. Two
sets of rows that came from the same WAL have the same one. It tells damage, not forgery.
"""

from __future__ import annotations

from typing import NamedTuple

import xxhash

from pitr.postgres.index.rows import NAMES, Rows

_MASK = (1 << 64) - 1
_FACTORS = {name: xxhash.xxh3_64_intdigest(name.encode()) | 1 for name in NAMES}


class Fingerprint(NamedTuple):
    """How many rows, and the weighted sum of their columns."""

    rows: int = 0
    total: int = 0

    def plus(self, other: Fingerprint) -> Fingerprint:
        """Return the fingerprint of both sets of rows together."""
        return Fingerprint(self.rows + other.rows, self.total + other.total & _MASK)


NOTHING = Fingerprint()


def fingerprint_of(rows: Rows) -> Fingerprint:
    """Return the fingerprint of rows with all columns."""
    total = sum(_FACTORS[name] * sum(rows[name]) for name in NAMES)
    return Fingerprint(len(rows), total & _MASK)
