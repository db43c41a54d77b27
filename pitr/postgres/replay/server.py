"""A private PostgreSQL server on a recovered data directory: found, started, stopped for certain.

    FOLDER/                 0700, belongs to the account that the server runs as
        data/               the data directory, with our own postgresql.conf and pg_hba.conf
        tablespaces/OID/    what the links in data/pg_tblspc point to
        server.log          everything the server said
        socket              the folder of the socket of the server that runs, a line of text
        lock                held with flock by the command that runs the server

The server listens on one socket in a 0700 folder with a short name under /tmp, never on TCP. It
gets SIGQUIT from the kernel when pitr dies, however that happens, so that none is left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from pitr.durable import private
from pitr.errors import PreconditionFailed, SidecarFailed

PORT = 5432
STANDBY_SIGNAL = "standby.signal"
_LOG, _SOCKET, _DATA, _LOCK = "server.log", "socket", "data", "lock"
_PDEATHSIG = 1  # prctl(2): PR_SET_PDEATHSIG
_LOG_LINES = 8
_STOP_SECONDS = 60.0
_NUDGE_SECONDS = 2.0
_FREE_BYTES_MIN = 1 << 20
# "starting" until the redo of the first checkpoint begins, for which a standby waits too.
_IN_RECOVERY = ("starting", "standby")
_FOLDERS = (
    "/usr/lib/postgresql/{}/bin",
    "/usr/pgsql-{}/bin",
    "/usr/local/pgsql-{}/bin",
    "/opt/homebrew/opt/postgresql@{}/bin",
    "/usr/local/pgsql/bin",
    "/usr/bin",
)

# Settings of ours that outrank ALTER ROLE … SET and ALTER DATABASE … SET of the recovered catalog.
_PINNED = {
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_isolation": "read\\ committed",
    "row_security": "off",
    "search_path": "pg_catalog",
    "client_min_messages": "warning",
    "session_replication_role": "replica",
}


# --- binaries and the account they run as --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerBinaries:
    """The folder with `postgres` and `psql` of one major version."""

    folder: Path
    major: int

    def path(self, program: str) -> Path:
        """Return the path of a program."""
        return self.folder / program


def find_binaries(major: int, *, chosen: Path | None = None) -> ServerBinaries:
    """Find the server programs of a major version: in the folder `chosen`, or where they are kept.

    Raises PreconditionFailed, naming the package, when there are none of that version.
    """
    on_path = shutil.which("postgres")
    places = [chosen] if chosen else [Path(place.format(major)) for place in _FOLDERS]
    if on_path and not chosen:
        places.append(Path(on_path).parent)
    for place in places:
        if _version(place / "postgres") == major:
            return ServerBinaries(place, major)
    raise PreconditionFailed(
        f"the programs of PostgreSQL {major} are not on this machine",
        detail=f"Looked in {', '.join(map(str, places))}.",
        hint=f"Install them, as in 'apt-get install postgresql-{major}' or 'dnf install "
        f"postgresql{major}-server', or name their folder with --pg-bindir.",
    )


def _version(program: Path) -> int | None:
    """Return the major version of a `postgres`, None when there is none or it does not run."""
    if not program.is_file():
        return None
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """The operating system's user that a server runs as; PostgreSQL refuses to run as root."""

    name: str
    uid: int
    gid: int

    def own(self, path: Path) -> None:
        """Give a file or folder to this account. Raises OSError."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def own_open(self, descriptor: int) -> None:
        """Give an open file to this account. Raises OSError."""
        if os.geteuid() == 0:
            os.fchown(descriptor, self.uid, self.gid)


def server_account(sidecar_user: str) -> ServerAccount:
    """Return the account for servers: our own, or as root that of `sidecar_user`.

    Raises PreconditionFailed when we are root and there is no such user.
    """
    if os.geteuid() != 0:
        own = pwd.getpwuid(os.geteuid())
        return ServerAccount(own.pw_name, own.pw_uid, own.pw_gid)
    try:
        found = pwd.getpwnam(sidecar_user)
    except KeyError:
        found = None
    if found is None or found.pw_uid == 0:
        raise PreconditionFailed(
            "there is no user to run the sidecar as",
            detail=f"PostgreSQL does not run as root, and {sidecar_user!r} is "
            f"{'root itself' if found else 'no user of this machine'}.",
            hint=f"Run 'useradd --system {sidecar_user if not found else 'postgres'}', or name "
            "another user: sidecar_user in pitr.toml, PITR_SIDECAR_USER.",
        )
    return ServerAccount(found.pw_name, found.pw_uid, found.pw_gid)


def can_reach(account: ServerAccount, folder: Path) -> bool:
    """Return whether the account may walk to a folder that exists, by the mode bits alone."""
    for step in (folder, *folder.parents):
        status = step.stat()
        shift = 6 if status.st_uid == account.uid else 3 if status.st_gid == account.gid else 0
        if account.uid != 0 and not status.st_mode >> shift & 1:
            return False
    return True


# --- a folder with a server's data ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerFolder:
    """A folder with one data directory, and who runs a server on it. `superuser` is a role."""

    folder: Path
    binaries: ServerBinaries
    account: ServerAccount
    superuser: str

    @property
    def data(self) -> Path:
        """Return the data directory."""
        return self.folder / _DATA

    @property
    def log(self) -> Path:
        """Return the file that the server's messages go to."""
        return self.folder / _LOG


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that accepts connections, for as long as the block that started it."""

    server: ServerFolder
    socket: Path

    def connect(self, database: str, *, read_only: bool = False) -> psycopg.Connection:
        """Connect as the superuser, in autocommit mode; settings in the catalog do not apply."""
        pinned = {**_PINNED, "default_transaction_read_only": "on" if read_only else "off"}
        if self.server.binaries.major >= 17:
            pinned["event_triggers"] = "off"
        return psycopg.connect(
            host=str(self.socket),
            port=PORT,
            user=self.server.superuser,
            dbname=database,
            options=_options(pinned),
            application_name="pitr",
            autocommit=True,
        )

    def as_user(self, superuser: str) -> RunningServer:
        """Return the same server, with the name that its superuser turned out to have."""
        return replace(self, server=replace(self.server, superuser=superuser))

    def environment(self, database: str) -> dict[str, str]:
        """Return the variables with which libpq's programs find the server, and no others of it."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        return {
            **kept,
            "PGHOST": str(self.socket),
            "PGPORT": str(PORT),
            "PGUSER": self.server.superuser,
            "PGDATABASE": database,
            "PGOPTIONS": _options({"session_preload_libraries": "", "local_preload_libraries": ""}),
        }


