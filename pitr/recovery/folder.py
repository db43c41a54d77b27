"""The folders of recoveries: made whole or not at all, listed, dropped, swept.

    STATE/recoveries/2026-11-22-140259-orders/
        maker            held with flock by the process that makes the recovery, then removed
        elsewhere        folders outside that belong to the recovery and go with it, one a line
        */*/lock         held with flock while something of the recovery is in use; */lock elsewhere
        recovery.json    what the recovery is; written last
        ...              the sidecar and whatever belongs to it

A folder without recovery.json is no recovery. While its maker lives, the kernel holds the lock;
once nobody holds it the folder is a leftover, however the maker ended, and is swept.
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

from pitr.durable import make_folder, private, write_new
from pitr.errors import Corrupt, PreconditionFailed, UsageError
from pitr.vocabulary.target import ResolvedTarget

SCHEMA = 1
_ABOUT = "recovery.json"
_MAKER = "maker"
_ELSEWHERE = "elsewhere"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


@dataclass(frozen=True, slots=True)
class RecoveredTable:
    """One table of a recovery, with its rows in the sidecar.

    `columns` are those that alone are compared and set back; all of them when None.
    """

    table: str
    rows: int
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """One recovery, as recovery.json has it.

    `source` is None when only the archive was known. `target` is the text as the user typed it,
    `sidecar` an absolute path, inside the folder or where --to put it. `seconds` is the time to
    the usable sidecar, `bytes_read` what was read from the archive for it. `until` is the state
    just after the damage, where it is known; `with_parents` and `with_children` say that a merge is
    to bring back kin as well, and `kin` names the tables that the sidecar holds for that alone:
    only rows that foreign keys lead to are taken of them. `kind` is "restore", or "revert" where
    before and after are the two sides of one transaction.
    """

    id: str
    engine: str
    source: str | None
    archive: str
    created_us: int
    target: str
    resolved: ResolvedTarget
    sidecar: str
    tables: tuple[RecoveredTable, ...]
    where: str | None
    seconds: float
    bytes_read: int
    # What came later has a default: recoveries made before it stay readable.
    kind: str = "restore"
    until: ResolvedTarget | None = None
    with_parents: bool = False
    with_children: bool = False
    kin: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewRecovery:
    """A recovery being made: its folder exists, is empty, and is ours."""

    id: str
    folder: Path

    def claim(self, folder: Path) -> None:
        """Let a folder outside go away with this recovery; call it before making the folder.

        Its name is the id, so that no other folder can be meant. Raises OSError.
        """
        if folder.name != self.id or not folder.is_absolute():
            raise ValueError(f"{folder} is no folder of the recovery {self.id}")
        with open(self.folder / _ELSEWHERE, "a", opener=private) as file:
            file.write(f"{folder}\n")

    def finish(self, recovery: Recovery) -> None:
        """Write recovery.json; from now on this is a recovery. Durable on return."""
        if recovery.id != self.id:
            raise ValueError(f"recovery {recovery.id!r} in the folder of {self.id!r}")
        document = {"schema": SCHEMA, **msgspec.to_builtins(recovery)}
        data = msgspec.json.format(msgspec.json.encode(document), indent=2)
        with _reported(self.folder):
            make_folder(self.folder)  # it is there; this makes its name durable
            write_new(self.folder / _ABOUT, data + b"\n")


@contextlib.contextmanager
def new_recovery(state: Path, *, label: str, now_us: int) -> Iterator[NewRecovery]:
    """Make the folder of a recovery; remove it again when the block ends without `finish`.

    The id is the time (UTC, so that ids sort) and `label`, and a number where that is taken.
    Sweeps leftovers first. Raises PreconditionFailed when the state folder cannot be written.
    """
    recoveries = state / "recoveries"
    with _reported(recoveries):
        make_folder(recoveries)
        sweep(state)
        new, maker = _reserve(recoveries, _stem(label, now_us))
    try:
        yield new
    finally:
        if (new.folder / _ABOUT).exists():
            (new.folder / _MAKER).unlink(missing_ok=True)
        else:
            _remove(new.folder)
        os.close(maker)


def _stem(label: str, now_us: int) -> str:
    moment = datetime.fromtimestamp(now_us // 1_000_000, UTC)
    word = re.sub(r"[^A-Za-z0-9_]+", "-", label).strip("-")[:40] or "recovery"
    return f"{moment:%Y-%m-%d-%H%M%S}-{word}"


def _reserve(recoveries: Path, stem: str) -> tuple[NewRecovery, int]:
    """Make the first free folder of that name and lock it; return also the lock's descriptor."""
    number = 1
    while True:
        new_id = stem if number == 1 else f"{stem}-{number}"
        number += 1
        folder = recoveries / new_id
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            continue
        maker = _lock(folder)
        if maker is None:
            continue
        # Between mkdir and lock another maker may have had the folder, and died in it.
        if [entry.name for entry in folder.iterdir()] == [_MAKER]:
            os.write(maker, f"{os.getpid()}\n".encode())
            return NewRecovery(new_id, folder), maker
        os.close(maker)


