"""Find the stop that a target means by reading the WAL itself, where there is no index of it.

A state is everything that was committed up to a stop: the commits whose record ends at or before
it. "At T" is the state before the first commit, in the order of the WAL, that is later than T:
commit times are not in order, and recovery can only stop between two records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

from pitr.errors import ArchiveGap, ArchiveLacks, OutsideWindow, UsageError
from pitr.postgres.selection.by_wal import WalWindow, scans
from pitr.postgres.wal.fields import EPOCH_SHIFT_US
from pitr.postgres.wal.page import align
from pitr.postgres.wal.payload import RestorePoint, decode_payload
from pitr.postgres.wal.record import ID_DATA_LONG, ID_DATA_SHORT, decode_record
from pitr.postgres.wal.scan import Scan
from pitr.postgres.wal.transaction import COMMIT, HAS_INFO, OPERATION_MASK, TransactionEnd
from pitr.postgres.wal.versions import RM_XACT, RM_XLOG, WalVersion, version_of_major
from pitr.target_text import format_time
from pitr.vocabulary.position import Lsn
from pitr.vocabulary.target import (
    CommitTarget,
    LatestTarget,
    LsnTarget,
    NameTarget,
    RelativeTarget,
    ResolvedTarget,
    Target,
    TimeTarget,
    TransactionAt,
    XidTarget,
)

_RESTORE_POINT = 0x70
_INFO_AT = 16


@dataclass(frozen=True, slots=True)
class CommitAt:
    """One commit in the WAL: where its record begins and ends, whose it is and when it was."""

    lsn: int
    end: int
    xids: tuple[int, ...]
    time_us: int


@dataclass(frozen=True, slots=True)
class FoundTarget:
    """A target and the stop that it came to; `commit` is the one that an xid target names."""

    target: ResolvedTarget
    stop: Lsn
    commit: CommitAt | None = None


class WalTargets:
    """The targets in one window of WAL, which is read whole, once."""

    def __init__(
        self, window: WalWindow, *, begin: Lsn, missing: tuple[Lsn, Lsn] | None = None
    ) -> None:
        """Read the WAL. No target lies before `begin`, the end of the base backup.

        `missing` is the gap that the window ends at, when there is WAL behind it.
        """
        self._begin = begin
        self._missing = missing
        self._end = begin
        self._commits: list[CommitAt] = []
        self._names: dict[str, int] = {}
        version = version_of_major(window.wal.major)
        for scan in scans(window, is_open=True):
            self._add(window, scan, version)

    def resolve(self, target: Target, *, now_us: int) -> FoundTarget:
        """Return the stop that a target means.

        Raises OutsideWindow, ArchiveLacks for what the WAL does not have, UsageError.
        """
        match target:
            case LatestTarget():
                if self._missing is not None:
                    raise self._lacking("the end of the WAL cannot be reached", "", "")
                return self._found(self._end.value, None)
            case LsnTarget(lsn):
                return self._at_lsn(lsn)
            case TimeTarget(time_us):
                return self._at_time(time_us)
            case RelativeTarget():
                return self._at_time(target.time_us(now_us))
            case XidTarget(xid, before):
                return self._at_xid(xid, before=before)
            case NameTarget(name):
                return self._at_name(name)
            case CommitTarget():
                raise UsageError(
                    "this target is not for a PostgreSQL source",
                    detail="Commit numbers belong to SQLite; PostgreSQL has LSNs and xids.",
                    hint="Use 'lsn:…', 'xid:…' or 'before:xid:…'; 'pitr log' lists them.",
                )
            case _:
                assert_never(target)

    def _add(self, window: WalWindow, scan: Scan, version: WalVersion) -> None:
        geometry = window.geometry
        for row, data in scan.kept():
            manager, lsn = scan.records.rmgr[row], scan.records.lsn[row]
            if manager == RM_XACT:
                end = geometry.end(geometry.position(lsn) + align(len(data)))
                self._commits += _commits(lsn, end, data, version)
            elif manager == RM_XLOG and data[_INFO_AT] & 0xF0 == _RESTORE_POINT:
                payload = decode_payload(decode_record(lsn, data, version), version)
                if isinstance(payload, RestorePoint):
                    self._names[payload.name] = geometry.end(
                        geometry.position(lsn) + align(len(data))
                    )
        if len(scan.records):
            last = len(scan.records) - 1
            at = geometry.position(scan.records.lsn[last]) + align(scan.records.length[last])
            self._end = Lsn(geometry.end(at))

    def _at_lsn(self, lsn: Lsn) -> FoundTarget:
        if not self._begin <= lsn <= self._end:
            raise self._outside(f"lsn:{lsn}", is_early=lsn < self._begin)
        return self._found(lsn.value, None)

    def _at_time(self, time_us: int) -> FoundTarget:
        text = format_time(time_us)
        later = next((commit for commit in self._commits if commit.time_us > time_us), None)
        if later is None:
            # What was committed after the last archived commit is not known here.
            newest = max((commit.time_us for commit in self._commits), default=0)
            if time_us > newest:
                raise self._outside(text, is_early=False)
            return self._found(self._end.value, time_us)
        if later.lsn < self._begin.value or later is self._commits[0]:
            raise self._outside(text, is_early=True)
        return self._found(later.lsn, time_us)

    def _at_xid(self, xid: int, *, before: bool) -> FoundTarget:
        xid &= 0xFFFFFFFF
        found = next((commit for commit in reversed(self._commits) if xid in commit.xids), None)
        if found is None:
            raise self._lacking(
                f"transaction {xid} is not in the WAL",
                f"Searched is the WAL from {self._begin} to {self._end}; a transaction that "
                "wrote nothing has no xid, and one that was rolled back changed nothing.",
                "Choose another target.",
            )
        stop = found.lsn if before else found.end
        if stop < self._begin.value:
            raise self._outside(f"xid:{xid}", is_early=True)
        target = self._found(stop, None)
        return FoundTarget(target.target, target.stop, found)

    def _at_name(self, name: str) -> FoundTarget:
        if name not in self._names:
            known = ", ".join(sorted(self._names)) or "none"
            raise self._lacking(
                f"there is no restore point {name!r} in the WAL",
                f"There are: {known}.",
                "Choose one of them, or another target.",
            )
        return self._at_lsn(Lsn(self._names[name]))

    def _found(self, stop: int, time_us: int | None) -> FoundTarget:
        last = next((commit for commit in reversed(self._commits) if commit.end <= stop), None)
        following = next((commit for commit in self._commits if commit.end > stop), None)
        target = ResolvedTarget(time_us, f"lsn:{Lsn(stop)}", _at(last), _at(following))
        return FoundTarget(target, Lsn(stop))

    def _outside(self, text: str, *, is_early: bool) -> ArchiveLacks:
        first, last = self._commits[:1], self._commits[-1:]
        times = " to ".join(format_time(commit.time_us) for commit in (*first, *last))
        commits = f", with commits from {times}." if times else ", without a commit."
        covered = f"They cover {self._begin} to {self._end}{commits}"
        if is_early:
            return OutsideWindow(
                f"target {text} lies before what base backup and WAL cover",
                detail=covered,
                hint="Use an earlier base backup, or a later target.",
            )
        return self._lacking(
            f"target {text} lies after what base backup and WAL cover",
            covered,
            "Use 'latest' for the end of the WAL.",
            OutsideWindow,
        )

    def _lacking(
        self, message: str, detail: str, hint: str, kind: type[ArchiveLacks] = ArchiveLacks
    ) -> ArchiveLacks:
        """Return the error for what is not in the WAL; it names a gap behind which it may be."""
        if self._missing is None:
            return kind(message, detail=detail, hint=hint)
        begin, end = self._missing
        return ArchiveGap(
            message,
            detail=f"WAL is missing from {begin} to {end}. {detail}".strip(),
            hint=f"Add these segments, or use a target up to 'lsn:{self._end}'.",
        )


def _at(commit: CommitAt | None) -> TransactionAt | None:
    return TransactionAt(f"lsn:{Lsn(commit.end)}", commit.time_us) if commit else None


def _commits(lsn: int, end: int, data: bytes, version: WalVersion) -> Iterator[CommitAt]:
    """Yield the commit that a record of Transaction is, if it is one."""
    info = data[_INFO_AT]
    if info & (OPERATION_MASK | HAS_INFO) == COMMIT and data[24] in (ID_DATA_SHORT, ID_DATA_LONG):
        # Most of all: nothing but a time, so it need not be taken apart.
        at = 26 if data[24] == ID_DATA_SHORT else 29
        time_us = int.from_bytes(data[at : at + 8], "little", signed=True) + EPOCH_SHIFT_US
        yield CommitAt(lsn, end, (int.from_bytes(data[4:8], "little"),), time_us)
        return
    payload = decode_payload(decode_record(lsn, data, version), version)
    if isinstance(payload, TransactionEnd) and payload.is_commit:
        yield CommitAt(lsn, end, (payload.xid, *payload.subxids), payload.time_us)
