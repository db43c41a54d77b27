"""The texts of targets: reading what a user typed, and writing times so that they can be read back.

A recovery target is never guessed. Every accepted form has one meaning; everything else is refused
with the right form shown. docs/guides/targets.md lists the forms for users.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from pitr.errors import UsageError
from pitr.vocabulary.position import CommitNumber, Lsn
from pitr.vocabulary.quantity import parse_duration_us
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

if TYPE_CHECKING:  # at run time loaded late: most commands never parse a time
    from whenever import Instant, PlainDateTime, ZonedDateTime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GUIDE = "The forms are in 'pitr restore --help' and docs/guides/targets.md."

_POSITION = re.compile(r"(before:)?(name|lsn|xid|commit):(.*)")
_TIME = re.compile(
    r"""(?: (?P<date> \d{4}-\d\d-\d\d ) | (?P<day> today | yesterday ) )
        [Tt ] (?P<hour> \d\d ) : (?P<minute> \d\d )
        (?: : (?P<second> \d\d ) (?: \. (?P<fraction> \d{1,9} ) )? )?
        (?: [ ]? (?P<offset> [Zz] | [+-]\d\d (?: :?[0-5]\d (?: :?[0-5]\d )? )? ) )?
        (?: [ ] (?P<zone> [A-Za-z][A-Za-z0-9_+/-]* ) | \[ (?P<bracketed> [^]]+ ) \] )?""",
    re.ASCII | re.VERBOSE,
)
_RELATIVE = re.compile(r"-?\d+ ?[A-Za-z].*|-?\d+ ?[A-Za-z].* ago|-\d.*|.* ago", re.ASCII)
_FULL_ZONE_NAME = re.compile(r"[A-Za-z]\w*/[A-Za-z0-9_+/-]+|UTC", re.ASCII)
# PostgreSQL reads offsets below 16 hours; no place on Earth needs more than 14.
_OFFSET_SECONDS_MAX = 16 * 3600

# What people type instead of a target, why it is refused, and what to write. First match counts.
_REFUSED: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern, re.ASCII | re.IGNORECASE), seen, instead)
    for pattern, seen, instead in (
        (
            r"now|latest|newest|last|current",
            "A target is a place in the archive, which may lag behind the live database.",
            "Write 'latest' for the newest archived state.",
        ),
        (
            r"@?[+-]?\d+(\.\d+)?",
            "A bare number may be a commit, a transaction, a Unix time or minutes.",
            "Write 'commit:4711', 'xid:731' or '10m' (ten minutes ago).",
        ),
        (
            r"today|yesterday|\d{4}-\d\d-\d\d",
            "A date without a time of day is not one moment.",
            "Add the time of day, as in '2026-11-22 14:03' or 'yesterday 14:03'.",
        ),
        (
            r"(?!\d{4}-\d\d-\d\d\b)\d{1,4}[/.-]\d{1,2}[/.-]\d{1,4}\b.*|\d\d?[/-]\d\d?\b.*",
            "This date can be read in more than one way, or lacks a digit.",
            "Write year-month-day with two digits each, as in '2026-03-02 14:03'.",
        ),
        (
            r"[0-9a-f]{1,8}/[0-9a-f]{1,8}",
            "This looks like a WAL position.",
            "Write it as in 'lsn:0/16B3748'.",
        ),
        (
            r"\d{1,2}:\d\d.*",
            "A time of day without a day is not one moment.",
            "Add the day, as in 'today 14:03' or '2026-11-22 14:03'.",
        ),
        (
            r"\d{8}T.*|\d{4}-\d\d-\d\d[T ].*|(today|yesterday) .*",
            "What follows the day is not a time of day with a zone or an offset.",
            "Write it as in '2026-11-22 14:03', '2026-11-22T14:03:00.5Z', "
            "'2026-11-22 14:03+01:00' or '2026-11-22 14:03 Europe/Paris'.",
        ),
        (
            r"\+.*|in .*|.* (from now|later|ahead)|tomorrow.*",
            "This lies in the future, where nothing is archived yet.",
            "Write how long ago it was, as in '10m' or '2 hours 30 minutes ago'.",
        ),
        (
            r".*\d[.,]\d.*[a-z]|(half )?an? .*|.*(half|quarter).*",
            "A length of time is whole numbers with units.",
            "Write it in whole units, as in '1h30m' or '30 minutes ago'.",
        ),
        (
            r"(before|after)[: ].*|(name|lsn|xid|commit|mark|transaction) .*",
            "Positions and names have a colon, and 'before:' goes with xid: and commit: only.",
            "Write 'commit:4711' (after it), 'before:commit:4711', 'xid:731', 'before:xid:731', "
            "'lsn:0/16B3748' or 'name:MARK'.",
        ),
        (
            r"[a-z_][a-z0-9_.-]*",
            "A bare word is no target.",
            "If it is a mark, write 'name:' before it; the newest archived state is 'latest'.",
        ),
    )
)


def parse_target(text: str, *, now_us: int, zone: str | None = None) -> Target:
    """Return the target that `text` names.

    `now_us` is the source's clock: `today` and `yesterday` count from it, relative targets are
    checked against it. `zone` (an IANA name) is assumed for local times without one; None means
    the zone of this machine. Raises UsageError with what was seen and the right form.
    """
    text = text.strip()
    if text == "latest":
        return LatestTarget()
    if match := _POSITION.fullmatch(text):
        return _position_target(text, before=match[1] is not None, kind=match[2], value=match[3])
    plain = " ".join(text.split())
    if match := _TIME.fullmatch(plain):
        return _time_target(text, match, now_us=now_us, zone=zone)
    for pattern, seen, instead in _REFUSED:
        if pattern.fullmatch(plain):
            raise _refusal(text, seen, instead)
    if _RELATIVE.fullmatch(plain):
        return _relative_target(text, plain, now_us=now_us)
    raise _refusal(
        text,
        "This is none of the forms a target can have.",
        "Write a time ('2026-11-22 14:03:00+01:00'), how long ago ('10m'), 'commit:4711', "
        f"'name:MARK' or 'latest'. {_GUIDE}",
    )


def _refusal(text: str, seen: str, instead: str) -> UsageError:
    return UsageError(f"target is not understood: {text!r}", detail=seen, hint=instead)


# --- positions and names -------------------------------------------------------------------------


def _position_target(text: str, *, before: bool, kind: str, value: str) -> Target:
    if kind == "xid":
        return _xid_target(text, value, before=before)
    if kind == "commit":
        return _commit_target(text, value, before=before)
    if before:
        raise _refusal(
            text,
            f"'before:' does not go with '{kind}:'.",
            "Write 'before:commit:4711' or 'before:xid:731'.",
        )
    return _name_target(text, value) if kind == "name" else _lsn_target(text, value)


def _xid_target(text: str, value: str, *, before: bool) -> XidTarget:
    if not re.fullmatch(r"\d{1,20}", value, re.ASCII) or not 0 < int(value) < 1 << 64:
        raise _refusal(
            text,
            "A transaction id is a whole number from 1.",
            "Write it as in 'xid:731' (the state after it) or 'before:xid:731'.",
        )
    return XidTarget(int(value), before=before)


def _commit_target(text: str, value: str, *, before: bool) -> CommitTarget:
    try:
        return CommitTarget(CommitNumber.parse(f"commit:{value}"), before=before)
    except ValueError:
        raise _refusal(
            text,
            "A commit number is a whole number from 1 of at most 16 digits.",
            "Write it as in 'commit:4711' (the state after it) or 'before:commit:4711'.",
        ) from None


def _name_target(text: str, value: str) -> NameTarget:
    if not value.strip() or not value.isprintable():
        raise _refusal(text, "The name is empty or has control characters.", "Write 'name:MARK'.")
    return NameTarget(value)


def _lsn_target(text: str, value: str) -> LsnTarget:
    try:
        return LsnTarget(Lsn.parse(value))
    except ValueError:
        raise _refusal(
            text,
            "A WAL position is two hexadecimal numbers of up to 8 digits with a slash.",
            "Write it as PostgreSQL prints it, as in 'lsn:0/16B3748'.",
        ) from None


# --- relative times ------------------------------------------------------------------------------


def _relative_target(text: str, plain: str, *, now_us: int) -> Target:
    amount = plain.removesuffix(" ago")
    if amount == plain:
        amount = plain.removeprefix("-")
    try:
        microseconds = parse_duration_us(amount)
    except ValueError as error:
        raise _refusal(
            text,
            str(error),
            "Write how long ago it was, as in '10m', '2h30m' or '10 minutes ago'.",
        ) from None
    if microseconds > now_us:
        raise _refusal(
            text, "This goes back beyond 1970.", "Write a shorter time, as in '10m' or '30d'."
        )
    return RelativeTarget(microseconds)


# --- absolute times ------------------------------------------------------------------------------


def _time_target(text: str, match: re.Match[str], *, now_us: int, zone: str | None) -> TimeTarget:
    offset, named_zone = match["offset"], match["zone"] or match["bracketed"]
    if offset in ("Z", "z") and named_zone is None:
        offset, named_zone = None, "UTC"
    if offset is not None and match["day"] is not None:
        raise _refusal(
            text,
            f"'{match['day']}' is a day in a zone, and an offset names none.",
            "Write the date, or the zone's name, as in 'today 14:03 Europe/Paris'.",
        )
    assumed_zone: str | None = None
    if named_zone is not None:
        used_zone: str | None = _named_zone(text, named_zone)
    elif offset is not None:
        used_zone = "UTC"
    elif zone is not None:
        used_zone = assumed_zone = _named_zone(text, zone)
    else:
        used_zone, assumed_zone = _machine_zone()
    local = _local_time(text, match, used_zone, now_us)
    if offset is None:
        instant = _local_instant(text, local, used_zone)
    else:
        instant = _offset_instant(text, local, offset, named_zone)
    floor_us = instant.timestamp(unit="nanosecond") // 1000
    return TimeTarget(time_us=floor_us, text=text, local_zone=assumed_zone)


def _local_time(text: str, match: re.Match[str], zone: str | None, now_us: int) -> PlainDateTime:
    from whenever import Instant, PlainDateTime

    if match["date"] is not None:
        year, month, day = (int(part) for part in match["date"].split("-"))
    else:
        now = Instant.from_timestamp(now_us, unit="microsecond")
        date = _in_zone(now, zone).date()
        if match["day"] == "yesterday":
            date = date.subtract(days=1)
        year, month, day = date.year, date.month, date.day
    try:
        return PlainDateTime(
            year,
            month,
            day,
            int(match["hour"]),
            int(match["minute"]),
            int(match["second"] or 0),
            nanosecond=int((match["fraction"] or "0").ljust(9, "0")),
        )
    except ValueError:
        raise _impossible(text) from None


def _impossible(text: str) -> UsageError:
    return _refusal(
        text,
        "There is no such date or time of day.",
        "Months have 28 to 31 days, and a day runs from 00:00:00 to 23:59:59.999999999.",
    )


def _offset_instant(text: str, local: PlainDateTime, offset: str, zone: str | None) -> Instant:
    """Return the moment at an offset from UTC. Refuse an offset that the zone does not have."""
    from whenever import TimeDelta

    distance = TimeDelta(seconds=_offset_seconds(text, offset))
    try:
        instant = local.assume_fixed_offset(distance).to_instant()
        there = instant.to_tz(_named_zone(text, zone or "UTC"))
    except ValueError:
        raise _impossible(text) from None
    if zone is not None and there.offset != distance:
        raise _refusal(
            text,
            f"The zone {zone} does not have the offset {offset} then.",
            f"Write the offset or the zone; that moment is '{_iso(there)}' in {zone}.",
        )
    return instant


def _offset_seconds(text: str, offset: str) -> int:
    if offset in "Zz":
        return 0
    digits = offset[1:].replace(":", "").ljust(6, "0")
    seconds = int(digits[:2]) * 3600 + int(digits[2:4]) * 60 + int(digits[4:])
    if seconds >= _OFFSET_SECONDS_MAX:
        raise _refusal(
            text,
            f"{offset} is no offset from UTC: no place is more than 14 hours away.",
            "Write it as in '+01:00', '-03' or 'Z'.",
        )
    return -seconds if offset[0] == "-" else seconds


def _local_instant(text: str, local: PlainDateTime, zone: str | None) -> Instant:
    """Return the moment a local time names. Refuse one that a clock change skips or repeats."""
    from whenever import SYSTEM_TZ, RepeatedTime, SkippedTime

    rules = SYSTEM_TZ if zone is None else zone
    try:
        return local.assume_tz(rules, disambiguation="raise").to_instant()
    except RepeatedTime:
        reason = "happens twice: the clocks were turned back"
    except SkippedTime:
        reason = "never happens: the clocks were turned forward"
    except ValueError:
        raise _impossible(text) from None
    earlier = local.assume_tz(rules, disambiguation="earlier")
    later = local.assume_tz(rules, disambiguation="later")
    raise _refusal(
        text,
        f"In the zone {earlier.tz_id or 'of this machine'} this local time {reason}.",
        f"Write '{_iso(earlier)}' or '{_iso(later)}'.",
    )


def _in_zone(instant: Instant, zone: str | None) -> ZonedDateTime:
    from whenever import SYSTEM_TZ

    return instant.to_tz(SYSTEM_TZ if zone is None else zone)


def _iso(moment: ZonedDateTime) -> str:
    return moment.to_fixed_offset().format_iso()


# --- zones ---------------------------------------------------------------------------------------


def _named_zone(text: str, name: str) -> str:
    """Return the name as the zone database spells it. Refuse abbreviations and unknown names."""
    from whenever import Instant, TimeZoneNotFoundError

    if name.upper() in ("UTC", "GMT", "Z"):
        return "UTC"
    try:
        spelled = Instant.from_timestamp(0).to_tz(name).tz_id
    except TimeZoneNotFoundError:
        spelled = None
    if spelled is not None and spelled.startswith("right/"):
        spelled = None  # these count leap seconds, which no database does
    if spelled is None and not re.fullmatch(r"[A-Za-z]{1,5}", name):
        raise _refusal(
            text,
            f"No time zone is called {name!r}.",
            "Write an offset ('+01:00') or a zone's full name ('Europe/Paris').",
        )
    # The database also knows CET, EST5EDT and the like. They fall to the same rule as IST, which
    # is not in it and means one zone to PostgreSQL and another one in India.
    if spelled is None or spelled.upper() == spelled:
        raise _refusal(
            text,
            f"{name!r} is a zone abbreviation: it means different offsets in different places.",
            "Write an offset ('+01:00'), a zone's full name ('Europe/Paris'), 'Z' or 'UTC'.",
        )
    return spelled


def _machine_zone() -> tuple[str | None, str]:
    """Return the zone of this machine, None when it has no name, and a word for it.

    TZ counts before /etc/localtime. Raises UsageError when TZ names no zone.
    """
    from whenever import SYSTEM_TZ, Instant, TimeZoneNotFoundError, reset_system_tz

    environment_zone = os.environ.get("TZ", "")
    try:
        reset_system_tz()
    except TimeZoneNotFoundError:
        raise UsageError(
            "the time zone of this machine is not known",
            detail=f"The environment variable TZ is {environment_zone!r}.",
            hint="Set TZ to a zone's full name such as 'Europe/Paris', or unset it.",
        ) from None
    name = Instant.from_timestamp(0).to_tz(SYSTEM_TZ).tz_id
    return name, name or environment_zone or "local"


def machine_zone_name() -> str:
    """Return the name of the zone that local times without one are read in. Raises UsageError."""
    return _machine_zone()[1]


# --- writing -------------------------------------------------------------------------------------


def format_time(time_us: int, zone: str | None = None) -> str:
    """Return RFC 3339: `2026-11-22T13:03:00.000Z`, or with the offset of `zone` (an IANA name).

    Three digits after the second, or six when they are needed to be exact; parse_target reads
    it back to the same microsecond. Raises UsageError for an unknown zone.
    """
    if zone is None:
        # Written without the zone library: every JSON document and log line passes here.
        precision = "milliseconds" if time_us % 1000 == 0 else "microseconds"
        moment = (_EPOCH + timedelta(microseconds=time_us)).replace(tzinfo=None)
        return moment.isoformat(timespec=precision) + "Z"
    return _format_in_zone(time_us, _named_zone(zone, zone), separator="T")


def format_local(time_us: int) -> str:
    """Return the time on this machine's clock: `2026-11-22 14:03:00.000+01:00 Europe/Paris`.

    The zone is left out when it has no full name. parse_target reads it back. When TZ names no
    zone, UTC is used and said.
    """
    zone: str | None
    try:
        zone, name = _machine_zone()
    except UsageError:
        zone, name = "UTC", "UTC"
    text = _format_in_zone(time_us, zone, separator=" ")
    return f"{text} {name}" if zone and _FULL_ZONE_NAME.fullmatch(name) else text


def _format_in_zone(time_us: int, zone: str | None, *, separator: Literal["T", " "]) -> str:
    from whenever import Instant

    moment = _in_zone(Instant.from_timestamp(time_us, unit="microsecond"), zone)
    unit: Literal["millisecond", "microsecond"]
    unit = "millisecond" if time_us % 1000 == 0 else "microsecond"
    return moment.to_fixed_offset().format_iso(unit=unit, sep=separator)


def format_age(microseconds: int) -> str:
    """Return a length of time for reading: `350 ms`, `12 min`, `3 h 20 min`, `2 d 3 h`.

    The two largest units that matter, rounded down; a negative one gets a minus sign.
    """
    if microseconds < 0:
        return f"-{format_age(-microseconds)}"
    seconds = microseconds // 1_000_000
    if seconds < 1:
        return f"{microseconds // 1000} ms"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 1:
        return f"{seconds} s"
    if minutes < 10:
        return _two_units(minutes, "min", seconds % 60, "s")
    if hours < 1:
        return f"{minutes} min"
    if days < 1:
        return _two_units(hours, "h", minutes % 60, "min")
    return _two_units(days, "d", hours % 24, "h")


def _two_units(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large} {large_unit} {small} {small_unit}" if small else f"{large} {large_unit}"
