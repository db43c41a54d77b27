"""Ask pg_dump of a sidecar how its tables are defined."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from pitr.errors import PreconditionFailed, SidecarFailed

# Who owns the tables and where they lie is told by the catalog, and may not be so in live.
_OPTIONS = ("--schema-only", "--no-owner", "--no-tablespaces", "--no-publications")


def dump_definitions(
    program: Path, environment: Mapping[str, str], role: str | None, tables: Sequence[str]
) -> str:
    """Return what pg_dump writes of tables, named as SQL; of everything when there are none.

    `environment` has the variables by which libpq finds server and database. What was granted to
    `role`, the sidecar's own, is left out. Raises PreconditionFailed when the program is not there,
    SidecarFailed with its words.
    """
    chosen = [f"--table={name}" for name in tables]
    try:
        done = subprocess.run(
            [program, *_OPTIONS, *chosen],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise PreconditionFailed(
            f"pg_dump is not beside the server's programs: {program}",
            hint="Install PostgreSQL's client programs of the same version.",
        ) from None
    if done.returncode:
        raise SidecarFailed(
            "pg_dump cannot tell how the tables of the sidecar are defined",
            detail=f"{done.stderr.strip().splitlines()[0] if done.stderr else 'It said nothing'}.",
            hint="Make the tables by hand, and run the command again.",
        )
    if role is None:
        return done.stdout
    granted = re.compile(rf"^GRANT [^;\n]* TO {re.escape(role)};$\n?", re.MULTILINE)
    return granted.sub("", done.stdout)
