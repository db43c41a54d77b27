"""WAL objects and text objects of the archive. The input: the open form of a WAL object."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from pitr.errors import PitrError
from pitr.postgres.wal.history import parse_history
from pitr.postgres.wal_store.archive import WalArchive
from pitr.postgres.wal_store.object import WalHead, WalObject
from pitr.postgres.wal_store.text import decode_text, history_key
from tests.fuzz import samples
from tests.fuzz.sealing import assemble, open_form, sections, stored

_HEAD, _TEXT = 1, 1


def seeds() -> Iterator[bytes]:
    """Yield a piece of WAL and a timeline's history."""
    for kind in (b"WALS", b"WALT"):
        yield from map(open_form, samples.of_kind(kind).values())


def fuzz(data: bytes) -> None:
    """Read all of a WAL object, alone and from an archive; and the same bytes as a history."""
    parts = sections(data)
    key = _key(parts.get(_HEAD, b""))
    sealed = assemble(b"WALS", parts, plain=[_HEAD, 3, *range(16, 600)])
    try:
        found = WalObject.of_bytes(key, sealed)
        found.read(found.head.begin, found.head.end)
        archive = WalArchive(stored(key, sealed))
        archive.refresh()
        for timeline in archive.timelines():
            for begin, end in archive.ranges(timeline):
                archive.read(timeline, begin, end)
    except PitrError:
        pass
    text = assemble(b"WALT", parts, plain=[_TEXT])
    with contextlib.suppress(PitrError):
        parse_history(2, decode_text(history_key(2), text))


def _key(head: bytes) -> str:
    """Return the key that the head wants, so that it is not refused for the name alone."""
    try:
        key = msgspec.json.decode(head, type=WalHead).key
    except (ArithmeticError, ValueError, RecursionError):
        key = ""
    return key if key.startswith("wal/") else "wal/00000001/000000010000000000000001"