def _lock(folder: Path) -> int | None:
    """Lock a folder that is not a recovery yet; return the descriptor that holds the lock.

    None when another process has it, when it is gone, or when it has become a recovery.
    """
    path = folder / _MAKER
    try:
        maker = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(maker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between open and flock the file may have been removed: then this locks nothing.
        if os.fstat(maker).st_nlink > 0:
            if not (folder / _ABOUT).exists():
                return maker
            path.unlink(missing_ok=True)
    except BlockingIOError:
        pass
    os.close(maker)
    return None


def sweep(state: Path) -> list[str]:
    """Remove what makers that are gone left unfinished; return the ids. Raises OSError."""
    swept = []
    for folder in _folders(state):
        if (folder / _ABOUT).exists():
            continue
        maker = _lock(folder)
        if maker is None:
            continue
        # Another maker may take the folder over in the moment its lock file is gone: then the
        # folder does not go away, and that is right.
        _remove(folder)
        os.close(maker)
        if not folder.exists():
            swept.append(folder.name)
    return swept


def _remove(folder: Path) -> None:
    """Remove a leftover as far as it can be, with what belongs to it elsewhere."""
    with contextlib.suppress(OSError):
        _remove_elsewhere(folder)
        shutil.rmtree(folder)


def _remove_elsewhere(folder: Path) -> None:
    """Remove the folders that a recovery claimed. Raises OSError."""
    for place in _elsewhere(folder):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(place)


@contextlib.contextmanager
def _unused(folder: Path) -> Iterator[None]:
    """Hold all locks of a recovery. Raises PreconditionFailed when another process has one."""
    places = [(folder, "*/*/lock"), *((place, "*/lock") for place in _elsewhere(folder))]
    with contextlib.ExitStack() as stack:
        for path in (path for place, pattern in places for path in place.glob(pattern)):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PreconditionFailed(
                    f"recovery {folder.name!r} is in use",
                    detail="Another command runs its server, as 'pitr recoveries psql' does.",
                    hint="End that command first.",
                ) from None
        yield


def _elsewhere(folder: Path) -> list[Path]:
    """Return the folders outside that a recovery claimed."""
    try:
        lines = (folder / _ELSEWHERE).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [Path(line) for line in lines if Path(line).name == folder.name]


def _folders(state: Path) -> list[Path]:
    """Return the folders that may hold recoveries, in the order of their ids."""
    try:
        entries = sorted((state / "recoveries").iterdir())
    except FileNotFoundError:
        return []
    return [entry for entry in entries if _ID.fullmatch(entry.name) and entry.is_dir()]


def list_recoveries(state: Path) -> list[Recovery]:
    """Return all recoveries, newest last.

    Raises Corrupt, naming the recovery, when a recovery.json is damaged; PreconditionFailed when
    the state folder cannot be read or a newer pitr wrote it.
    """
    with _reported(state):
        found = [_read(folder) for folder in _folders(state) if (folder / _ABOUT).exists()]
    return sorted(found, key=lambda recovery: (recovery.created_us, recovery.id))


def read_recovery(state: Path, recovery_id: str | None = None) -> Recovery:
    """Return one recovery, or the newest. Raises UsageError when there is none, and as above."""
    if recovery_id is not None:
        folder = recovery_folder(state, recovery_id)
        with _reported(folder):
            return _read(folder)
    recoveries = list_recoveries(state)
    if not recoveries:
        raise UsageError(
            "there is no recovery yet",
            detail=f"None was made in {state}.",
            hint="Make one with 'pitr restore -t TABLE --at TARGET'.",
        )
    return recoveries[-1]


def drop_recovery(state: Path, recovery_id: str) -> None:
    """Remove the folder of a recovery, damaged or not. A sidecar outside it is left alone.

    Raises UsageError when there is no such recovery, PreconditionFailed, as when it is in use.
    """
    folder = recovery_folder(state, recovery_id)
    with _reported(folder), _unused(folder):
        # First what makes it a recovery: killed here, the rest is a leftover that gets swept.
        (folder / _ABOUT).unlink()
        with contextlib.suppress(FileNotFoundError):  # a sweep may be at it already
            _remove_elsewhere(folder)
            shutil.rmtree(folder)


def recovery_folder(state: Path, recovery_id: str) -> Path:
    """Return the folder of a recovery that exists. Raises UsageError for any other id."""
    folder = state / "recoveries" / recovery_id
    # The pattern comes first: it keeps '..' and '/' away from the file system.
    if not _ID.fullmatch(recovery_id) or not (folder / _ABOUT).exists():
        raise UsageError(
            f"there is no recovery {recovery_id!r}",
            detail=f"None of that id is in {state}.",
            hint="List them with 'pitr recoveries'.",
        )
    return folder


def _read(folder: Path) -> Recovery:
    data = (folder / _ABOUT).read_bytes()
    try:
        document = msgspec.json.decode(data, type=dict[str, object])
        schema = document.pop("schema", None)
        if isinstance(schema, int) and schema > SCHEMA:
            raise PreconditionFailed(
                f"recovery {folder.name!r} was made by a newer pitr",
                detail=f"Its schema is {schema}; this version reads {SCHEMA}.",
                hint="Use that version of pitr, or drop it with "
                f"'pitr recoveries drop {folder.name}'.",
            )
        recovery = msgspec.convert(document, Recovery)
        if schema != SCHEMA or recovery.id != folder.name:
            raise ValueError(f"schema {schema}, id {recovery.id}")
    except (ValueError, RecursionError) as error:  # msgspec's own errors are ValueErrors
        raise Corrupt(
            f"recovery {folder.name!r} is damaged",
            detail=f"{folder / _ABOUT}: {error}.",
            hint=f"Drop it with 'pitr recoveries drop {folder.name}', and restore again.",
        ) from None
    return recovery


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error with a next step."""
    try:
        yield
    except OSError as error:
        raise PreconditionFailed(
            f"recovery folder cannot be used: {path}",
            detail=f"{error.strerror}: {error.filename}.",
            hint="Give this user read and write access to it, or set PITR_STATE to another folder.",
        ) from None
