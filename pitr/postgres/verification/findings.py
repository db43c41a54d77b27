"""What a verification has found so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from pitr.archive.store import Store
from pitr.errors import CorruptObject, ObjectMissing
from pitr.vocabulary.position import Lsn


@dataclass(slots=True)
class Findings:
    """Objects and bytes (`size`) read, the damaged ones by key, and what belongs to nothing."""

    objects: int = 0
    size: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    leftovers: list[str] = field(default_factory=list)

    def damage(self, key: str, reason: str) -> None:
        """Note a damaged object; the first reason stays."""
        self.damaged.setdefault(key, reason)

    def count(self, size: int) -> None:
        """Count an object that was read."""
        self.objects += 1
        self.size += size

    def get(self, store: Store, key: str) -> bytes | None:
        """Return an object, counted; None when it is gone since the listing."""
        try:
            data = store.get(key)
        except ObjectMissing:
            return None
        except CorruptObject as error:  # of an encrypted archive
            self.count(0)
            self.damage(key, error.reason)
            return None
        self.count(len(data))
        return data


@dataclass(frozen=True, slots=True)
class Reach:
    """What one base leads to on one timeline: every position from `first` to `last`.

    Both are None while WAL that the base needs is not archived.
    """

    base: str
    timeline: int
    first: Lsn | None
    last: Lsn | None


@dataclass(frozen=True, slots=True)
class MissingWal:
    """WAL [begin, end) of a timeline that should be there; `known` when capture noted the gap."""

    timeline: int
    begin: Lsn
    end: Lsn
    known: bool
    segment_bytes: int
