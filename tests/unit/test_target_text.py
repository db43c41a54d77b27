"""Target texts: one meaning for each accepted form, a right form shown for each refused one."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import whenever
from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.errors import UsageError
from pitr.target_text import (
    format_age,
    format_local,
    format_time,
    machine_zone_name,
    parse_target,
)
from pitr.vocabulary.position import CommitNumber, Lsn
from pitr.vocabulary.target import (
    CommitTarget,
    LatestTarget,
    LsnTarget,
    NameTarget,
    RelativeTarget,
    Target,
    TimeTarget,
    XidTarget,
)

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US


def utc_us(text: str) -> int:
    """Return the microseconds of `YYYY-MM-DD HH:MM:SS[.ffffff]` in UTC, by the standard library."""
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    whole = int(moment.replace(microsecond=0).timestamp())
    return whole * SECOND_US + moment.microsecond


NOW_US = utc_us("2026-11-22 12:30:00")


@pytest.fixture(autouse=True)
def _machine_in_paris(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Paris")
    yield
    monkeypatch.undo()
    time.tzset()
    whenever.reset_system_tz()


def parse(text: str, zone: str | None = None) -> Target:
    return parse_target(text, now_us=NOW_US, zone=zone)


def parse_time(text: str, zone: str | None = None) -> TimeTarget:
    target = parse(text, zone)
    assert isinstance(target, TimeTarget)
    return target


def refusal(text: str, zone: str | None = None) -> UsageError:
    with pytest.raises(UsageError) as caught:
        parse(text, zone)
    return caught.value


# Text with its own offset or zone, and the same moment in UTC.
ABSOLUTE = [
    ("2026-11-22T14:03:00+01:00", "2026-11-22 13:03:00"),
    ("2026-11-22 14:03:00+01:00", "2026-11-22 13:03:00"),
    ("2026-11-22t14:03:00z", "2026-11-22 14:03:00"),
    ("2026-11-22T14:03:00Z", "2026-11-22 14:03:00"),
    ("2026-11-22 14:03Z", "2026-11-22 14:03:00"),
    ("2026-11-22 14:03 Z", "2026-11-22 14:03:00"),
    ("2026-11-22 14:03 UTC", "2026-11-22 14:03:00"),
    ("2026-11-22 14:03 utc", "2026-11-22 14:03:00"),
    ("2026-11-22 14:03 GMT", "2026-11-22 14:03:00"),
    ("2026-11-22 14:03:00+00", "2026-11-22 14:03:00"),
    ("2026-11-22 14:03:00-00:00", "2026-11-22 14:03:00"),
    ("2026-11-22 14:03:00-03", "2026-11-22 17:03:00"),
    ("2026-11-22 14:03:00 -03", "2026-11-22 17:03:00"),
    ("2026-11-22 14:03:00+0530", "2026-11-22 08:33:00"),
    ("2026-11-22 14:03:00+05:30", "2026-11-22 08:33:00"),
    ("2026-11-22 14:03:00-09:30", "2026-11-22 23:33:00"),
    ("2026-11-22 14:03:00+14:00", "2026-11-22 00:03:00"),
    ("2026-11-22 00:30:00+01", "2026-11-21 23:30:00"),
    ("1880-01-01 00:00:00+00:09:21", "1879-12-31 23:50:39"),
    ("1880-01-01 00:00:00-000921", "1880-01-01 00:09:21"),
    ("2026-11-22 14:03+01", "2026-11-22 13:03:00"),
    ("2026-11-22 14:03:00.5Z", "2026-11-22 14:03:00.500000"),
    ("2026-11-22 14:03:00.123Z", "2026-11-22 14:03:00.123000"),
    ("2026-11-22 14:03:00.123456+00", "2026-11-22 14:03:00.123456"),
    ("2026-11-22 14:03:00.000001Z", "2026-11-22 14:03:00.000001"),
    ("2026-11-22 14:03:00.1234567Z", "2026-11-22 14:03:00.123456"),
    ("2026-11-22 14:03:00.123456999Z", "2026-11-22 14:03:00.123456"),
    ("2026-11-22 14:03:00.000000999Z", "2026-11-22 14:03:00"),
    ("1969-12-31 23:59:59.999999999Z", "1969-12-31 23:59:59.999999"),
    ("2026-11-22 14:03 Europe/Paris", "2026-11-22 13:03:00"),
    ("2026-11-22 14:03:00.25 Europe/Paris", "2026-11-22 13:03:00.250000"),
    ("2026-11-22T14:03 Europe/Paris", "2026-11-22 13:03:00"),
    ("2026-11-22T14:03[Europe/Paris]", "2026-11-22 13:03:00"),
    ("2026-11-22 14:03 europe/paris", "2026-11-22 13:03:00"),
    ("2026-07-01 14:03 Europe/Paris", "2026-07-01 12:03:00"),
    ("2026-11-22 14:03 America/New_York", "2026-11-22 19:03:00"),
    ("2026-11-22 14:03 Asia/Kolkata", "2026-11-22 08:33:00"),
    ("2026-11-22 14:03 Asia/Kathmandu", "2026-11-22 08:18:00"),
    ("2026-11-22 14:03 America/Argentina/Buenos_Aires", "2026-11-22 17:03:00"),
    ("2026-11-22 14:03 Etc/GMT+5", "2026-11-22 19:03:00"),
    ("2026-11-22 14:03 Japan", "2026-11-22 05:03:00"),
    ("2026-11-22 14:03:00+01:00 Europe/Paris", "2026-11-22 13:03:00"),
    ("2026-11-22T14:03:00+01:00[Europe/Paris]", "2026-11-22 13:03:00"),
    ("2024-02-29 12:00Z", "2024-02-29 12:00:00"),
    ("  2026-11-22   14:03Z  ", "2026-11-22 14:03:00"),
    ("today 14:03 UTC", "2026-11-22 14:03:00"),
    ("today 14:03Z", "2026-11-22 14:03:00"),
    ("yesterday 14:03 Asia/Tokyo", "2026-11-21 05:03:00"),
    # At 12:30 UTC it is already the 23rd on Kiritimati (+14).
    ("today 01:00 Pacific/Kiritimati", "2026-11-22 11:00:00"),
    # Just beside a clock change, where the local time names one moment only.
    ("2026-03-29 01:59:59.999999 Europe/Paris", "2026-03-29 00:59:59.999999"),
    ("2026-03-29 03:00 Europe/Paris", "2026-03-29 01:00:00"),
    ("2026-10-25 01:59:59 Europe/Paris", "2026-10-24 23:59:59"),
    ("2026-10-25 03:00 Europe/Paris", "2026-10-25 02:00:00"),
    ("2026-03-08 01:59 America/New_York", "2026-03-08 06:59:00"),
    ("2026-03-08 03:00 America/New_York", "2026-03-08 07:00:00"),
    ("2026-11-01 00:59 America/New_York", "2026-11-01 04:59:00"),
    ("2026-11-01 02:00 America/New_York", "2026-11-01 07:00:00"),
    ("2026-10-04 01:59 Australia/Lord_Howe", "2026-10-03 15:29:00"),
    ("2026-10-04 02:30 Australia/Lord_Howe", "2026-10-03 15:30:00"),
    ("2026-04-05 01:29 Australia/Lord_Howe", "2026-04-04 14:29:00"),
    ("2026-04-05 02:00 Australia/Lord_Howe", "2026-04-04 15:30:00"),
    # The hours that are a gap or a fold elsewhere, in a zone that never changes its clocks.
    ("2026-03-29 02:30 Asia/Tokyo", "2026-03-28 17:30:00"),
    ("2026-10-25 02:30 Asia/Tokyo", "2026-10-24 17:30:00"),
    # An offset decides what the local time alone leaves open.
    ("2026-10-25 02:30:00+02:00", "2026-10-25 00:30:00"),
    ("2026-10-25 02:30:00+01:00 Europe/Paris", "2026-10-25 01:30:00"),
]


@pytest.mark.parametrize(("text", "utc"), ABSOLUTE)
def test_time_with_zone_or_offset_is_that_moment(text: str, utc: str) -> None:
    """Each form of a time gives its moment, floored to the microsecond, no zone assumed."""
    target = parse_time(text)
    assert target == TimeTarget(utc_us(utc), text.strip(), local_zone=None)


# Local time, what TZ is, the moment in UTC, the zone that must be echoed.
LOCAL = [
    ("2026-11-22 14:03", "Europe/Paris", "2026-11-22 13:03:00", "Europe/Paris"),
    ("2026-11-22 14:03:00.5", "Europe/Paris", "2026-11-22 13:03:00.5", "Europe/Paris"),
    ("2026-11-22T14:03:00", ":Europe/Paris", "2026-11-22 13:03:00", "Europe/Paris"),
    ("2026-07-01 14:03", "America/New_York", "2026-07-01 18:03:00", "America/New_York"),
    ("2026-11-22 14:03", "UTC", "2026-11-22 14:03:00", "UTC"),
    ("2026-11-22 14:03", "", "2026-11-22 14:03:00", "UTC"),
    ("2026-11-22 14:03", "XYZ5", "2026-11-22 19:03:00", "XYZ5"),
    (
        "2026-07-01 14:03",
        "CET-1CEST,M3.5.0,M10.5.0/3",
        "2026-07-01 12:03:00",
        "CET-1CEST,M3.5.0,M10.5.0/3",
    ),
    ("today 14:02", "Europe/Paris", "2026-11-22 13:02:00", "Europe/Paris"),
    ("yesterday 14:02", "Europe/Paris", "2026-11-21 13:02:00", "Europe/Paris"),
    ("today 01:00", "Pacific/Auckland", "2026-11-22 12:00:00", "Pacific/Auckland"),
    ("yesterday 23:59:59.999999", "Pacific/Auckland", "2026-11-22 10:59:59.999999", None),
]


@pytest.mark.parametrize(("text", "machine", "utc", "echoed"), LOCAL)
def test_local_time_without_zone_is_read_in_the_machines_zone(
    text: str, machine: str, utc: str, echoed: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time without a zone takes the machine's, and the target says which one that was."""
    monkeypatch.setenv("TZ", machine)
    assert parse_time(text) == TimeTarget(utc_us(utc), text, local_zone=echoed or machine)