def _options(settings: Mapping[str, str]) -> str:
    """Return settings of a session as libpq's `options` takes them."""
    return " ".join(f"-c {key}={value}" for key, value in settings.items())


@contextlib.contextmanager
def running(server: ServerFolder, *, keep_changes: bool = True) -> Iterator[RunningServer]:
    """Start a server, wait until it accepts connections, and stop it when the block ends.

    With `keep_changes` it is shut down with a checkpoint, so that the folder can be started
    again; without, it is only stopped. Raises SidecarFailed, with the end of its log, and
    PreconditionFailed when another command runs a server on the folder.
    """
    with _held(server.folder), _running(server, keep_changes=keep_changes) as started:
        yield started


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the folder of a server, so that no other command starts or removes a server on it."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise PreconditionFailed(
            f"the sidecar is in use: {folder}",
            detail="Another command runs its server, as 'pitr recoveries psql' does.",
            hint="End that command first.",
        ) from None
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _running(server: ServerFolder, *, keep_changes: bool) -> Iterator[RunningServer]:
    stop_leftover(server.folder)
    socket = Path(tempfile.mkdtemp(prefix="pitr-", dir="/tmp"))
    process = None
    try:
        server.account.own(socket)
        (server.folder / _SOCKET).write_text(f"{socket}\n")
        process = _start(server, socket)
        _wait_until_ready(server, process)
        yield RunningServer(server, socket)
    except psycopg.Error as error:
        keep_changes = False
        raise failed(server, f"Its server said: {str(error).splitlines()[0]}.") from None
    except BaseException:
        keep_changes = False
        raise
    finally:
        if process is not None:
            _stop(process, signal.SIGINT if keep_changes else signal.SIGQUIT)
        shutil.rmtree(socket, ignore_errors=True)
        (server.folder / _SOCKET).unlink(missing_ok=True)


def run_psql(started: RunningServer, database: str, arguments: Sequence[str]) -> int:
    """Run psql on a server, on our own terminal; return its exit code.

    Ctrl-C is psql's own affair: it cancels a statement there and ends nothing here.
    """
    program = started.server.binaries.path("psql")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        done = subprocess.run(
            [program, *arguments],
            env=started.environment(database),
            check=False,
            preexec_fn=_listen_to_interrupts,
        )
    except FileNotFoundError:
        raise PreconditionFailed(
            f"psql is not beside the server's programs: {program}",
            hint="Install PostgreSQL's client programs of the same version.",
        ) from None
    finally:
        signal.signal(signal.SIGINT, before)
    return done.returncode


