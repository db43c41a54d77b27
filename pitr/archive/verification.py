"""Records of verifications and drills: that the archive was read again, when, and what was found.

Specification: docs/formats/archive-objects.md, "Verifications".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from pitr.archive.document import decode_document, encode_document
from pitr.archive.store import ObjectExists, ObjectInfo, Store
from pitr.errors import CorruptObject, ObjectMissing

PREFIX = "verified/"
KIND = b"VRFY"
_KEPT = 2
_KEY = re.compile(r"verified/(objects|drill)\.(\d{16})")


class Proof(StrEnum):
    """How the archive was proved: every object read again, or tables really restored."""

    OBJECTS = "objects"
    DRILL = "drill"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationRecord:
    """That something was proved, or not. Times in microseconds since the epoch.

    `damaged` counts damaged objects, or tables that differed. `seconds` is what it took; of a drill
    `first_row_seconds` is the longest time to a table's first row, and `tables` were restored.
    """

    proof: Proof
    finished_us: int
    ok: bool
    seconds: float
    objects: int = 0
    bytes: int = 0
    damaged: int = 0
    first_row_seconds: float | None = None
    tables: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Return the key of its object."""
        return f"{PREFIX}{self.proof.value}.{self.finished_us:016d}"


def write_verification(store: Store, record: VerificationRecord) -> None:
    """Store a record, and delete all but the newest of its kind. Raises StoreUnusable."""
    try:
        store.put_new(record.key, encode_document(KIND, record))
    except ObjectExists:
        return  # two in one microsecond: either will do
    for info in _listed(store, record.proof)[:-_KEPT]:
        store.delete(info.key)


def last_verification(store: Store, proof: Proof) -> VerificationRecord | None:
    """Return the newest record of a kind that can be read; None when there is none."""
    for info in reversed(_listed(store, proof)):
        try:
            return decode_document(info.key, store.get(info.key), KIND, VerificationRecord)
        except (CorruptObject, ObjectMissing):
            continue
    return None


def _listed(store: Store, proof: Proof) -> list[ObjectInfo]:
    found = store.list(f"{PREFIX}{proof.value}.")
    return [info for info in found if _KEY.fullmatch(info.key)]