def test_local_time_with_given_zone_ignores_the_machines() -> None:
    """The caller's zone (a server's setting) goes before the machine's, and is echoed."""
    target = parse_time("2026-11-22 14:03", zone="Asia/Tokyo")
    assert target == TimeTarget(
        utc_us("2026-11-22 05:03:00"), "2026-11-22 14:03", local_zone="Asia/Tokyo"
    )


def test_local_time_without_tz_uses_the_system_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TZ the zone of /etc/localtime counts, as the standard library sees it."""
    monkeypatch.delenv("TZ")
    time.tzset()
    moment = datetime(2026, 11, 22, 14, 3).astimezone()
    assert parse_time("2026-11-22 14:03").time_us == int(moment.timestamp()) * SECOND_US


def test_local_time_with_unknown_tz_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TZ that names no zone is said, not taken for UTC; a time with an offset still works."""
    monkeypatch.setenv("TZ", "Bogus/Zone")
    error = refusal("2026-11-22 14:03")
    assert "Bogus/Zone" in (error.detail or "")
    assert parse_time("2026-11-22 14:03Z").time_us == utc_us("2026-11-22 14:03:00")


RELATIVE = [
    ("10m", 10 * MINUTE_US),
    ("10 m", 10 * MINUTE_US),
    ("10min", 10 * MINUTE_US),
    ("10 minutes", 10 * MINUTE_US),
    ("10 minutes ago", 10 * MINUTE_US),
    ("1 minute ago", MINUTE_US),
    ("10 Minutes ago", 10 * MINUTE_US),
    ("90s", 90 * SECOND_US),
    ("-90s", 90 * SECOND_US),
    ("-2h30m", 150 * MINUTE_US),
    ("2h30m", 150 * MINUTE_US),
    ("2h 30m", 150 * MINUTE_US),
    ("2h30m ago", 150 * MINUTE_US),
    ("2 hours 30 minutes ago", 150 * MINUTE_US),
    ("1d", DAY_US),
    ("1 day ago", DAY_US),
    ("1w2d3h4m5s6ms", 9 * DAY_US + 3 * HOUR_US + 4 * MINUTE_US + 5 * SECOND_US + 6000),
    ("1 hr 15 mins 10 secs ago", 75 * MINUTE_US + 10 * SECOND_US),
    ("2 weeks ago", 14 * DAY_US),
    ("500ms", 500_000),
    ("0s", 0),
]


