"""Which rows may differ at all: told by checksums that each server makes of its own rows.

Every row falls into a bucket by a hash of its key. Two states whose buckets have the same count
and the same sum of row hashes hold the same rows there; only rows of other buckets travel. With
the state after the damage known, live is not asked: what the damage left alone is not repaired.

The hash has 64 bits. That two different buckets have one sum is left out of account: one in 2^64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pitr.postgres.diff.alignment import AFTER, BEFORE, LIVE, AlignedTable
from pitr.postgres.diff.states import States
from pitr.postgres.tables.session import Connection, rows_of

_BUCKETS_MIN, _BUCKETS_MAX = 1 << 10, 1 << 18
Sums = dict[int, tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Limits:
    """When checksums are worth while. Tables of up to `whole_bytes` travel whole.

    So do those of which more than `share_max` of the buckets differ, and `rows_a_bucket` is what a
    bucket shall have.
    """

    whole_bytes: int = 4 << 20
    share_max: float = 0.5
    rows_a_bucket: int = 64


@dataclass(frozen=True, slots=True)
class Buckets:
    """The buckets in which states differ; `count` is how many there are, a power of two."""

    count: int
    chosen: tuple[int, ...]

    def condition(self, table: AlignedTable, state: str) -> str:
        """Return the condition that a row `t` of a state is in one of them."""
        chosen = ",".join(map(str, self.chosen))
        return f"{_bucket(table, state, self.count)} IN (SELECT unnest('{{{chosen}}}'::int[]))"


def find_candidates(states: States, table: AlignedTable, limits: Limits) -> Buckets | None:
    """Return where rows may differ, None when the whole table is to be compared."""
    other = AFTER if table.after_known else LIVE
    if other not in table.sides:
        return None
    before, against = table.sides[BEFORE], table.sides[other]
    smaller = min(before.size_bytes, against.size_bytes)
    if smaller <= limits.whole_bytes or smaller * 2 < max(before.size_bytes, against.size_bytes):
        return None
    count = _BUCKETS_MIN
    while count < _BUCKETS_MAX and count * limits.rows_a_bucket < before.estimated_rows:
        count *= 2
    assert states.before is not None
    connections: Mapping[str, Connection | None] = {AFTER: states.after, LIVE: states.live}
    connection = connections[other]
    assert connection is not None
    was = _sums(states.before, table, BEFORE, count)
    now = _sums(connection, table, other, count)
    found = {bucket for bucket in was.keys() | now.keys() if was.get(bucket) != now.get(bucket)}
    if len(found) > limits.share_max * len(was.keys() | now.keys()):
        return None
    return Buckets(count, tuple(sorted(found)))


def _sums(connection: Connection, table: AlignedTable, state: str, count: int) -> Sums:
    row = f'(ROW({", ".join(table.taken(state))})::text) COLLATE "C"'
    rows = rows_of(
        connection,
        f"SELECT bucket, count(*), sum(hash)::text FROM (SELECT {_bucket(table, state, count)}"
        f" AS bucket, hashtextextended({row}, 0) AS hash {table.rows_in(state)}) AS hashed"
        " GROUP BY bucket",
    )
    return {int(bucket): (int(rows), str(total)) for bucket, rows, total in rows}


def _bucket(table: AlignedTable, state: str, count: int) -> str:
    values = table.taken(state)
    named = values[: len(table.key)] or values
    key = f'(ROW({", ".join(named)})::text) COLLATE "C"'
    return f"((hashtextextended({key}, 1) & {count - 1})::int)"
