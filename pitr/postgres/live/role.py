"""Where the script is that makes the role that pitr captures with."""

from __future__ import annotations

from importlib.resources import files


def role_script() -> str:
    """Return the path of the script that makes a role with the least rights."""
    return str(files("pitr.sql").joinpath("postgres/role.sql"))