@pytest.mark.parametrize(("text", "microseconds"), RELATIVE)
def test_relative_time_is_a_length_before_now(text: str, microseconds: int) -> None:
    """A relative time stays relative: only the engine knows the source's clock."""
    target = parse(text)
    assert target == RelativeTarget(microseconds)
    assert target.time_us(NOW_US) == NOW_US - microseconds


POSITIONS = [
    ("name:before-migration", NameTarget("before-migration")),
    ("name:Freitag, 14 Uhr", NameTarget("Freitag, 14 Uhr")),
    ("name:a:b", NameTarget("a:b")),
    ("name:10m", NameTarget("10m")),
    ("lsn:0/16B3748", LsnTarget(Lsn(0x16B3748))),
    ("lsn:0/016b3748", LsnTarget(Lsn(0x16B3748))),
    ("lsn:FFFFFFFF/FFFFFFFF", LsnTarget(Lsn(2**64 - 1))),
    ("xid:731", XidTarget(731, before=False)),
    ("before:xid:731", XidTarget(731, before=True)),
    ("xid:4294967296", XidTarget(4294967296, before=False)),
    ("commit:4711", CommitTarget(CommitNumber(4711), before=False)),
    ("commit:1", CommitTarget(CommitNumber(1), before=False)),
    ("before:commit:4711", CommitTarget(CommitNumber(4711), before=True)),
    ("latest", LatestTarget()),
    (" latest ", LatestTarget()),
]


