"""BASE_BACKUP over the replication protocol: the request, and what the server sends back.

PostgreSQL 15 sends all archives and the manifest in one copy stream whose messages begin with a
letter; 13 and 14 send one copy stream for each archive, then one for the manifest
(PostgreSQL: doc/src/sgml/protocol.sgml, "BASE_BACKUP").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import pq

from pitr.errors import Corrupt
from pitr.postgres.base.contents import Tablespace
from pitr.postgres.live.connection import Connection
from pitr.postgres.live.replication import ReplicationStream
from pitr.vocabulary.position import Lsn

_NEW_PROTOCOL = 150000
_ARCHIVE, _DATA, _MANIFEST, _PROGRESS = b"ndmp"
# What MAX_RATE takes.
RATES_KB = range(32, 1048577)
# The checkpoint before the copy takes up to checkpoint_timeout, which may be a day.
_CHECKPOINT_SECONDS = 86400.0
_SILENCE_SECONDS = 600.0
_FAILED = "the server did not give a base backup"


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """What is asked of the server.

    `fast` lets the checkpoint before the copy go at full speed. `rate_kb` bounds the stream, in
    kB a second. `manifest_checksums` is the algorithm of the server's own manifest.
    """

    label: str
    fast: bool
    rate_kb: int | None
    manifest_checksums: str


@dataclass(frozen=True, slots=True)
class BackupBegun:
    """The server begins to send: from where replay starts, and about how much comes."""

    start: Lsn
    timeline: int
    tablespaces: tuple[Tablespace, ...]
    total_bytes: int


@dataclass(frozen=True, slots=True)
class ArchiveBegun:
    """A tar archive follows: that of a tablespace, or the data directory's."""

    tablespace_oid: int | None


@dataclass(frozen=True, slots=True)
class ManifestBegun:
    """The server's own manifest follows."""


@dataclass(frozen=True, slots=True)
class BackupEnded:
    """All was sent: from here on the state is consistent."""

    end: Lsn
    timeline: int


Message = BackupBegun | ArchiveBegun | ManifestBegun | BackupEnded | memoryview


def base_backup(connection: Connection, request: BackupRequest) -> Iterator[Message]:
    """Ask for a base backup, yielding what comes.

    The connection speaks the replication protocol and is in autocommit. WAL is not included, page
    checksums are not verified by the server (we do), and it does not wait for its own archiving.
    Raises PrivilegeMissing, DatabaseRefused, SourceUnreachable; Corrupt for an answer that is not
    understood.
    """
    version = connection.info.server_version
    stream = ReplicationStream(connection, _command(connection, request, version), failed=_FAILED)
    start, timeline = _position(_rows(stream, _CHECKPOINT_SECONDS))
    begun = _begun(start, timeline, _rows(stream))
    yield begun
    if version >= _NEW_PROTOCOL:
        yield from _one_stream(stream)
    else:
        yield from _many_streams(stream, begun)
    end, timeline = _position(_rows(stream))
    while stream.result() is not None:
        pass
    yield BackupEnded(end, timeline)


def _command(connection: Connection, request: BackupRequest, version: int) -> str:
    quoted = pq.Escaping(connection.pgconn).escape_literal(request.label.encode())
    text = bytes(quoted).decode()
    if version < _NEW_PROTOCOL:
        fast = " FAST" if request.fast else ""
        rate = f" MAX_RATE {request.rate_kb}" if request.rate_kb else ""
        return (
            f"BASE_BACKUP LABEL {text} PROGRESS{fast} NOWAIT{rate} "
            f"NOVERIFY_CHECKSUMS MANIFEST 'yes' MANIFEST_CHECKSUMS '{request.manifest_checksums}'"
        )
    options = [
        f"LABEL {text}",
        "PROGRESS true",
        f"CHECKPOINT '{'fast' if request.fast else 'spread'}'",
        "WAIT false",
        "VERIFY_CHECKSUMS false",
        "MANIFEST 'yes'",
        f"MANIFEST_CHECKSUMS '{request.manifest_checksums}'",
    ]
    if request.rate_kb:
        options.append(f"MAX_RATE {request.rate_kb}")
    return f"BASE_BACKUP ({', '.join(options)})"


def _begun(start: Lsn, timeline: int, rows: list[list[bytes | None]]) -> BackupBegun:
    tablespaces = []
    total = 0
    for oid, location, size_kb in rows:
        total += int(size_kb or 0) * 1024
        if oid is not None and location is not None:
            tablespaces.append(Tablespace(int(oid), location.decode(errors="surrogateescape")))
    return BackupBegun(start, timeline, tuple(tablespaces), total)


def _position(rows: list[list[bytes | None]]) -> tuple[Lsn, int]:
    try:
        ((lsn, timeline),) = rows
        return Lsn.parse((lsn or b"").decode()), int(timeline or b"")
    except (ValueError, UnicodeDecodeError):
        raise _not_understood(f"A position was expected: {rows!r}.") from None


def _one_stream(stream: ReplicationStream) -> Iterator[Message]:
    """The protocol from 15 on: each message begins with its kind."""
    for message in _copied(stream):
        kind = message[0]
        if kind == _DATA:
            yield message[1:]
        elif kind == _ARCHIVE:
            name = bytes(message[1:]).partition(b"\0")[0]
            stem = name.partition(b".")[0]
            yield ArchiveBegun(None if stem == b"base" else _oid(stem))
        elif kind == _MANIFEST:
            yield ManifestBegun()
        elif kind != _PROGRESS:  # how far the server is; we count what arrives
            raise _not_understood(f"A message of kind {chr(kind)!r}.")


def _oid(stem: bytes) -> int:
    if not stem.isdigit():
        raise _not_understood(f"An archive is named {stem!r}.")
    return int(stem)


def _many_streams(stream: ReplicationStream, begun: BackupBegun) -> Iterator[Message]:
    """The protocol of 13 and 14: tablespaces in the order listed, the data directory last."""
    for tablespace in (*begun.tablespaces, None):
        yield ArchiveBegun(tablespace.oid if tablespace else None)
        yield from _copied(stream)
    yield ManifestBegun()
    yield from _copied(stream)


def _rows(
    stream: ReplicationStream, timeout_seconds: float = _SILENCE_SECONDS
) -> list[list[bytes | None]]:
    """Return the next result, which has to be a table."""
    result = stream.result(timeout_seconds)
    if result is None or result.status != pq.ExecStatus.TUPLES_OK:
        raise _not_understood("A table was expected.")
    return [
        [result.get_value(row, column) for column in range(result.nfields)]
        for row in range(result.ntuples)
    ]


def _copied(stream: ReplicationStream) -> Iterator[memoryview]:
    """Yield the messages of the next copy stream."""
    result = stream.result(_SILENCE_SECONDS)
    if result is None or result.status != pq.ExecStatus.COPY_OUT:
        raise _not_understood("A copy stream was expected.")
    return stream.messages(_SILENCE_SECONDS)


def _not_understood(detail: str) -> Corrupt:
    return Corrupt(
        "the server's answer to BASE_BACKUP is not understood",
        detail=detail,
        hint="Is it PostgreSQL 13 to 18? 'pitr check' names its version.",
    )
