"""The loops over columns: the C twins and the plain-Python ones do the same, and can be undone."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable

import pytest

from pitr.postgres.index import packing
from pitr.postgres.wal.fields import EPOCH_SHIFT_US
from pitr.postgres.wal.page import advance, align

try:
    from pitr import _speedups
except ImportError:  # no compiler: then only the reference is tested
    _speedups = None  # type: ignore[assignment]

Makers = list[Callable[[random.Random, int, int], int]]
SHAPES: Makers = [
    lambda rng, bits, i: rng.getrandbits(bits),
    lambda rng, bits, i: 7,
    lambda rng, bits, i: (i * 33 + rng.randrange(3)) & ((1 << bits) - 1),
    lambda rng, bits, i: rng.choice([0, (1 << bits) - 1, 1, (1 << bits - 1) - 1, 1 << bits - 1]),
    lambda rng, bits, i: (1 << bits) - 1 - i,
]
COUNTS = [0, 1, 2, 31, 32, 33, 34, 127, 128, 129, 130, 257, 1000]


def columns() -> list[tuple[int, int, bytes]]:
    rng = random.Random(20261128)
    return [
        (width, count, array(packing.CODES[width], values).tobytes())
        for count in COUNTS
        for width in (4, 8)
        for shape in SHAPES
        for values in [[shape(rng, 8 * width, i) for i in range(count)]]
    ]


def twins(name: str) -> list[Callable[..., bytes]]:
    found = [getattr(packing, f"_{name}")]
    return [*found, getattr(_speedups, name)] if _speedups else found


def test_delta_encoding_is_undone_and_the_same_in_both_twins() -> None:
    """Whatever the integers, also where differences wrap around."""
    for width, count, column in columns():
        encoded = {encode(column, width) for encode in twins("delta_encode")}

        assert len(encoded) == 1
        for decode in twins("delta_decode"):
            assert decode(encoded.copy().pop(), width, count) == column


def test_delta_decoding_of_damaged_bytes_ends_with_an_error_or_a_column() -> None:
    """Never anything else, and both twins agree on which."""
    rng = random.Random(7)
    for width, count, column in columns():
        data = bytearray(packing._delta_encode(column, width))
        if rng.random() < 0.5:
            del data[rng.randrange(len(data)) :]
        else:
            data[rng.randrange(len(data))] = rng.randrange(256)
        outcomes = []
        for decode in twins("delta_decode"):
            try:
                outcomes.append(decode(bytes(data), width, count))
            except ValueError:
                outcomes.append(None)

        assert len(set(outcomes)) == 1
        assert outcomes[0] is None or len(outcomes[0]) == len(column)


def test_nulls_are_split_off_and_joined_again_by_both_twins() -> None:
    """A bit for each value that is not 0, the lowest first; and the column comes back."""
    rng = random.Random(13)
    for width, count, column in columns():
        values = array(packing.CODES[width], column)
        for row in rng.sample(range(count), count // 2):
            values[row] = 0
        expected = bytearray((count + 7) // 8)
        for row, value in enumerate(values):
            expected[row // 8] |= bool(value) << row % 8
        present = array(packing.CODES[width], [value for value in values if value]).tobytes()

        for split in twins("split_nulls"):
            assert split(values.tobytes(), width) == (bytes(expected), present)
        for join in twins("join_nulls"):
            assert join(bytes(expected), present, width, count) == values.tobytes()


@pytest.mark.parametrize("join", twins("join_nulls"))
@pytest.mark.parametrize(
    ("bits", "values", "count"),
    [(b"\3", 1, 3), (b"\3", 3, 3), (b"\x0b", 3, 3), (b"\1", 1, 9), (b"\1\0", 1, 8), (b"", 1, 0)],
)
def test_nulls_that_do_not_fit_are_refused(
    join: Callable[..., bytes], bits: bytes, values: int, count: int
) -> None:
    """Too few values, too many, bits behind the last row, bits of another number of rows."""
    with pytest.raises(ValueError, match="do not fit"):
        join(bits, bytes(4 * values), 4, count)


def test_rows_are_sorted_stably_and_taken_alike_by_both_twins() -> None:
    """Sorting by two columns is what sorted() says."""
    rng = random.Random(3)
    for count in COUNTS:
        high = array("I", [rng.choice([0, 5, 1 << 31]) for _ in range(count)])
        low = array("I", [rng.getrandbits(rng.choice([2, 32])) for _ in range(count)])
        expected = sorted(range(count), key=lambda row: (high[row], low[row]))
        for sort in twins("sort_rows"):
            assert array("I", sort(high.tobytes(), low.tobytes())).tolist() == expected
            assert array("I", sort(memoryview(high), memoryview(low))).tolist() == expected
        order = array("I", expected).tobytes()
        for width, code in packing.CODES.items():
            column = array(code, [rng.getrandbits(8 * width) for _ in range(count)])
            for take in twins("take_rows"):
                taken = array(code, take(column.tobytes(), width, order))
                assert taken == array(code, take(memoryview(column), width, memoryview(order)))
                assert taken.tolist() == [column[row] for row in expected]


@pytest.mark.parametrize("take", twins("take_rows"))
def test_row_number_beyond_the_column_is_refused(take: Callable[..., bytes]) -> None:
    """No twin reads past its column."""
    with pytest.raises(IndexError):
        take(bytes(8), 4, array("I", [0, 2]).tobytes())


def test_bounds_are_those_of_the_values() -> None:
    """Both twins say what min() and max() say, and refuse an empty column."""
    for width, count, column in columns():
        for bounds in twins("column_bounds"):
            if not count:
                with pytest.raises(ValueError):
                    bounds(column, width)
                continue
            values = array(packing.CODES[width], column)
            assert bounds(column, width) == (min(values), max(values))


def test_distances_to_ends_of_records_are_those_that_the_pages_give() -> None:
    """Both twins pass page headers as `advance` does, whatever the LSN and the length."""
    rng = random.Random(11)
    for segment_bytes in (1 << 20, 1 << 24):
        begins = [8 * rng.randrange(1 << 28) for _ in range(300)]
        begins += [segment_bytes * 5, segment_bytes * 5 + 8192, segment_bytes * 6 - 8]
        sizes = [rng.choice([24, 26, 34, 8152, 8153, 40_000, 3 * segment_bytes]) for _ in begins]
        lsns, lengths = array("Q", begins).tobytes(), array("I", sizes).tobytes()
        expected = [
            align(advance(lsn, size, segment_bytes)) - lsn
            for lsn, size in zip(begins, sizes, strict=True)
        ]

        for distances in twins("end_distances"):
            assert array("Q", distances(lsns, lengths, segment_bytes)).tolist() == expected


def test_times_are_taken_from_the_bytes_before_an_offset() -> None:
    """Both twins count from 1970, give 0 for what lies before, and read nothing outside."""
    times = [
        0,
        1,
        -1,
        EPOCH_SHIFT_US,
        -EPOCH_SHIFT_US,
        -EPOCH_SHIFT_US - 5,
        (1 << 63) - 1,
        -1 << 63,
    ]
    data = b"xyz" + b"".join(time.to_bytes(8, "little", signed=True) for time in times)
    ends = array("Q", range(11, len(data) + 1, 8)).tobytes()
    for take in twins("take_times"):
        found = array("Q", take(data, ends)).tolist()
        assert found == [max(time + EPOCH_SHIFT_US, 0) for time in times]
        for outside in (7, len(data) + 1, (1 << 64) - 1):
            with pytest.raises(IndexError):
                take(data, array("Q", [outside]).tobytes())


def test_other_rows_are_those_that_are_not_named() -> None:
    """In order and once, however often and in which order the others are named."""
    rng = random.Random(5)
    for count in COUNTS:
        named = [rng.randrange(count) for _ in range(count)] if count else []
        expected = sorted(set(range(count)) - set(named))
        for other in twins("other_rows"):
            found = other(count, array("I", named).tobytes())
            assert array("I", found).tolist() == expected
            with pytest.raises(IndexError):
                other(count, array("I", [*named, count]).tobytes())