@pytest.mark.parametrize(("text", "target"), POSITIONS)
def test_position_is_that_position(text: str, target: Target) -> None:
    """Names and positions are told by their prefix, whatever the rest looks like."""
    assert parse(text) == target


# Text, a word that the detail must hold, a form that the hint must show.
REFUSED = [
    ("02/03/2026", "more than one way", "2026-03-02 14:03"),
    ("02/03/2026 14:03", "more than one way", "2026-03-02 14:03"),
    ("02/03", "more than one way", "2026-03-02 14:03"),
    ("22.11.2026 14:03", "more than one way", "2026-03-02 14:03"),
    ("22-11-2026", "more than one way", "2026-03-02 14:03"),
    ("2026/11/22 14:03", "more than one way", "2026-03-02 14:03"),
    ("2026-1-2 09:03", "lacks a digit", "2026-03-02 14:03"),
    ("2026-11-22", "without a time of day", "2026-11-22 14:03"),
    ("today", "without a time of day", "yesterday 14:03"),
    ("yesterday", "without a time of day", "yesterday 14:03"),
    ("14:03", "without a day", "today 14:03"),
    ("9:03", "without a day", "today 14:03"),
    ("10:05 CET", "without a day", "today 14:03"),
    ("2026-11-22 9:03", "not a time of day", "2026-11-22 14:03"),
    ("2026-11-22 14", "not a time of day", "2026-11-22 14:03"),
    ("2026-11-22 1403", "not a time of day", "2026-11-22 14:03"),
    ("2026-11-22 2pm", "not a time of day", "2026-11-22 14:03"),
    ("2026-11-22 14:03:00,123", "not a time of day", "14:03:00.5Z"),
    ("2026-11-22T14:03:00.1234567890Z", "not a time of day", "14:03:00.5Z"),
    ("2026-11-22T14:03:00.Z", "not a time of day", "14:03:00.5Z"),
    ("2026-11-22 14:03+0170", "not a time of day", "14:03+01:00"),
    ("2026-11-22 14:03+1", "not a time of day", "14:03+01:00"),
    ("2026-11-22 14:03 Europe / Paris", "not a time of day", "Europe/Paris"),
    ("20261122T140300Z", "not a time of day", "2026-11-22T14:03:00"),
    ("2026-11-22 14:03+16", "offset", "+01:00"),
    ("2026-11-22 14:03-99:00", "offset", "+01:00"),
    ("2026-11-22 14:03 CET", "zone abbreviation", "Europe/Paris"),
    ("2026-11-22 14:03 Cet", "zone abbreviation", "Europe/Paris"),
    ("2026-11-22 14:03 IST", "zone abbreviation", "Europe/Paris"),
    ("2026-11-22 14:03 ist", "zone abbreviation", "Europe/Paris"),
    ("2026-11-22 14:03 EST", "zone abbreviation", "'UTC'"),
    ("2026-11-22 14:03 CST", "zone abbreviation", "+01:00"),
    ("2026-11-22 14:03 EST5EDT", "zone abbreviation", "Europe/Paris"),
    ("2026-11-22 14:03 UTC+2", "No time zone", "+01:00"),
    ("2026-11-22 14:03 Mars/Base", "No time zone", "Europe/Paris"),
    ("2026-11-22 14:03 right/Europe/Paris", "No time zone", "Europe/Paris"),
    ("2026-11-22 14:03[../../etc/passwd]", "No time zone", "Europe/Paris"),
    ("2026-11-22 14:03+02:00 Europe/Paris", "offset +02:00", "2026-11-22T13:03:00+01:00"),
    ("today 14:03+01:00", "names none", "today 14:03 Europe/Paris"),
    ("2026-02-30 14:03", "no such date", "28 to 31"),
    ("2025-02-29 14:03Z", "no such date", "28 to 31"),
    ("2026-13-01 14:03+01", "no such date", "28 to 31"),
    ("2026-11-22 24:00", "no such date", "23:59:59"),
    ("2026-11-22 14:60Z", "no such date", "23:59:59"),
    ("2026-06-30 23:59:60Z", "no such date", "23:59:59"),
    ("0000-01-01 00:00Z", "no such date", "28 to 31"),
    ("0001-01-01 00:00+05", "no such date", "28 to 31"),
    ("9999-12-31 23:59-05", "no such date", "28 to 31"),
    ("9999-12-31 23:59Z Asia/Tokyo", "no such date", "28 to 31"),
    ("9999-12-31 23:59 America/New_York", "no such date", "28 to 31"),
    ("10", "bare number", "10m"),
    ("4711", "bare number", "commit:4711"),
    ("-10", "bare number", "10m"),
    ("20261122", "bare number", "commit:4711"),
    ("1795348980", "bare number", "10m"),
    ("@1795348980.5", "bare number", "10m"),
    ("+10m", "future", "10m"),
    ("in 10 minutes", "future", "10m"),
    ("10 minutes from now", "future", "10m"),
    ("tomorrow 14:03", "future", "10m"),
    ("1.5h", "whole numbers", "1h30m"),
    ("1,5 hours ago", "whole numbers", "1h30m"),
    ("half an hour ago", "whole numbers", "30 minutes ago"),
    ("an hour ago", "whole numbers", "30 minutes ago"),
    ("10 months ago", "'months'", "10m"),
    ("1y", "'y'", "10m"),
    ("10M", "'M'", "10m"),
    ("10 fortnights ago", "'fortnights'", "10m"),
    ("30m2h", "large to small", "2h30m"),
    ("10m10m", "each once", "2h30m"),
    ("10 ago", "numbers with units", "10m"),
    ("-10m ago", "numbers with units", "10m"),
    ("99999999d", "beyond 1970", "30d"),
    ("now", "archive", "'latest'"),
    ("LATEST", "archive", "'latest'"),
    ("0/16B3748", "WAL position", "lsn:0/16B3748"),
    ("before-migration", "bare word", "name:"),
    ("commit 4711", "colon", "commit:4711"),
    ("before xid:731", "colon", "before:xid:731"),
    ("before lunch", "colon", "before:commit:4711"),
    ("before:2026-11-22 14:03", "colon", "before:commit:4711"),
    ("before:name:x", "does not go", "before:commit:4711"),
    ("before:lsn:0/16B3748", "does not go", "before:xid:731"),
    ("name:", "empty", "name:MARK"),
    ("name:a\tb", "control", "name:MARK"),
    ("xid:0", "from 1", "xid:731"),
    ("xid:-1", "from 1", "xid:731"),
    ("xid:18446744073709551616", "from 1", "xid:731"),
    ("xid:٣", "from 1", "xid:731"),
    ("before:xid:", "from 1", "before:xid:731"),
    ("commit:0", "from 1", "commit:4711"),
    ("before:commit:-5", "from 1", "commit:4711"),
    ("commit:10000000000000000", "from 1", "commit:4711"),
    ("commit:47.11", "from 1", "commit:4711"),
    ("lsn:16B3748", "slash", "lsn:0/16B3748"),
    ("lsn:0/123456789", "up to 8", "lsn:0/16B3748"),
    ("lsn:0/G", "hexadecimal", "lsn:0/16B3748"),
    ("", "none of the forms", "latest"),
    ("Sun Nov 22 14:03:00 2026 CET", "none of the forms", "2026-11-22 14:03:00+01:00"),
    ("half past two", "whole numbers", "30 minutes ago"),
    ("-infinity", "none of the forms", "latest"),
]


