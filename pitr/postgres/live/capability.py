"""Can this cluster be captured and recovered? Each point with what was found and what mends it.

Only looks: no slot is made, no setting changed. A point is a function from the facts to its
findings; the facts are read once. What cannot be asked is a finding as well, never an error.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from psycopg.rows import class_row

from pitr.errors import PitrError
from pitr.postgres.live.connection import Connection, connect, connect_replication
from pitr.postgres.live.faults import server_faults
from pitr.postgres.live.replication import identify
from pitr.postgres.live.role import role_script
from pitr.postgres.live.slot import Slot, read_slot
from pitr.postgres.replay.server import find_binaries
from pitr.vocabulary.finding import Finding, Level

MAJOR_FIRST, MAJOR_LAST = 13, 18
BLOCK_BYTES = 8192
# Relative targets count from the server's clock, so a machine that is off by more gets a warning.
SKEW_SECONDS_MAX = 2.0
# What one capture and one backup beside it take.
_SENDERS_WANTED = 2
# A store that fails for an hour at 1 MB/s of WAL: less room than this is soon used up.
_KEPT_MEGABYTES_MIN = 4096
_SQL = files("pitr.sql")
_SETTINGS = [
    "server_version", "server_version_num", "block_size", "wal_block_size", "wal_level",
    "full_page_writes", "fsync", "wal_segment_size", "data_checksums", "wal_log_hints",
    "max_wal_senders", "max_replication_slots", "max_slot_wal_keep_size",
    "idle_replication_slot_timeout",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterWish:
    """What is to be checked: the place, and what a capture of it would use on this machine."""

    place: str
    database: str | None
    slot: str
    pg_bindir: Path | None
    spool: Path
    spool_bytes_max: int


@dataclass(frozen=True, slots=True)
class ServerRow:
    """One row of check_server.sql."""

    system_identifier: int
    is_standby: bool
    clock_us: int
    role: str
    is_superuser: bool
    may_replicate: bool
    may_make_points: bool
    senders: int
    slots: int
    unlogged_tables: int
    settings: dict[str, str]

    @property
    def major(self) -> int:
        """Return the server's major version."""
        return int(self.settings["server_version_num"]) // 10_000

    def is_on(self, setting: str) -> bool:
        """Return whether a boolean setting is on."""
        return self.settings[setting] == "on"

    def number(self, setting: str) -> int:
        """Return a number in the setting's own unit."""
        return int(self.settings[setting])


@dataclass(frozen=True, slots=True)
class _Facts:
    wish: ClusterWish
    row: ServerRow
    slot: Slot | None
    skew_seconds: float


@dataclass(frozen=True, slots=True)
class ClusterReport:
    """The findings, and the system identifier; None when the server could not be asked."""

    findings: tuple[Finding, ...]
    system_identifier: str | None


def check_cluster(wish: ClusterWish) -> ClusterReport:
    """Return what stands in the way of capturing a cluster, and what to expect of it.

    Stops at the first failure that makes the rest meaningless.
    """
    try:
        with connect(wish.place, database=wish.database, program="pitr check") as connection:
            facts = _read_facts(connection, wish)
    except PitrError as error:
        return ClusterReport((_as_finding("server", error),), None)
    findings = [finding for point in _POINTS for finding in point(facts)]
    return ClusterReport(tuple(findings), str(facts.row.system_identifier))


def _read_facts(connection: Connection, wish: ClusterWish) -> _Facts:
    statement = _SQL.joinpath("postgres/check_server.sql").read_text()
    began = time.time()
    with server_faults("cannot read the server's state"):
        with connection.cursor(row_factory=class_row(ServerRow)) as cursor:
            row = cursor.execute(statement, {"settings": _SETTINGS}).fetchone()
        assert row is not None, "the role that connected is in pg_roles"
    ended = time.time()
    # The clock was read between the two moments; only what is beyond them is certain.
    server = row.clock_us / 1_000_000
    skew = server - ended if server > ended else min(0.0, server - began)
    return _Facts(wish, row, read_slot(connection, wish.slot), skew)


# --- the points ----------------------------------------------------------------------------------


def _check_version(facts: _Facts) -> Iterator[Finding]:
    row = facts.row
    said = f"PostgreSQL {row.settings['server_version']}, system {row.system_identifier}"
    if MAJOR_FIRST <= row.major <= MAJOR_LAST:
        yield _ok("server", f"{said}.")
    else:
        yield _fail(
            "server",
            f"{said}: only versions {MAJOR_FIRST} to {MAJOR_LAST} are understood.",
            "Use a version of pitr that knows this one, or upgrade the server.",
        )
    if row.is_standby:
        yield _warning(
            "standby",
            "The server is a standby: it gives out only what it has received, 'pitr mark' does not "
            "work, and its own capture ends when it is made anew.",
            "Name the primary as the source, if it can be reached.",
        )
    sizes = (row.number("block_size"), row.number("wal_block_size"))
    if sizes != (BLOCK_BYTES, BLOCK_BYTES):
        yield _fail(
            "block size",
            f"The server was built with blocks of {sizes[0]} and WAL blocks of {sizes[1]} bytes; "
            f"only {BLOCK_BYTES} is understood.",
            "There is no remedy but a server built with the default sizes.",
        )


