"""What is lost with a damaged object, in words: targets, tables, or nothing but time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pitr.archive.store import ObjectInfo, Store
from pitr.errors import PitrError
from pitr.postgres.backup.torn import block_at
from pitr.postgres.base.contents import BaseInfo
from pitr.postgres.base.object import BASE_PREFIX, PACK_PREFIX
from pitr.postgres.catalog.catalog_map import CatalogMap
from pitr.postgres.statement.pattern import is_own_schema
from pitr.postgres.verification.base import VerifiedBases
from pitr.postgres.verification.findings import MissingWal, Reach
from pitr.postgres.wal.record import RelationFile
from pitr.postgres.wal_store.archive import spans_of
from pitr.vocabulary.position import Lsn

_NAMED_MAX = 5
_BASE_ID = re.compile(r"base/[^.]+\.([0-9A-F]{8})\.([0-9A-F]{16})")
_WAL_KEY = re.compile(r"wal/([0-9A-F]{8})/")
_WORDS = {
    "index/": "nothing: delete it, and it is made anew from the WAL",
    "mark/": "the name of a moment; the moment itself is still a target",
    "lease/": "how far the archive was proven current",
    "gap/": "the times of a gap; that there is one follows from the WAL",
    "timeline/": "where this timeline left its parent: targets on it before that point",
    "catalog/": "names of tables from then on, until the next full reading",
    "verified/": "when the archive was verified",
}


class Losses:
    """Answers what is lost with a key."""

    def __init__(
        self,
        store: Store,
        bases: VerifiedBases,
        missing: Sequence[MissingWal],
        reaches: Sequence[Reach],
    ) -> None:
        """Take what a verification came to."""
        self._bases = bases
        self._missing = missing
        self._reaches = reaches
        self._catalog = CatalogMap(store)
        self._has_catalog = True

    def of(self, key: str) -> tuple[str, ...]:
        """Return what is lost with a damaged or missing object, a phrase each."""
        if key.startswith(PACK_PREFIX):
            return self._of_pack(key)
        if key.startswith(BASE_PREFIX):
            return self._of_base(key)
        if key.startswith("wal/") and not key.endswith(".backup"):
            return self._of_wal(key)
        return tuple(word for prefix, word in _WORDS.items() if key.startswith(prefix))

    def _of_pack(self, key: str) -> tuple[str, ...]:
        lost = []
        for (base, pack), paths in self._bases.harmed.items():
            if pack == key:
                info = next(info for info in self._bases.infos if info.id == base)
                named = sorted(dict.fromkeys(self._name(info, path) for path in paths))
                lost.append(f"of base {base}: {_some([text for _, text in named])}")
        return tuple(lost) or ("nothing yet: what a base needs of it can still be read",)

    def _of_base(self, key: str) -> tuple[str, ...]:
        """Return what only this base led to: what an older one leads to is not lost."""
        match = _BASE_ID.fullmatch(key)
        if match is None:
            return ()
        timeline, position = int(match[1], 16), Lsn(int(match[2], 16))
        for reach in self._reaches:
            if reach.first is not None and reach.last is not None:
                is_inside = reach.first <= position <= reach.last
                if is_inside and reach.timeline >= timeline:
                    return (f"nothing: base {reach.base} leads to the same targets",)
        later = [reach.first for reach in self._reaches if reach.first and reach.first > position]
        until = f"to {min(later)}" if later else "on"
        return (f"targets from {position} {until}",)

    def _of_wal(self, key: str) -> tuple[str, ...]:
        match = _WAL_KEY.match(key)
        timeline = int(match[1], 16) if match else 0
        lost = []
        for item in self._missing:
            if item.timeline == timeline and not item.known and _touches(key, item):
                firsts = [r.first for r in self._reaches if r.first and r.first >= item.end]
                until = f"to {min(firsts)}, the next base" if firsts else "on, until the next base"
                targets = f"targets from {item.begin} {until}"
                if all(info.start >= item.end for info in self._bases.infos):
                    targets = "no target, for no base is so old"
                lost.append(f"WAL {item.begin} to {item.end}: {targets}")
        return tuple(lost) or ("nothing: other objects hold the same WAL",)

    def _name(self, info: BaseInfo, path: str) -> tuple[int, str]:
        """Return the table that a file of a base is of, or the path; users' tables count 0."""
        try:
            block = block_at(path, 0)
        except ValueError:
            return 2, path
        file = RelationFile(block.tablespace, block.database, block.relation)
        found = None
        if self._has_catalog:
            try:
                found = self._catalog.relation_of(file, info.start.value)
            except PitrError:
                self._has_catalog = False  # a damaged reading: paths have to do
        if found is None:
            return 2, path
        relation = found.relation
        name = f"{relation.schema}.{relation.name}"
        if relation.owner:
            owners = self._catalog.versions_of(file.database, relation.owner)
            if owners:
                owner = relation = owners[-1].relation
                name = f"{name} (of {owner.schema}.{owner.name})"
        is_system = is_own_schema(relation.schema)
        return is_system, f"{found.database_name}.{name}" if found.database_name else name


def _touches(key: str, item: MissingWal) -> bool:
    """Return whether missing WAL may be what an object held, by the object's name."""
    if not item.segment_bytes:
        return True
    span = next(spans_of([ObjectInfo(key, 0, 0)], item.segment_bytes), None)
    return span is None or (span.begin < item.end.value and item.begin.value < span.end)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _NAMED_MAX
    shown = ", ".join(listed[:_NAMED_MAX])
    return f"{shown} and {more} more" if more > 0 else shown