@pytest.mark.parametrize(("text", "seen", "shown"), REFUSED)
def test_text_that_is_no_target_is_refused_with_the_right_form(
    text: str, seen: str, shown: str
) -> None:
    """Nothing is guessed: the detail says what was seen, the hint shows what to write."""
    error = refusal(text)
    assert error.exit_code == 2
    assert seen in (error.detail or "")
    assert shown in (error.hint or "")


# Local time, zone, and the two moments it may mean, as the hint must show them.
CHANGES = [
    ("2026-03-29 02:30", "Europe/Paris", "2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00"),
    ("2026-03-29 02:00", "Europe/Paris", "2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"),
    ("2026-10-25 02:00", "Europe/Paris", "2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"),
    (
        "2026-10-25 02:59:59.999999",
        "Europe/Paris",
        "2026-10-25T02:59:59.999999+02:00",
        "2026-10-25T02:59:59.999999+01:00",
    ),
    (
        "2026-03-08 02:15",
        "America/New_York",
        "2026-03-08T01:15:00-05:00",
        "2026-03-08T03:15:00-04:00",
    ),
    (
        "2026-11-01 01:30",
        "America/New_York",
        "2026-11-01T01:30:00-04:00",
        "2026-11-01T01:30:00-05:00",
    ),
    (
        "2026-10-04 02:15",
        "Australia/Lord_Howe",
        "2026-10-04T01:45:00+10:30",
        "2026-10-04T02:45:00+11:00",
    ),
    (
        "2026-04-05 01:45",
        "Australia/Lord_Howe",
        "2026-04-05T01:45:00+11:00",
        "2026-04-05T01:45:00+10:30",
    ),
    # A whole day that Samoa left out when it changed sides of the date line.
    ("2011-12-30 12:00", "Pacific/Apia", "2011-12-29T12:00:00-10:00", "2011-12-31T12:00:00+14:00"),
]