def _check_role(facts: _Facts) -> Iterator[Finding]:
    row = facts.row
    if not (row.may_replicate or row.is_superuser):
        yield _fail(
            "role",
            f"The role {row.role} may not replicate, and streaming, slots and base backups need "
            "that.",
            f"As a superuser: ALTER ROLE {_quoted(row.role)} REPLICATION; or make a role for "
            f"pitr: psql -v role=pitr -f {role_script()}",
        )
        return
    if row.is_superuser:
        yield _warning(
            "role",
            f"The role {row.role} is a superuser, which capture has no need of.",
            f"Make a role with the least rights: psql -v role=pitr -f {role_script()}",
        )
    else:
        yield _ok("role", f"{row.role} may replicate.")
    if not row.may_make_points and not row.is_standby:
        yield _ok(
            "restore points",
            "The role may make none: 'pitr mark' notes the WAL position instead, which is as good "
            "a target.",
        )


def _check_replication(facts: _Facts) -> Iterator[Finding]:
    """Try what the role's attribute alone does not tell: pg_hba.conf, a pooler, free senders."""
    if not (facts.row.may_replicate or facts.row.is_superuser):
        return
    try:
        with closing(connect_replication(facts.wish.place, program="pitr check")) as sender:
            found = identify(sender)
    except PitrError as error:
        yield _as_finding("replication", error)
        return
    if found.system_identifier != str(facts.row.system_identifier):
        yield _fail(
            "replication",
            f"Replication leads to another cluster: {found.system_identifier}.",
            "Name the server itself, not a pooler or a list of hosts with different clusters.",
        )
        return
    yield _ok("replication", f"A WAL sender answers, on timeline {found.timeline}.")


def _check_wal(facts: _Facts) -> Iterator[Finding]:
    row = facts.row
    segment = f"segments of {row.number('wal_segment_size') >> 20} MB"
    if row.settings["wal_level"] == "minimal":
        yield _fail(
            "wal_level",
            "With wal_level = minimal the WAL cannot be replayed onto a base.",
            "ALTER SYSTEM SET wal_level = 'replica'; then restart the server.",
        )
    else:
        yield _ok("wal_level", f"{row.settings['wal_level']}, in {segment}.")
    if not row.is_on("full_page_writes"):
        yield _fail(
            "full_page_writes",
            "They are off: tables are recovered from the page images in the WAL, and the server "
            "itself may lose pages in a crash.",
            "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();",
        )
    if not row.is_on("fsync"):
        yield _warning(
            "fsync",
            "It is off: after a power loss the server may go on from before what is archived.",
            "ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();",
        )
    if row.unlogged_tables:
        yield _warning(
            "unlogged tables",
            f"{row.unlogged_tables} tables of this database are unlogged: nothing of them is in "
            "the WAL, so nothing of them can come back.",
            "ALTER TABLE … SET LOGGED; for each that matters.",
        )


def _check_checksums(facts: _Facts) -> Iterator[Finding]:
    row = facts.row
    if row.is_on("data_checksums"):
        yield _ok("checksums", "Pages have checksums: a base backup verifies them.")
        return
    hints = "wal_log_hints is on" if row.is_on("wal_log_hints") else "wal_log_hints is off as well"
    yield _warning(
        "checksums",
        f"Pages have no checksums ({hints}): a page that rots on the server's disk goes into "
        "bases unnoticed.",
        "With the server stopped: pg_checksums --enable -D DATA_DIRECTORY",
    )


def _check_senders(facts: _Facts) -> Iterator[Finding]:
    limit = facts.row.number("max_wal_senders")
    free = limit - facts.row.senders
    wanted = _SENDERS_WANTED
    if facts.slot is not None and facts.slot.active_pid is not None:
        wanted -= 1  # a capture streams already
    said = f"{facts.row.senders} of max_wal_senders = {limit} are at work"
    remedy = f"ALTER SYSTEM SET max_wal_senders = {limit - free + wanted}; then restart the server."
    if free <= 0:
        yield _fail("WAL senders", f"{said}: none is free.", remedy)
    elif free < wanted:
        detail = f"{said}: capture and a backup beside it take two."
        yield _warning("WAL senders", detail, remedy)
    else:
        yield _ok("WAL senders", f"{said}.")


