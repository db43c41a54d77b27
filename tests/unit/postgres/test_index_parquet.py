"""The Parquet files of the index: what others read in them, and that damage is found."""

from __future__ import annotations

import random
from array import array
from pathlib import Path

import duckdb
import pytest

from pitr.postgres.index.packing import CODES
from pitr.postgres.index.parquet import (
    Column,
    Damaged,
    Kind,
    decode_chunk,
    decode_footer,
    encode_file,
)
from pitr.postgres.index.thrift import decode_struct

COLUMNS = (
    Column("lsn", Kind.UINT64),
    Column("time", Kind.TIME),
    Column("block", Kind.UINT32),
    Column("rmgr", Kind.UINT8),
    Column("xid", Kind.UINT32, is_optional=True),
    Column("distance", Kind.UINT64, is_optional=True),
)
Table = list[list[list[int]]]


def make_table(seed: int) -> Table:
    """Return row groups of columns of random numbers: long and short ones, equal and not."""
    rng = random.Random(seed)
    groups = []
    for number, count in enumerate(rng.sample([1, 2, 7, 8, 9, 128, 129, 3000], 3)):
        groups.append(
            [
                [rng.getrandbits(rng.choice([1, 40, 64])) for _ in range(count)],
                [rng.getrandbits(50) for _ in range(count)],
                [rng.getrandbits(rng.choice([0, 32])) for _ in range(count)],
                [rng.randrange(rng.choice([1, 22, 256])) for _ in range(count)],
                [rng.choice([0, rng.getrandbits(32)]) for _ in range(count)],
                [rng.getrandbits(64) * (number > 0) for _ in range(count)],
            ]
        )
    return groups


def encode(table: Table) -> bytes:
    groups = [
        [
            array(CODES[column.kind.width], values).tobytes()
            for column, values in zip(COLUMNS, group, strict=True)
        ]
        for group in table
    ]
    return encode_file(COLUMNS, groups, {"key": "value"}, "test")


def decode(data: bytes) -> Table:
    footer = decode_footer(data, COLUMNS, len(data))
    assert footer.properties == {"key": "value"}
    return [
        [
            decode_chunk(
                data[group.chunks[c.name].begin : group.chunks[c.name].end], c, group.rows
            ).tolist()
            for c in COLUMNS
        ]
        for group in footer.groups
    ]


@pytest.mark.parametrize("seed", range(20))
def test_file_is_read_back_and_duckdb_reads_the_same(seed: int, tmp_path: Path) -> None:
    """Types, values and bounds are Parquet's, not only ours."""
    table = make_table(seed)
    data = encode(table)
    path = tmp_path / "x.parquet"
    path.write_bytes(data)
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT lsn, epoch_us(time), block, rmgr, xid, distance FROM read_parquet(?)",
            [str(path)],
        ).fetchall()
        bounds = connection.execute(
            "SELECT path_in_schema, row_group_id, stats_min_value, stats_max_value,"
            " stats_null_count FROM parquet_metadata(?) WHERE path_in_schema <> 'time'",
            [str(path)],
        ).fetchall()

    assert decode(data) == table
    assert rows == [nulled(row) for group in table for row in zip(*group, strict=True)]
    places = {column.name: place for place, column in enumerate(COLUMNS)}
    for name, number, least, greatest, nulls in bounds:
        values = table[number][places[name]]
        present = (
            [value for value in values if value] if COLUMNS[places[name]].is_optional else values
        )
        assert nulls == len(values) - len(present)
        if present:
            assert (int(least), int(greatest)) == (min(present), max(present))
        else:
            assert (least, greatest) == (None, None)


def nulled(row: tuple[int, ...]) -> tuple[int | None, ...]:
    """Return a row as others see it."""
    pairs = zip(row, COLUMNS, strict=True)
    return tuple(value or (None if column.is_optional else 0) for value, column in pairs)


def test_bounds_of_an_optional_column_count_nulls_as_zeros() -> None:
    """As its values come back here."""
    table = make_table(3)
    data = encode(table)
    for group, values in zip(decode_footer(data, COLUMNS, len(data)).groups, table, strict=True):
        for column, one in zip(COLUMNS, values, strict=True):
            chunk = group.chunks[column.name]
            assert (chunk.least, chunk.greatest) == (min(one), max(one))


def test_damaged_file_is_refused_or_says_the_same() -> None:
    """Whatever byte is changed or cut off, what is read is right or Damaged is raised."""
    table = make_table(5)
    data = encode(table)
    footer_crc = decode_footer(data, COLUMNS, len(data)).crc
    rng = random.Random(5)
    found = 0
    for _ in range(400):
        broken = bytearray(data)
        if rng.random() < 0.1:
            del broken[rng.randrange(len(broken)) :]
        else:
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        try:
            if decode_footer(bytes(broken), COLUMNS, len(broken)).crc != footer_crc:
                found += 1  # the object's name has the checksum of the footer
                continue
            assert decode(bytes(broken)) == table
        except Damaged:
            found += 1

    assert found > 300


def test_file_of_other_columns_is_refused() -> None:
    """A reader never takes one column for another."""
    data = encode(make_table(1))

    with pytest.raises(Damaged, match="other columns"):
        decode_footer(data, tuple(reversed(COLUMNS)), len(data))


@pytest.mark.parametrize("data", [b"", b"\x15", b"\x1b\xff\xff\xff\xff\x0f", b"\x1c" * 99])
def test_metadata_that_is_cut_short_is_refused(data: bytes) -> None:
    """The protocol's reader ends with a ValueError, whatever it is given."""
    with pytest.raises(ValueError):
        decode_struct(data)
