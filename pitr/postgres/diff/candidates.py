"""Which rows may differ at all: told by checksums that each server makes of its own rows.

Every row falls into a bucket by a hash of its key. Two states whose buckets have the same count
and the same sum of row hashes hold the same rows there; only rows of other buckets travel. With
the state after the damage known, live is not asked: what the damage left alone is not repaired.

The hash has 64 bits. That two different buckets have one sum is left out of account: one in 2^64.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pitr.postgres.diff.alignment import AFTER, BEFORE, LIVE, AlignedTable
from pitr.postgres.diff.states import States
from pitr.postgres.tables.name import quoted
from pitr.postgres.tables.session import Connection, rows_of

_BUCKETS_MIN, _BUCKETS_MAX = 1 << 10, 1 << 18
_HASHES_RECORDS = 140_000
_RECORD_COLUMNS_MAX = 1664  # MaxTupleAttributeNumber
_WHOLE_NUMBERS = {"int2", "int4", "int8"}
Sums = dict[int, tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Limits:
    """When checksums, and the WAL, are worth while. Tables of up to `whole_bytes` travel whole.

    So do those of which more than `share_max` of the buckets differ, and `rows_a_bucket` is what a
    bucket shall have. Of those with at least `narrowed_bytes` the WAL is asked first.
    """

    whole_bytes: int = 4 << 20
    narrowed_bytes: int = 64 << 20
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
    # A table keeps its size when rows are deleted, and their number is known since a VACUUM.
    fewer, more = sorted((before.estimated_rows, against.estimated_rows))
    if 0 < fewer * 2 < more:
        return None
    count = _BUCKETS_MIN
    while count < _BUCKETS_MAX and count * limits.rows_a_bucket < before.estimated_rows:
        count *= 2
    assert states.before is not None
    connections: Mapping[str, Connection | None] = {AFTER: states.after, LIVE: states.live}
    connection = connections[other]
    assert connection is not None
    with ThreadPoolExecutor(1) as pool:  # two servers, two connections: both at once
        first = pool.submit(_sums, states.before, table, BEFORE, count)
        now = _sums(connection, table, other, count)
        was = first.result()
    found = {bucket for bucket in was.keys() | now.keys() if was.get(bucket) != now.get(bucket)}
    if len(found) > limits.share_max * len(was.keys() | now.keys()):
        return None
    return Buckets(count, tuple(sorted(found)))


def _sums(connection: Connection, table: AlignedTable, state: str, count: int) -> Sums:
    rows = rows_of(
        connection,
        f"SELECT bucket, count(*), sum(hash)::text FROM (SELECT {_bucket(table, state, count)}"
        f" AS bucket, {_row_hash(connection, table, state)} AS hash {table.rows_in(state)})"
        " AS hashed GROUP BY bucket",
    )
    return {int(bucket): (int(rows), str(total)) for bucket, rows, total in rows}


def _row_hash(connection: Connection, table: AlignedTable, state: str) -> str:
    """Return a hash of all carried values of a row.

    They are exact or texts, so that the hash of the record tells images apart; before PostgreSQL 14
    records have none, and the text of the record is seven times as slow.
    """
    values = ", ".join(table.taken(state))
    hashed = _hashed(table, state)
    can_hash = connection.info.server_version >= _HASHES_RECORDS and _has_texts(table)
    if can_hash and len(hashed) <= _RECORD_COLUMNS_MAX:
        return f"hash_record_extended(ROW({', '.join(hashed)}), 0)"
    return f'hashtextextended((ROW({values})::text) COLLATE "C", 0)'


def _hashed(table: AlignedTable, state: str) -> list[str]:
    """Return what of a row stands for its image in the hash of a record.

    A numeric and the number of its digits behind the point: its text costs ten times as much. NaN
    and the infinities have no digits, and one hash: they are told apart by their first letter.
    """
    found = [table.key_image(column, state, "t") for column in table.key]
    for column in table.columns:
        if column.is_numeric and column.sides.keys() == table.sides.keys():
            value = f"t.{quoted(column.sides[state].name)}"
            found += [value, f"coalesce(scale({value}), ascii({value}::text))"]
        else:
            found.append(column.image(state, "t"))
    return found


def _has_texts(table: AlignedTable) -> bool:
    """Return whether no key is staged in a type whose equal values may differ, such as numeric."""
    return all(
        column.key_type is None or all(one.is_exact_key for one in column.sides.values())
        for column in table.key
    )


def _bucket(table: AlignedTable, state: str, count: int) -> str:
    values = table.taken(state)
    named = values[: len(table.key)] or values
    kinds = {column.carried for column in table.key}
    if len(table.key) == 1 and kinds <= _WHOLE_NUMBERS:
        return f"((hashint8extended(({named[0]})::int8, 1) & {count - 1})::int)"
    key = f'(ROW({", ".join(named)})::text) COLLATE "C"'
    return f"((hashtextextended({key}, 1) & {count - 1})::int)"