def _listen_to_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _start(server: ServerFolder, socket: Path) -> subprocess.Popen[bytes]:
    is_root = os.geteuid() == 0
    with open(server.log, "ab", opener=private) as log:
        server.account.own(server.log)
        return subprocess.Popen(
            [server.binaries.path("postgres"), "-D", server.data, "-k", socket],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=server.folder,
            env=_environment(),
            start_new_session=True,
            user=server.account.uid if is_root else None,
            group=server.account.gid if is_root else None,
            extra_groups=[] if is_root else None,
            umask=0o077,
            preexec_fn=_die_with_parent,
        )


def _environment() -> Mapping[str, str]:
    """Return a server's environment: nothing of ours that could change what it does."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


_LIBC = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    """Ask the kernel, in the child, to send it SIGQUIT once this process is gone."""
    _LIBC.prctl(_PDEATHSIG, signal.SIGQUIT)


def _wait_until_ready(server: ServerFolder, process: subprocess.Popen[bytes]) -> None:
    """Wait until the postmaster writes into its pid file that it is ready; it ends on failure."""
    pause_seconds = 0.002
    nudge = time.monotonic() + _NUDGE_SECONDS
    while process.poll() is None:
        with contextlib.suppress(OSError, IndexError, ValueError):
            lines = (server.data / "postmaster.pid").read_text().splitlines()
            status = lines[7].strip() if int(lines[0]) == process.pid else ""
            if status == "ready":
                return
            if status in _IN_RECOVERY and time.monotonic() > nudge:
                _forbid_waiting(server, process)
                nudge = time.monotonic() + _NUDGE_SECONDS
        time.sleep(pause_seconds)
        pause_seconds = min(pause_seconds * 1.5, 0.02)
    raise failed(server, f"Its server ended with status {process.returncode}.")


def _forbid_waiting(server: ServerFolder, process: subprocess.Popen[bytes]) -> None:
    """Tell a server in recovery to end it where the WAL ends, as `pg_ctl promote` does.

    It replays all that is there first: one that is just slow comes to its target as before, one
    whose WAL ends before that fails, instead of waiting for more.
    """
    if (server.data / STANDBY_SIGNAL).exists():
        request = server.data / "promote"
        request.touch(mode=0o600)
        server.account.own(request)
        process.send_signal(signal.SIGUSR1)


def failed(server: ServerFolder, seen: str) -> SidecarFailed:
    """Return the error for a server that failed, quoting the end of its log."""
    lines = server.log.read_text(errors="replace").splitlines() if server.log.exists() else []
    grave = [line for line in lines if re.search(r"\b(FATAL|PANIC|ERROR|DETAIL|HINT):", line)]
    quoted = "\n".join(dict.fromkeys((*grave[-_LOG_LINES:], *lines[-2:])))
    # Not every message of a server on a full disk says so ("could not write init file").
    free = shutil.disk_usage(server.folder).free
    full = "No space left on device" in quoted or free < _FREE_BYTES_MIN
    return SidecarFailed(
        "the sidecar could not be recovered",
        detail=f"{seen} Its log ends with:\n{quoted}",
        hint="Free some space, or choose another place with PITR_SIDECAR_FOLDER."
        if full
        else "Run it again; if it fails again, report this with the log.",
    )


def _stop(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    """Stop a server as told, and with more force when it does not end."""
    for force in (how, signal.SIGQUIT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(force)
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return


def stop_leftover(folder: Path) -> None:
    """Stop the server on a folder that a killed pitr left, and remove its socket's folder."""
    pid = _leftover(folder)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
        deadline = time.monotonic() + _STOP_SECONDS
        while _leftover(folder) == pid and time.monotonic() < deadline:
            time.sleep(0.01)
    with contextlib.suppress(OSError):
        socket = Path((folder / _SOCKET).read_text().strip())
        if re.fullmatch(r"pitr-\w+", socket.name) and socket.parent == Path("/tmp"):
            shutil.rmtree(socket, ignore_errors=True)
    (folder / _SOCKET).unlink(missing_ok=True)


def _leftover(folder: Path) -> int | None:
    """Return the process that serves a folder, None when there is none: a pid alone proves nothing.

    A process counts only when it is a postgres whose working folder is the data directory.
    """
    try:
        pid = int((folder / _DATA / "postmaster.pid").read_text().split("\n", 1)[0])
        works_in = Path(f"/proc/{pid}/cwd").readlink()
    except (OSError, ValueError):
        return None
    return pid if works_in == (folder / _DATA).resolve() else None