def _check_slot(facts: _Facts) -> Iterator[Finding]:
    slot, name = facts.slot, facts.wish.slot
    limit = facts.row.number("max_replication_slots")
    if slot is None:
        if facts.row.slots >= limit:
            yield _fail(
                "slot",
                f"All {limit} replication slots of max_replication_slots are in use.",
                f"ALTER SYSTEM SET max_replication_slots = {limit + 1}; then restart the server; "
                "or drop one that nobody uses: SELECT * FROM pg_replication_slots;",
            )
        else:
            yield _ok("slot", f"{name} will be made; {facts.row.slots} of {limit} are in use.")
    elif not slot.is_physical:
        yield _fail(
            "slot",
            f"{name} is there and is a logical slot, so it belongs to somebody else.",
            'Choose another name: slot = "…" in pitr.toml.',
        )
    elif slot.is_lost:
        yield _fail(
            "slot",
            f"{name} is lost: the server has thrown away WAL that was not archived yet.",
            f"SELECT pg_drop_replication_slot('{name}'); then 'pitr backup', which begins anew; "
            "the gap stays.",
        )
    else:
        by = f"process {slot.active_pid} streams" if slot.active_pid else "nobody streams"
        yield _ok("slot", f"{name} is there, {by}; it keeps {slot.kept_bytes >> 20} MB of WAL.")


def _check_slot_limit(facts: _Facts) -> Iterator[Finding]:
    """The trade between production's disk and the archive's continuity is the user's to make."""
    limit = facts.row.number("max_slot_wal_keep_size")
    raised = "ALTER SYSTEM SET max_slot_wal_keep_size = '{}'; SELECT pg_reload_conf();"
    if limit < 0:
        yield _warning(
            "max_slot_wal_keep_size",
            "It is unlimited: while capture stands still, WAL piles up until production's disk is "
            "full and the server stops. With a limit the server throws WAL away instead: then the "
            "archive has a gap, and production goes on.",
            raised.format("20GB") + " Choose what the disk can spare and the longest standstill "
            "needs.",
        )
    elif limit < _KEPT_MEGABYTES_MIN:
        yield _warning(
            "max_slot_wal_keep_size",
            f"It is {limit} MB: a standstill of capture that is longer than this much WAL leaves a "
            "gap in the archive.",
            raised.format(f"{_KEPT_MEGABYTES_MIN}MB") + " or more, if the disk can spare it.",
        )
    else:
        yield _ok("max_slot_wal_keep_size", f"{limit} MB of WAL may wait for capture.")
    idle = facts.row.settings.get("idle_replication_slot_timeout", "0")  # since version 18
    if int(idle):
        yield _warning(
            "idle_replication_slot_timeout",
            f"A capture that stands still for {idle} (in the setting's unit) loses its slot.",
            "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();",
        )


def _check_machine(facts: _Facts) -> Iterator[Finding]:
    """Look at this machine: the programs for sidecars, room for the spool, the clock."""
    wish, major = facts.wish, facts.row.major
    try:
        found = find_binaries(major, chosen=wish.pg_bindir)
        yield _ok("programs", f"Sidecars use {found.folder}.")
    except PitrError as error:
        detail = f"{error.detail or ''} Capture and log work without; restore needs them."
        yield _warning("programs", f"{_sentence(error.message)} {detail}", error.advice or "")
    free = shutil.disk_usage(_existing(wish.spool)).free
    if free < wish.spool_bytes_max:
        yield _warning(
            "spool",
            f"{wish.spool} has {free >> 20} MB free, and spool_limit allows "
            f"{wish.spool_bytes_max >> 20} MB to wait there while the store fails.",
            "Make room, set spool_limit lower, or set state to a folder on a larger disk.",
        )
    if abs(facts.skew_seconds) > SKEW_SECONDS_MAX:
        which = "ahead of" if facts.skew_seconds > 0 else "behind"
        yield _warning(
            "clock",
            f"The server's clock is {abs(facts.skew_seconds):.1f} s {which} this machine's. "
            "Targets count from the server's clock.",
            "Let both follow NTP, as with chrony or systemd-timesyncd.",
        )


_POINTS: Sequence[Callable[[_Facts], Iterator[Finding]]] = (
    _check_version,
    _check_role,
    _check_replication,
    _check_wal,
    _check_checksums,
    _check_senders,
    _check_slot,
    _check_slot_limit,
    _check_machine,
)


def _ok(subject: str, detail: str) -> Finding:
    return Finding(Level.OK, subject, detail)


def _warning(subject: str, detail: str, remedy: str) -> Finding:
    return Finding(Level.WARNING, subject, detail, remedy)


def _fail(subject: str, detail: str, remedy: str) -> Finding:
    return Finding(Level.FAIL, subject, detail, remedy)


def _as_finding(subject: str, error: PitrError) -> Finding:
    detail = f"{_sentence(error.message)} {error.detail or ''}".strip()
    return _fail(subject, detail, error.advice or "")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _quoted(name: str) -> str:
    """Return an identifier as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())
