"""Shared values: positions are types with one text each, quantities have one meaning."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.vocabulary.change import TableChange, Transaction
from pitr.vocabulary.position import COMMIT_NUMBER_MAX, CommitNumber, Lsn
from pitr.vocabulary.quantity import parse_duration_us, parse_size_bytes
from pitr.vocabulary.target import RelativeTarget


@given(st.integers(min_value=1, max_value=COMMIT_NUMBER_MAX))
def test_commit_number_text_reads_back(value: int) -> None:
    """A commit number written and read is the same number."""
    number = CommitNumber(value)
    assert str(number) == f"commit:{value}"
    assert CommitNumber.parse(str(number)) == number


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_lsn_text_reads_back(value: int) -> None:
    """An LSN written and read is the same, padded with zeros or in small letters too."""
    lsn = Lsn(value)
    high, low = value >> 32, value & 0xFFFFFFFF
    assert Lsn.parse(str(lsn)) == lsn
    assert Lsn.parse(f"{high:08x}/{low:08x}") == lsn


def test_lsn_text_is_what_postgresql_prints() -> None:
    """Two hexadecimal halves in capitals, without leading zeros."""
    assert str(Lsn(0x16B3748)) == "0/16B3748"
    assert str(Lsn(0x1A_0000_00FF)) == "1A/FF"
    assert Lsn.parse("1/0").bytes_since(Lsn.parse("0/FFFFFFFF")) == 1
    assert Lsn.parse("0/10").bytes_since(Lsn.parse("0/20")) == -16


def test_positions_are_ordered_and_immutable() -> None:
    """Positions compare by value, also where their texts would not."""
    assert CommitNumber(9) < CommitNumber(10)
    assert Lsn.parse("9/0") < Lsn.parse("10/0")
    assert len({CommitNumber(1), CommitNumber(1), Lsn(1)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        CommitNumber(1).value = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        assert CommitNumber(1) < Lsn(2)  # type: ignore[operator]


@pytest.mark.parametrize(
    "text",
    ["", "4711", "commit:", "commit:0", "commit:-1", "commit:1.0", "commit: 1", "commit:1 ",
     "Commit:1", "commit:10000000000000000", "commit:\u0661", "xid:1", "commit:1\n"],
)  # fmt: skip
def test_commit_number_of_nonsense_is_refused(text: str) -> None:
    """Nothing but `commit:` and a number from 1 is a commit position."""
    with pytest.raises(ValueError):
        CommitNumber.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "0", "/", "0/", "/0", "0/G", "0x0/0", "-1/0", "0/123456789", "123456789/0", "0/1/2",
     " 0/1", "0/1 ", "0/1\n", "lsn:0/1"],
)  # fmt: skip
def test_lsn_of_nonsense_is_refused(text: str) -> None:
    """Nothing but two hexadecimal halves of at most 32 bits is an LSN."""
    with pytest.raises(ValueError):
        Lsn.parse(text)


def test_position_outside_its_range_is_refused() -> None:
    """A position cannot be made from a number that no history has."""
    for value in (0, -1, COMMIT_NUMBER_MAX + 1):
        with pytest.raises(ValueError):
            CommitNumber(value)
    for value in (-1, 2**64):
        with pytest.raises(ValueError):
            Lsn(value)


def test_relative_target_counts_back_from_the_given_clock() -> None:
    """The moment follows from whichever clock the engine reads."""
    assert RelativeTarget(600).time_us(1000) == 400


def test_changes_start_from_nothing() -> None:
    """A change says only what happened; transactions with equal contents are equal."""
    change = TableChange(table="orders", deleted=3)
    assert (change.inserted, change.updated, change.deleted) == (0, 0, 3)
    assert not any((change.dropped, change.truncated, change.rewritten))
    first = Transaction("commit:7", None, 1000, 250, "commit", (change,))
    assert first == Transaction("commit:7", None, 1000, 250, "commit", (change,))


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("250ms", 250_000),
        ("1s", 1_000_000),
        ("10m", 600_000_000),
        ("1h30m", 5_400_000_000),
        ("1 hour 30 minutes", 5_400_000_000),
        (" 7d ", 604_800_000_000),
        ("1w", 604_800_000_000),
        ("0s", 0),
    ],
)
def test_duration_is_the_sum_of_its_parts(text: str, microseconds: int) -> None:
    """Lengths of time are exact microseconds; a day has 24 hours."""
    assert parse_duration_us(text) == microseconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "10", "-1s", "+1s", "1.5h", "1,5h", "m", "10x", "1M", "1S", "1y", "30m2h", "1h1h",
     "1h, 2m", "1h and 2m", "1_0s", "\u0663s", "9999999999999d"],
)  # fmt: skip
def test_duration_of_nonsense_is_refused(text: str) -> None:
    """What is no sum of whole units, large to small, is no length of time."""
    with pytest.raises(ValueError, match=r"\.$"):
        parse_duration_us(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0B", 0),
        ("65536b", 65536),
        ("1KB", 1024),
        ("1 MiB", 1 << 20),
        ("512MB", 512 << 20),
        ("1gb", 1 << 30),
        ("2TB", 2 << 40),
    ],
)
def test_size_units_are_powers_of_1024(text: str, size: int) -> None:
    """Sizes are exact bytes, with or without the i."""
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "1", "GB", "1.5GB", "-1GB", "1G", "1XB", "1 GB 1 MB"])
def test_size_of_nonsense_is_refused(text: str) -> None:
    """A size without a unit is refused, as bytes and megabytes are a factor of a million apart."""
    with pytest.raises(ValueError, match=r"\.$"):
        parse_size_bytes(text)
