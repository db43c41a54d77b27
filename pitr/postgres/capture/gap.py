"""Gaps: WAL that was not archived before the server threw it away. Each is noted when it is found.

Which WAL is missing follows from the `wal/` keys; the note adds when that was, and why. A gap that
is filled later, by archive_command or by hand, is none any more, and its note means nothing.
Specification: docs/formats/postgres-archive.md, "Gaps".
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pitr.archive.document import decode_document, encode_document
from pitr.archive.store import Store
from pitr.errors import CorruptObject
from pitr.vocabulary.position import Lsn

KIND = b"GAPS"


class WalGap(msgspec.Struct, frozen=True, kw_only=True):
    """WAL [begin, end) of a timeline that was not archived; times in µs since 1970, UTC.

    What was committed before `from_us` is archived, what was committed after `to_us` too, as far
    as the gap's end can be read without its beginning: that takes a base backup made after it.
    """

    timeline: int
    begin: str
    end: str
    from_us: int
    to_us: int
    reason: str

    @property
    def key(self) -> str:
        """Return the key of its note."""
        begin, end = Lsn.parse(self.begin).value, Lsn.parse(self.end).value
        return f"gap/{self.timeline:08X}/{begin:016X}-{end:016X}"


def encode_gap(gap: WalGap) -> bytes:
    """Return the object that notes a gap."""
    return encode_document(KIND, gap)


def read_gaps(store: Store) -> Iterator[WalGap]:
    """Yield the notes of all gaps that were ever found. Raises CorruptObject, StoreUnusable."""
    for info in store.list("gap/"):
        yield check_gap(info.key, store.get(info.key))


def check_gap(key: str, data: bytes) -> WalGap:
    """Return the note in an object's bytes. Raises CorruptObject, PreconditionFailed."""
    gap = decode_document(key, data, KIND, WalGap)
    try:
        if gap.key == key:
            return gap
    except ValueError as error:
        raise CorruptObject(key, f"It has no position: {error}.") from None
    raise CorruptObject(key, f"By its content it belongs at {gap.key}.")
