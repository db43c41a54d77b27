"""debug object: what an archive object holds, whichever engine's it is."""

from __future__ import annotations

from importlib import import_module

# The kinds of PostgreSQL's objects; whatever else there is, SQLite's describer knows or shows.
_POSTGRES = frozenset((b"WALS", b"WALT", b"PACK", b"BASE", b"CTLG"))
_PARQUET = b"PAR1"


def describe_object(data: bytes) -> list[str]:
    """Return what the bytes of an object hold, a line each; one that begins `damaged` says so."""
    is_postgres = data[8:12] in _POSTGRES or data[:4] == _PARQUET
    place = "pitr.postgres.verification.description" if is_postgres else "pitr.sqlite.pagelog.dump"
    lines: list[str] = import_module(place).describe_object(data)
    return lines
