"""What a prune leaves behind so that nobody takes what it dropped for missing.

Specification: docs/formats/postgres-archive.md, "Pruning".
"""

from __future__ import annotations

import re
from contextlib import suppress

import msgspec

from pitr.archive.document import encode_document
from pitr.archive.store import ObjectExists, Store
from pitr.vocabulary.position import Lsn

PREFIX = "pruned/"
_KIND = b"PRND"
_KEY = re.compile(r"pruned/([0-9A-F]{16})")


class PruneNote(msgspec.Struct, frozen=True, kw_only=True):
    """WAL before `before` was dropped, but for what marks need; `from_us` is what was kept."""

    before: str
    from_us: int
    time_us: int


def write_note(store: Store, note: PruneNote) -> str:
    """Store a note and return its key. Raises StoreUnusable."""
    key = f"{PREFIX}{Lsn.parse(note.before).value:016X}"
    with suppress(ObjectExists):  # by a prune to the same place
        store.put_new(key, encode_document(_KIND, note))
    return key


def note_keys(store: Store) -> list[str]:
    """Return the keys of all notes, the newest last."""
    return [info.key for info in store.list(PREFIX) if _KEY.fullmatch(info.key)]


def pruned_before(store: Store) -> Lsn:
    """Return the LSN before which missing WAL was dropped on purpose, by the newest note's key.

    So a damaged note keeps nobody from looking at the archive.
    """
    keys = note_keys(store)
    return Lsn(int(keys[-1].removeprefix(PREFIX), 16)) if keys else Lsn(0)
