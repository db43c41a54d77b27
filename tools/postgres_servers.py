"""Real PostgreSQL servers for tests: made in a blink, and gone when their maker is gone.

    python -m tools.postgres_servers 17     run one, print how to reach it, stop it with Ctrl-C

A `Server` is a data directory with a private socket in a short folder of its own. It runs as an
unprivileged user when the tests run as root, which PostgreSQL refuses to be. Its data directory is
copied from a template, kept per version and initdb option, and gets a system identifier of its own.

No server outlives its maker. A small shell process stands between the two and holds the end of a
pipe whose other end is ours alone: when the kernel closes ours, whatever we died of, the shell ends
the server and removes the folder. (A parent-death signal would not do: it comes when the *thread*
that started the server ends.)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from tools.postgres_binaries import cache, locked, programs, server_user
from tools.postgres_identity import give_identity

START_SECONDS = 60
STOP_SECONDS = 60
PORT = 5432
_MEMORY = "/dev/shm"
_MEMORY_BYTES_MIN = 8 << 30
SUPERUSER = "postgres"

# Only what keeps tests fast and private: everything else is as a user finds it.
SETTINGS: dict[str, str | int | bool] = {
    "listen_addresses": "",
    "fsync": False,  # a killed server loses nothing by it, only a machine without power does
    "shared_buffers": "32MB",
    "max_connections": 40,
    "log_line_prefix": "%m [%p] %d ",
    "timezone": "UTC",
    "lc_messages": "C",
}
# What ends a server when our end of the pipe closes. SIGQUIT is PostgreSQL's immediate shutdown.
GUARD = """
"$@" </dev/null >&2 &
server=$!
echo $server
while read -r word; do [ "$word" = leave ] && exit 0; done
kill -s QUIT $server
wait $server
rm -rf -- "$folder"
"""
StopMode = Literal["smart", "fast", "immediate"]
SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Server:
    """One PostgreSQL server; use it as a context manager, or call `discard` at the end.

    `folder` holds the socket, `data` and `log`. `major` is the version, `bin` the folder of its
    programs. Nothing runs before `start`.
    """

    def __init__(
        self,
        major: int = 15,
        *,
        settings: Mapping[str, str | int | bool] | None = None,
        checksums: bool = True,
        segment_megabytes: int = 16,
        initdb: tuple[str, ...] = (),
        data: Path | None = None,
        place: Path | None = None,
    ) -> None:
        """Make a data directory, or take over the one at `data` (which is moved into the folder).

        The folder is made in `place`, or else where scratch files are.

        `settings` are written to postgresql.conf after the ones of this module, `initdb` are
        further arguments for it. Raises Unavailable when there is no such version to be had.
        """
        self.major = major
        self.bin = programs(major)
        self.folder = Path(tempfile.mkdtemp(prefix="pitr-pg-", dir=place or scratch_place()))
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self.port = PORT
        self._guard: subprocess.Popen[str] | None = None
        self._pid: int | None = None
        user = server_user()
        if user is not None:
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        try:
            if data is not None:
                shutil.move(data, self.data)
            else:
                template = _template(
                    major, _initdb_arguments(major, segment_megabytes, initdb, checksums=checksums)
                )
                _copy(template, self.data)
                give_identity(self.data)
            _own(self.data)
            self.configure({**SETTINGS, "unix_socket_directories": str(self.folder)})
            self.configure(settings or {})
        except BaseException:
            shutil.rmtree(self.folder)
            raise

    def __enter__(self) -> Server:
        """Start the server; a standby also streams when this returns."""
        try:
            self.start()
            if (self.data / "standby.signal").exists():
                self._wait_until_streaming()
        except BaseException:
            self.discard()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server and delete all of it."""
        self.discard()

    # -- reaching it -------------------------------------------------------------------------

    def conninfo(self, database: str = "postgres", user: str = SUPERUSER, **more: str) -> str:
        """Return libpq's key=value string for a database."""
        return make_conninfo(
            host=str(self.folder), port=self.port, dbname=database, user=user, **more
        )

    def url(self, database: str = "postgres", user: str = SUPERUSER) -> str:
        """Return the `postgresql://` URL for a database, as a user would give it to pitr."""
        return f"postgresql://{user}@/{database}?host={self.folder}&port={self.port}"

    def environment(self, database: str = "postgres", user: str = SUPERUSER) -> dict[str, str]:
        """Return libpq's variables that make this server the default."""
        return {
            "PGHOST": str(self.folder),
            "PGPORT": str(self.port),
            "PGUSER": user,
            "PGDATABASE": database,
        }

    def connect(
        self, database: str = "postgres", user: str = SUPERUSER, **more: str
    ) -> psycopg.Connection[TupleRow]:
        """Return a new connection with autocommit; the caller closes it."""
        conninfo = self.conninfo(database, user, client_encoding="UTF8", **more)
        return psycopg.connect(conninfo, autocommit=True)

    def query(self, statement: str, database: str = "postgres") -> list[TupleRow]:
        """Run one or more statements and return the rows of the last, none without a result."""
        with self.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(statement.encode())
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def value(self, statement: str, database: str = "postgres") -> Any:
        """Run a statement and return the first column of its first row."""
        return self.query(statement, database)[0][0]

    def run(self, program: str, *arguments: str, database: str = "postgres") -> str:
        """Run one of PostgreSQL's own programs, as the server's user, and return its output.

        libpq's variables name this server. Raises CalledProcessError when the program fails.
        """
        command = [*unprivileged(), str(self.bin / program), *arguments]
        environment = {**os.environ, **self.environment(database)}
        return subprocess.run(
            command, env=environment, cwd=self.folder, capture_output=True, text=True, check=True
        ).stdout

    # -- its life ----------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the server's first process is there."""
        return self._pid is not None and _alive(self._pid)

    @property
    def pid(self) -> int:
        """The server's first process, the postmaster."""
        assert self._pid is not None, "the server is not started"
        return self._pid

    def start(self, *, wait: bool = True) -> None:
        """Start the server; with `wait` return when it takes connections.

        A standby without hot_standby never takes any: start it without `wait`. Raises RuntimeError
        with the end of the log when the server ends instead.
        """
        assert not self.running, "the server runs already"
        with self.log.open("a") as log:
            self._guard = subprocess.Popen(
                ["sh", "-c", GUARD, "guard", *unprivileged(), str(self.bin / "postgres"), "-D",
                 str(self.data), "-k", str(self.folder), "-p", str(self.port)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env={"PATH": os.defpath, "LC_ALL": "C", "folder": str(self.folder),
                     # A standby of a fetched version would take the machine's older libpq.
                     "LD_LIBRARY_PATH": str(self.bin.parent / "lib")},
                cwd="/", start_new_session=True,
            )  # fmt: skip
        assert self._guard.stdout is not None
        self._pid = int(self._guard.stdout.readline())
        if wait:
            self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        status = self.data / "postmaster.pid"
        while time.monotonic() < deadline:
            # The eighth line is how pg_ctl knows too; the pid says that it is not an old file.
            with contextlib.suppress(FileNotFoundError):
                lines = status.read_text().split("\n")
                ready = len(lines) > 7 and lines[7].strip() in ("ready", "standby")
                if ready and lines[0] == str(self._pid):
                    return
            if not self.running:
                break
            time.sleep(0.01)
        raise RuntimeError(f"PostgreSQL {self.major} did not start:\n{self.log_text()[-3000:]}")

    def _wait_until_streaming(self) -> None:
        # Else a primary that is stopped soon would have sent nothing of what it wrote.
        deadline = time.monotonic() + START_SECONDS
        while self.query("SELECT status FROM pg_stat_wal_receiver") != [("streaming",)]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the standby does not stream:\n{self.log_text()[-3000:]}")
            time.sleep(0.01)

    def stop(self, mode: StopMode = "fast") -> None:
        """Shut the server down as `pg_ctl stop` does, and return when it is gone."""
        if self.running:
            os.kill(self.pid, SIGNALS[mode])
        self._wait_until_gone()

    def kill(self) -> None:
        """Kill the server and every process of it with SIGKILL: it must recover at its start."""
        processes = [self.pid, *_children(self.pid)]
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + STOP_SECONDS
        while any(map(_alive, processes[1:])) and time.monotonic() < deadline:
            time.sleep(0.005)
        self._wait_until_gone()

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop the server and start it again."""
        self.stop(mode)
        self.start()

    def _wait_until_gone(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while self.running:
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not stop:\n{self.log_text()[-3000:]}")
            time.sleep(0.005)
        guard, self._guard, self._pid = self._guard, None, None
        if guard is not None:
            guard.communicate("leave\n")

    def discard(self) -> None:
        """Stop the server at once if it runs, and delete its folder."""
        if self._guard is not None:
            self.stop("immediate")
        _remove_shared_memory(self.data / "postmaster.pid")
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- what it is like ---------------------------------------------------------------------

    def configure(self, settings: Mapping[str, str | int | bool]) -> None:
        """Append settings to postgresql.conf; they count from the next `reload` or `restart`."""
        with (self.data / "postgresql.conf").open("a") as file:
            for name, value in settings.items():
                text = {True: "on", False: "off"}[value] if isinstance(value, bool) else value
                file.write(f"{name} = '{str(text).replace(chr(39), chr(39) * 2)}'\n")

    def authenticate(self, *lines: str) -> None:
        """Write pg_hba.conf anew, one rule a line; counts from the next `reload`."""
        (self.data / "pg_hba.conf").write_text("".join(f"{line}\n" for line in lines))

    def reload(self) -> None:
        """Let the server read its files again; returns when it has."""
        before = self.value("SELECT pg_conf_load_time()")
        os.kill(self.pid, signal.SIGHUP)
        while self.value("SELECT pg_conf_load_time()") == before:
            time.sleep(0.01)

    def log_text(self) -> str:
        """Return what the server has logged so far."""
        return self.log.read_text(errors="replace")

    @property
    def wal(self) -> Path:
        """The folder of WAL segments."""
        return self.data / "pg_wal"

    # -- several of them ---------------------------------------------------------------------

    def standby(
        self, *, slot: str | None = None, settings: Mapping[str, str | int | bool] | None = None
    ) -> Server:
        """Return a streaming standby of this server, not yet started, in a folder of its own.

        It has the same system identifier. Needs pg_basebackup, which version 13 here lacks.
        """
        copy = self.folder / f"standby-{uuid.uuid4().hex[:8]}"
        options = ["-D", str(copy), "-R", "-c", "fast", "-X", "stream", "--no-sync"]
        self.run("pg_basebackup", *options, *(["-C", "-S", slot] if slot else []))
        return Server(self.major, data=copy, settings=settings)

    def promote(self) -> None:
        """Make a standby the primary of a new timeline; returns when it is."""
        self.query("SELECT pg_promote(true, 60)")


# -- templates ---------------------------------------------------------------------------------


def _initdb_arguments(
    major: int, segment_megabytes: int, more: tuple[str, ...], *, checksums: bool
) -> list[str]:
    arguments = ["--auth=trust", f"--username={SUPERUSER}", "--encoding=UTF8", "--locale=C",
                 "--no-sync", f"--wal-segsize={segment_megabytes}", *more]  # fmt: skip
    if checksums:
        return [*arguments, "--data-checksums"]
    return [*arguments, "--no-data-checksums"] if major >= 18 else arguments


def _template(major: int, arguments: list[str]) -> Path:
    """Return the data directory that initdb makes of these arguments, kept from the first time."""
    key = hashlib.sha256("\0".join([str(programs(major)), *arguments]).encode()).hexdigest()[:16]
    folder = cache() / f"template-{major}-{key}"
    if folder.exists():
        return folder
    with locked(folder.name):
        if not folder.exists():
            scratch = Path(tempfile.mkdtemp(prefix="pitr-pg-", dir=scratch_place()))
            _own(scratch)
            command = [*unprivileged(), str(programs(major) / "initdb"), "-D", str(scratch)]
            done = subprocess.run(
                [*command, *arguments], capture_output=True, text=True, cwd="/", check=False
            )
            if done.returncode != 0:
                raise RuntimeError(f"initdb of PostgreSQL {major}:\n{done.stdout}\n{done.stderr}")
            part = cache() / f"{folder.name}.part"
            shutil.rmtree(part, ignore_errors=True)
            shutil.move(scratch, part)
            part.rename(folder)
    return folder


def _copy(template: Path, data: Path) -> None:
    subprocess.run(["cp", "-a", "--reflink=auto", str(template), str(data)], check=True)


# -- processes ---------------------------------------------------------------------------------


def scratch_place() -> str:
    """Return where folders of servers are made, in few letters: a socket's path has 107 bytes.

    In memory when there is room: a data directory is a thousand small files, made and removed for
    each test (0.2 s instead of 2 s on a busy disk).
    """
    with contextlib.suppress(OSError):
        if shutil.disk_usage(_MEMORY).free >= _MEMORY_BYTES_MIN and os.access(_MEMORY, os.W_OK):
            return _MEMORY
    folder = tempfile.gettempdir()
    return folder if len(folder) < 60 else "/tmp"


def unprivileged() -> list[str]:
    """Return the words before a command with which it runs as the servers' user."""
    user = server_user()
    if user is None:
        return []
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups"]


def _own(folder: Path) -> None:
    """Give a tree to the user that servers run as."""
    user = server_user()
    if user is None:
        return
    subprocess.run(["chown", "-R", f"{user.pw_uid}:{user.pw_gid}", str(folder)], check=True)


def _alive(pid: int) -> bool:
    """Whether a process is there and not only waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def _children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(status.parent.name))
    return found


def _remove_shared_memory(status: Path) -> None:
    """Remove what a killed server leaves with the kernel; its next start would have done so."""
    with contextlib.suppress(FileNotFoundError, IndexError):
        numbers = status.read_text().split("\n")[6].split()
        subprocess.run(["ipcrm", "-m", numbers[1]], capture_output=True, check=False)


def main(arguments: list[str]) -> int:
    """Run a server of the major version that is named until Ctrl-C."""
    with Server(int(arguments[0]) if arguments else 15) as server:
        print(server.url(), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
