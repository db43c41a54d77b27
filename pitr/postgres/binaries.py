"""Find a PostgreSQL server's programs on this machine; a sidecar needs its own major version."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pitr.errors import PreconditionFailed

# Where Debian, Red Hat, the source distribution and Homebrew put them.
_FOLDERS = (
    "/usr/lib/postgresql/{}/bin",
    "/usr/pgsql-{}/bin",
    "/usr/local/pgsql-{}/bin",
    "/opt/homebrew/opt/postgresql@{}/bin",
    "/usr/local/pgsql/bin",
    "/usr/bin",
)


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
    places = [chosen] if chosen else [Path(place.format(major)) for place in _FOLDERS]
    on_path = shutil.which("postgres")
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