@pytest.mark.parametrize("place", ["in the text", "given", "the machine's"])
@pytest.mark.parametrize(("local", "zone", "earlier", "later"), CHANGES)
def test_local_time_in_a_clock_change_is_refused_with_both_moments(
    local: str,
    zone: str,
    earlier: str,
    later: str,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A local time that happens twice or never is not guessed, wherever its zone comes from."""
    if place == "in the text":
        error = refusal(f"{local} {zone}")
    elif place == "given":
        error = refusal(local, zone)
    else:
        monkeypatch.setenv("TZ", zone)
        error = refusal(local)
    assert zone in (error.detail or "")
    assert f"'{earlier}' or '{later}'" in (error.hint or "")
    # What the hint shows must itself be accepted.
    assert parse_time(earlier).time_us < parse_time(later).time_us


def test_format_time_shows_milliseconds_or_microseconds() -> None:
    """Times have three digits, six where needed, and Z unless a zone was asked for."""
    moment_us = utc_us("2026-11-22 13:03:00")
    assert format_time(moment_us) == "2026-11-22T13:03:00.000Z"
    assert format_time(moment_us + 120_000) == "2026-11-22T13:03:00.120Z"
    assert format_time(moment_us + 1) == "2026-11-22T13:03:00.000001Z"
    assert format_time(-1) == "1969-12-31T23:59:59.999999Z"
    assert format_time(moment_us, "Europe/Paris") == "2026-11-22T14:03:00.000+01:00"
    assert format_time(moment_us, "UTC") == "2026-11-22T13:03:00.000+00:00"


def test_format_local_names_offset_and_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The echo of a local time says which zone it is in; without a full name, the offset."""
    moment_us = utc_us("2026-11-22 13:03:00")
    assert format_local(moment_us) == "2026-11-22 14:03:00.000+01:00 Europe/Paris"
    assert machine_zone_name() == "Europe/Paris"
    monkeypatch.setenv("TZ", "XYZ5")
    assert format_local(moment_us) == "2026-11-22 08:03:00.000-05:00"
    monkeypatch.setenv("TZ", "Bogus/Zone")
    assert format_local(moment_us) == "2026-11-22 13:03:00.000+00:00 UTC"


ZONES = (
    "UTC",
    "Europe/Paris",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Tokyo",
    "Asia/Kathmandu",
    "America/Argentina/Buenos_Aires",
    "CET-1CEST,M3.5.0,M10.5.0/3",
)


def test_formatted_time_reads_back_to_the_same_microsecond(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pitr prints can be pasted back as a target, in any zone, beside any clock change."""
    seed = int(os.environ.get("PITR_TEST_SEED", random.SystemRandom().getrandbits(32)))
    print(f"seed {seed}: PITR_TEST_SEED={seed} repeats it")
    chance = random.Random(seed)
    first, last = utc_us("1800-01-01 00:00:00"), utc_us("2199-12-31 00:00:00")
    changes = [utc_us(day) for day in ("2026-03-29 01:00:00", "2026-10-25 01:00:00")]
    for zone in ZONES:
        monkeypatch.setenv("TZ", zone)
        for _ in range(300):
            time_us = chance.choice(
                (
                    chance.randint(first, last),
                    chance.randint(first, last) // SECOND_US * SECOND_US,
                    chance.choice(changes) + chance.randint(-2 * HOUR_US, 2 * HOUR_US),
                )
            )
            texts = [format_time(time_us), format_local(time_us)]
            if "," not in zone:
                texts.append(format_time(time_us, zone))
            for text in texts:
                assert parse_time(text).time_us == time_us, (seed, zone, text)


@settings(max_examples=400)
@given(
    st.one_of(
        st.text(max_size=40),
        st.text(alphabet="0123456789-:/.+TZ agomhdtxibefcnywz[]", max_size=40),
        st.from_regex(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?.{0,12}", fullmatch=True),
    )
)
def test_any_text_is_a_target_or_a_usage_error(text: str) -> None:
    """No text makes the parser fail otherwise, and every refusal has all three parts."""
    refused: UsageError | None = None
    try:
        parse_target(text, now_us=NOW_US, zone="Europe/Paris")
    except UsageError as error:
        refused = error
    assert refused is None or (refused.message and refused.detail and refused.hint)


def guide_texts(begin: str, end: str) -> list[str]:
    """Return the first column's texts of the table between two places of the guide."""
    guide = Path(__file__).parents[2] / "docs" / "guides" / "targets.md"
    table = guide.read_text().partition(begin)[2].partition(end)[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    return [text for cell in cells for text in re.findall(r"`([^`…]+)`", cell)]


@pytest.mark.parametrize("text", guide_texts("## The forms", "What `pitr` prints"))
def test_form_in_the_guide_is_accepted(text: str) -> None:
    """What the guide tells users to write is a target."""
    assert parse(text)


@pytest.mark.parametrize("text", guide_texts("## What is refused", "A target that"))
def test_text_refused_in_the_guide_is_refused(text: str) -> None:
    """What the guide says is refused is refused."""
    assert refusal(text).hint


AGES = [
    (0, "0 ms"),
    (350_000, "350 ms"),
    (999_999, "999 ms"),
    (SECOND_US, "1 s"),
    (59 * SECOND_US, "59 s"),
    (60 * SECOND_US, "1 min"),
    (90 * SECOND_US, "1 min 30 s"),
    (12 * MINUTE_US + 59 * SECOND_US, "12 min"),
    (200 * MINUTE_US, "3 h 20 min"),
    (5 * HOUR_US, "5 h"),
    (51 * HOUR_US, "2 d 3 h"),
    (400 * DAY_US, "400 d"),
    (-90 * SECOND_US, "-1 min 30 s"),
]


@pytest.mark.parametrize(("microseconds", "text"), AGES)
def test_format_age_shows_the_units_that_matter(microseconds: int, text: str) -> None:
    """An age is short enough to read and rounded down."""
    assert format_age(microseconds) == text
