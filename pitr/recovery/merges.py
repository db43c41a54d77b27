"""The records of merges, in the folder of their recovery: what an undo needs, before COMMIT.

    STATE/recoveries/<recovery>/merges/<merge>/
        runner           held with flock by the process that runs the merge
        before.db        the rows that it touches, as they were before it (SQLite)
        after.db         the same rows as it makes them (SQLite)
        rows.json, …     both, in files of their own (PostgreSQL)
        merge.json       what the merge is; written last before COMMIT
        outcome.json     what became of it; written after COMMIT

A folder without merge.json is a merge that never came to its COMMIT, and is swept. With merge.json
and without outcome.json the process ended somewhere around COMMIT: only the rows can tell whether
the merge happened. An undo is a merge too, and has a record of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pitr.durable import make_folder, write_new
from pitr.errors import Corrupt, Interrupted, PreconditionFailed, UsageError
from pitr.recovery.folder import list_recoveries, recovery_folder
from pitr.vocabulary.plan import MergeOutcome

SCHEMA = 1
_MERGES = "merges"
_RUNNER = "runner"
_ABOUT = "merge.json"
_OUTCOME = "outcome.json"
_BEFORE, _AFTER = "before.db", "after.db"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedTable:
    """One table of a merge with the rows that it wrote; `created`: the merge made the table."""

    table: str
    inserted: int
    updated: int
    deleted: int
    created: bool


@dataclass(frozen=True, slots=True)
class KeptDefinition:
    """What a merge on PostgreSQL made: table, type, domain or schema.

    `stamp` stands for a table's definition as the merge left it.
    """

    kind: str
    schema: str
    name: str
    stamp: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldNumber:
    """Up to where WAL was on disk that keeps the transaction's number from being given away again.

    PostgreSQL's system identifier, the timeline that was written, and the LSN.
    """

    system_identifier: str
    timeline: int
    lsn: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRecord:
    """One merge, as merge.json has it.

    `source` is the absolute path of the database, or the place of a server without a password.
    `undoes` is the merge that this one takes back. `rebuilt` are full-text indexes that it built
    anew. `xid` is the transaction of PostgreSQL, with its epoch; `held` says for which servers
    that number is surely its own, None when for none. `made` is what it made there.
    """

    id: str
    recovery: str
    engine: str
    source: str
    created_us: int
    undoes: str | None
    tables: tuple[MergedTable, ...]
    skipped: int
    rebuilt: tuple[str, ...]
    xid: str | None = None
    held: HeldNumber | None = None
    made: tuple[KeptDefinition, ...] = ()

    @property
    def rows(self) -> tuple[int, int, int]:
        """Return the rows inserted, updated and deleted, all tables together."""
        return (
            sum(table.inserted for table in self.tables),
            sum(table.updated for table in self.tables),
            sum(table.deleted for table in self.tables),
        )


@dataclass(frozen=True, slots=True)
class KeptMerge:
    """A merge with its folder; `outcome` is None while it is not known."""

    record: MergeRecord
    folder: Path
    outcome: MergeOutcome | None

    @property
    def before(self) -> Path:
        """Return the file with the rows before the merge."""
        return self.folder / _BEFORE

    @property
    def after(self) -> Path:
        """Return the file with the rows after the merge."""
        return self.folder / _AFTER

    @property
    def is_running(self) -> bool:
        """Return whether the process that runs it still lives."""
        runner = _lock(self.folder)
        if runner is None:
            return True
        os.close(runner)
        return False

    def conclude(self, outcome: MergeOutcome) -> None:
        """Note what became of it, durably; what is noted already stays."""
        _conclude(self.folder, outcome)


@dataclass(frozen=True, slots=True)
class NewMerge:
    """A merge being run: its folder exists and is ours."""

    id: str
    folder: Path

    def write(self, record: MergeRecord, *, before: bytes, after: bytes) -> None:
        """Write the record. On return it is durable, and COMMIT may follow."""
        with _reported(self.folder):
            make_folder(self.folder)  # it is there; this makes its name durable
            write_new(self.folder / _BEFORE, before)
            write_new(self.folder / _AFTER, after)
        self.seal(record)

    def seal(self, record: MergeRecord) -> None:
        """Write the record of a merge whose rows are durable in its folder already."""
        if record.id != self.id:
            raise ValueError(f"merge {record.id!r} in the folder of {self.id!r}")
        with _reported(self.folder):
            make_folder(self.folder)
            write_new(self.folder / _ABOUT, _document(msgspec.to_builtins(record)))

    def discard(self) -> None:
        """Remove the record of a merge that is known to have been rolled back."""
        with _reported(self.folder):
            (self.folder / _ABOUT).unlink(missing_ok=True)

    def conclude(self, outcome: MergeOutcome) -> None:
        """Note what became of it, durably."""
        _conclude(self.folder, outcome)


@contextlib.contextmanager
def new_merge(state: Path, recovery_id: str, *, label: str, now_us: int) -> Iterator[NewMerge]:
    """Make the folder of a merge; remove it again when the block ends without a record.

    Sweeps what dead processes left first. Raises UsageError when there is no such recovery,
    PreconditionFailed when the folder cannot be written, Interrupted for a Ctrl-C in the block once
    there is a record: what it is of may have been committed.
    """
    merges = recovery_folder(state, recovery_id) / _MERGES
    with _reported(merges):
        make_folder(merges)
        _sweep(merges)
        new, runner = _reserve(state, merges, _stem(label, now_us))
    try:
        yield new
    except KeyboardInterrupt:
        if not (new.folder / _ABOUT).exists():
            raise
        raise Interrupted(
            "interrupted while the rows were committed",
            detail=f"It may have been done, all of it; its record is {new.id}.",
            hint=f"'pitr recoveries' tells; 'pitr undo {new.id} --yes' takes it back.",
        ) from None
    finally:
        if not (new.folder / _ABOUT).exists():
            shutil.rmtree(new.folder, ignore_errors=True)
        os.close(runner)


def _stem(label: str, now_us: int) -> str:
    moment = datetime.fromtimestamp(now_us // 1_000_000, UTC)
    word = re.sub(r"[^A-Za-z0-9_]+", "-", label).strip("-")[:40] or "merge"
    return f"m-{moment:%Y-%m-%d-%H%M%S}-{word}"


def _reserve(state: Path, merges: Path, stem: str) -> tuple[NewMerge, int]:
    """Make and lock the first folder whose name no merge of any recovery has."""
    taken = {path.name for path in (state / "recoveries").glob(f"*/{_MERGES}/*")}
    number = 1
    while True:
        new_id = stem if number == 1 else f"{stem}-{number}"
        number += 1
        folder = merges / new_id
        if new_id in taken:
            continue
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            continue
        runner = _lock(folder)
        if runner is not None:
            return NewMerge(new_id, folder), runner


def _lock(folder: Path) -> int | None:
    """Lock the folder of a merge; None when another process has it."""
    runner = os.open(folder / _RUNNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(runner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(runner)
        return None
    return runner


def _sweep(merges: Path) -> None:
    for folder in merges.iterdir():
        if not folder.is_dir() or (folder / _ABOUT).exists():
            continue
        runner = _lock(folder)
        if runner is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(runner)


def list_merges(state: Path) -> list[KeptMerge]:
    """Return the merges of all recoveries, newest last. Raises Corrupt, PreconditionFailed."""
    found = [
        _read(folder)
        for recovery in list_recoveries(state)
        for folder in _folders(recovery_folder(state, recovery.id) / _MERGES)
    ]
    return sorted(found, key=lambda kept: (kept.record.created_us, kept.record.id))


def standing_merge(state: Path, recovery_id: str) -> KeptMerge | None:
    """Return the newest merge of a recovery that happened and has not been taken back since."""
    kept = [_read(folder) for folder in _folders(recovery_folder(state, recovery_id) / _MERGES)]
    taken_back: set[str] = set()
    for one in sorted(kept, key=lambda one: (one.record.created_us, one.record.id), reverse=True):
        if one.outcome is not MergeOutcome.HAPPENED or one.record.id in taken_back:
            continue
        if one.record.undoes is None:
            return one
        taken_back.add(one.record.undoes)
    return None


def read_merge(state: Path, merge_id: str) -> KeptMerge:
    """Return one merge. Raises UsageError when there is none of that id, and as above."""
    if _ID.fullmatch(merge_id):
        for folder in (state / "recoveries").glob(f"*/{_MERGES}/{merge_id}"):
            if (folder / _ABOUT).exists():
                return _read(folder)
    raise UsageError(
        f"there is no merge {merge_id!r}",
        detail=f"None of that id is in {state}.",
        hint="List the recoveries and their merges with 'pitr recoveries'.",
    )


def _folders(merges: Path) -> list[Path]:
    try:
        entries = sorted(merges.iterdir())
    except FileNotFoundError:
        return []
    return [entry for entry in entries if (entry / _ABOUT).exists()]


def _read(folder: Path) -> KeptMerge:
    with _reported(folder):
        try:
            record = msgspec.convert(_fields(folder / _ABOUT), MergeRecord)
            outcome = None
            if (folder / _OUTCOME).exists():
                outcome = MergeOutcome(str(_fields(folder / _OUTCOME)["outcome"]))
        except (ValueError, KeyError, RecursionError) as error:
            raise Corrupt(
                f"the record of the merge {folder.name!r} is damaged",
                detail=f"{folder}: {error}.",
                hint="Nothing is lost in the database; only this merge cannot be taken back.",
            ) from None
    return KeptMerge(record, folder, outcome)


def _fields(path: Path) -> dict[str, object]:
    document = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    schema = document.pop("schema", None)
    if isinstance(schema, int) and schema > SCHEMA:
        raise PreconditionFailed(
            f"{path.parent.name} was made by a newer pitr",
            detail=f"Its schema is {schema}; this version reads {SCHEMA}.",
            hint="Use that version of pitr.",
        )
    return document


def _conclude(folder: Path, outcome: MergeOutcome) -> None:
    with _reported(folder), contextlib.suppress(FileExistsError):
        write_new(folder / _OUTCOME, _document({"outcome": str(outcome)}))


def _document(fields: dict[str, object]) -> bytes:
    return msgspec.json.format(msgspec.json.encode({"schema": SCHEMA, **fields}), indent=2) + b"\n"


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error with a next step."""
    try:
        yield
    except OSError as error:
        raise PreconditionFailed(
            f"the record of a merge cannot be used: {path}",
            detail=f"{error.strerror}: {error.filename}.",
            hint="Give this user read and write access to it; nothing was changed.",
        ) from None
