"""The server of a recovery: where its folder is, what is needed to start it again."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from pitr.config import Settings
from pitr.durable import write_new
from pitr.errors import Corrupt, PreconditionFailed
from pitr.postgres.replay.replay import ReplayedTables, ServerTools
from pitr.postgres.replay.server import (
    ServerAccount,
    ServerFolder,
    can_reach,
    find_binaries,
    server_account,
)
from pitr.recovery.folder import NewRecovery, Recovery, recovery_folder

_ABOUT = "server.json"
_FOLDER = "server"
# For root: a place that the account of the servers can walk to, which root's own folders are not.
_ROOTS_PLACE = Path("/var/lib/pitr")


class KeptServer(msgspec.Struct, frozen=True, kw_only=True):
    """What starts the server of a recovery again; `after` is the folder of the later state's."""

    folder: str
    major: int
    superuser: str
    database: str
    after: str | None = None


@dataclass(frozen=True, slots=True)
class SidecarServer:
    """The server of a recovery, stopped, and the database that its tables are in.

    `after` is the server with the state after the damage, where there is one.
    """

    server: ServerFolder
    database: str
    after: ServerFolder | None = None


def server_tools(settings: Settings, major: int) -> ServerTools:
    """Return what private servers of a version are run with. Raises PreconditionFailed."""
    binaries = find_binaries(major, chosen=settings.pg_bindir)
    return ServerTools(binaries, server_account(settings.sidecar_user))


def new_sidecar(settings: Settings, new: NewRecovery, account: ServerAccount) -> Path:
    """Make the folder for a recovery's servers: in the recovery's own, or where they can reach it.

    It goes away with the recovery. Raises PreconditionFailed when it cannot be made.
    """
    folder = new.folder / _FOLDER
    try:
        if settings.sidecar_folder is not None or os.geteuid() == 0:
            place = settings.sidecar_folder or _ROOTS_PLACE
            place.mkdir(mode=0o711, parents=True, exist_ok=True)
            folder = place / new.id
            new.claim(folder)
        folder.mkdir(mode=0o700)
        account.own(folder)
        if not can_reach(account, folder.parent):
            raise PermissionError(13, f"{account.name} may not walk to it", str(folder.parent))
    except OSError as error:
        raise PreconditionFailed(
            f"the folder for the sidecar cannot be made: {folder}",
            detail=f"{error.strerror}: {error.filename}.",
            hint="Name a folder that it may be in with sidecar_folder in pitr.toml or "
            "PITR_SIDECAR_FOLDER; the user of the sidecar must be able to walk to it.",
        ) from None
    return folder


def keep_server(
    new: NewRecovery, replayed: ReplayedTables, after: ReplayedTables | None = None
) -> None:
    """Note in the folder of a recovery what starts its servers again."""
    server = replayed.server
    kept = KeptServer(
        folder=str(server.folder),
        major=server.binaries.major,
        superuser=server.superuser,
        database=replayed.catalogs.database,
        after=str(after.server.folder) if after else None,
    )
    write_new(new.folder / _ABOUT, msgspec.json.format(msgspec.json.encode(kept)) + b"\n")


def kept_server(settings: Settings, recovery: Recovery) -> SidecarServer:
    """Return the stopped server of a recovery.

    Raises PreconditionFailed when its folder or the programs are gone, Corrupt.
    """
    path = recovery_folder(settings.state, recovery.id) / _ABOUT
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=KeptServer)
    except (OSError, msgspec.DecodeError) as error:
        raise Corrupt(
            f"recovery {recovery.id!r} is damaged",
            detail=f"{path}: {error}.",
            hint=f"Drop it with 'pitr recoveries drop {recovery.id}', and restore again.",
        ) from None
    folder = Path(kept.folder)
    if not folder.is_dir():
        raise PreconditionFailed(
            f"the sidecar of {recovery.id} is gone",
            detail=f"There is no folder {folder}.",
            hint=f"Restore again, or drop it with 'pitr recoveries drop {recovery.id}'.",
        )
    binaries = find_binaries(kept.major, chosen=settings.pg_bindir)
    account = server_account(settings.sidecar_user)
    server = ServerFolder(folder, binaries, account, kept.superuser)
    after = replace(server, folder=Path(kept.after)) if kept.after else None
    return SidecarServer(server, kept.database, after)
