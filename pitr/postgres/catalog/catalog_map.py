"""The versioned catalog map of an archive: names, files and relations at any position of the WAL.

A file number belongs to one relation for as long as it exists, so a file is resolved by whatever
reading has seen it. A name is looked up as of a position: in the last reading at or before it.
What was born and gone between two readings is in none.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pitr.archive.store import Store
from pitr.errors import CorruptObject
from pitr.postgres.catalog.reading import (
    PREFIX,
    Database,
    Reading,
    ReadingObject,
    Relation,
    decode_reading,
)
from pitr.postgres.wal.record import RelationFile


@dataclass(frozen=True, slots=True)
class Version:
    """One relation as it was from a reading on: from `begin` to before `end` (None: until now)."""

    begin: int
    end: int | None
    relation: Relation


@dataclass(frozen=True, slots=True)
class FoundRelation:
    """A relation and the database that it is in: 0, without a name, for one that all share."""

    database: int
    database_name: str
    relation: Relation

    @property
    def file(self) -> RelationFile:
        """Return the file that holds its rows in this version."""
        return self.relation.relation_file(self.database)


@dataclass(slots=True)
class _DatabaseHistory:
    """Every version of every relation of one database, and what the newest reading says."""

    head: str | None = None
    state: dict[int, Relation] = field(default_factory=dict)
    begins: dict[int, int] = field(default_factory=dict)
    versions: dict[int, list[Version]] = field(default_factory=dict)
    by_file: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    positions: list[int] = field(default_factory=list)

    def turn_to(self, state: dict[int, Relation], changed: Iterable[int], position: int) -> None:
        """Take over a state that differs from the last one in the relations `changed`."""
        for oid in changed:
            before, now = self.state.get(oid), state.get(oid)
            if before == now:
                continue
            if before is not None:
                version = Version(self.begins.pop(oid), position, before)
                self.versions.setdefault(oid, []).append(version)
            if now is not None:
                self.begins[oid] = position
                of_file = self.by_file.setdefault((now.tablespace, now.file), [])
                if oid not in of_file:
                    of_file.append(oid)
        self.state = state
        self.positions.append(position)

    def versions_of(self, oid: int) -> list[Version]:
        """Return the versions of a relation, oldest first."""
        found = list(self.versions.get(oid, ()))
        if oid in self.state:
            found.append(Version(self.begins[oid], None, self.state[oid]))
        return found


class CatalogMap:
    """The readings of one archive, put together. Not safe for several threads at once."""

    def __init__(self, store: Store, limits: Mapping[int, int] | None = None) -> None:
        """Name the store.

        `limits` are the timelines whose readings count, each up to a position (exclusive): those of
        one timeline and its ancestors. None: all of them.
        """
        self._store = store
        self._limits = limits
        self._databases: list[tuple[int, list[Database], str | None]] = []
        self._histories: dict[int, _DatabaseHistory] = {}
        self._objects: dict[int, list[ReadingObject]] | None = None
        self._readings: dict[str, Reading] = {}

    def refresh(self) -> None:
        """List the readings again; they are read when a question needs them."""
        objects: dict[int, list[ReadingObject]] = {}
        for info in self._store.list(PREFIX):
            item = ReadingObject.of(info)
            if item is not None and self._counts(item):
                objects.setdefault(item.database, []).append(item)
        for items in objects.values():
            items.sort(key=lambda item: (item.position, item.key))
        self._objects = objects
        self._histories.clear()
        self._databases = [
            (reading.position, reading.databases, reading.superuser)
            for reading in map(self._read, objects.get(0, []))
        ]

    # --- databases -------------------------------------------------------------------------------

    def databases(self, position: int | None = None) -> list[Database]:
        """Return the databases as of a position, or the newest; none when nothing was read."""
        found = self._list_at(position)
        return found[1] if found else []

    def superuser(self, position: int | None = None) -> str | None:
        """Return the name of the bootstrap superuser (it is not always `postgres`)."""
        found = self._list_at(position)
        return found[2] if found else None

    def database_name(self, oid: int, position: int | None = None) -> str | None:
        """Return the name of a database; where it is not listed then, its name in any reading."""
        for _, databases, _ in filter(None, [self._list_at(position), *reversed(self._lists())]):
            for database in databases:
                if database.oid == oid:
                    return database.name
        return None

    def _lists(self) -> list[tuple[int, list[Database], str | None]]:
        if self._objects is None:
            self.refresh()
        return self._databases

    def _list_at(self, position: int | None) -> tuple[int, list[Database], str | None] | None:
        lists = self._lists()
        if not lists:
            return None
        at = len(lists)
        if position is not None:
            at = bisect_right(lists, position, key=lambda item: item[0])
        return lists[max(at - 1, 0)]

    def database_oids(self) -> list[int]:
        """Return every database that a reading is of."""
        self._lists()
        assert self._objects is not None
        return sorted(oid for oid in self._objects if oid)

    # --- relations -------------------------------------------------------------------------------

    def relation_of(self, file: RelationFile, position: int) -> FoundRelation | None:
        """Return the relation that a file belonged to, as named at a position. None: never seen."""
        for database in [file.database] if file.database else self.database_oids():
            history = self._history(database)
            for oid in reversed(history.by_file.get((file.tablespace, file.number), [])):
                version = version_at(history.versions_of(oid), position)
                if version.relation.is_shared == (file.database == 0):
                    return self._found(file.database, version.relation, position)
        return None

    def versions_of(self, database: int, oid: int) -> list[Version]:
        """Return every version of a relation, oldest first; none for one never seen.

        Database 0 is asked for what all databases share.
        """
        for candidate in [database] if database else self.database_oids():
            found = self._history(candidate).versions_of(oid)
            if found and (database or found[-1].relation.is_shared):
                return found
        return []

    def relations_at(self, database: int, position: int | None = None) -> list[Relation]:
        """Return the relations of a database in the last reading at or before a position.

        When none is that old, those of the first reading; with None, those of the newest.
        """
        history = self._history(database)
        if position is None or not history.positions or position >= history.positions[-1]:
            return list(history.state.values())
        at = max(position, history.positions[0])
        found = []
        for oid in {*history.versions, *history.state}:
            for version in history.versions_of(oid):
                if version.begin <= at and (version.end is None or at < version.end):
                    found.append(version.relation)
        return found

    def versions_between(self, database: int, begin: int, end: int) -> Iterator[Version]:
        """Yield the versions that may have held at some position from `begin` to `end`.

        What a reading saw first may have been so since just after the reading before it: so the
        versions of the first reading at or after `end` count too.
        """
        history = self._history(database)
        at = bisect_left(history.positions, end)
        if at < len(history.positions):
            end = history.positions[at]
        for oid in {*history.versions, *history.state}:
            for version in history.versions_of(oid):
                ends_before = version.end is not None and version.end <= begin
                if version.begin <= end and not ends_before:
                    yield version

    def readings_around(self, begin: int, end: int) -> tuple[int, int]:
        """Return the last position read at or before `begin`, and the first at or after `end`.

        Those of all databases count; where there is none, `begin` and `end` themselves.
        """
        self._lists()
        assert self._objects is not None
        positions = [item.position for items in self._objects.values() for item in items]
        before = max((p for p in positions if p <= begin), default=begin)
        return before, min((p for p in positions if p >= end), default=end)

    def newest(self, database: int) -> tuple[str | None, dict[int, Relation]]:
        """Return the key of the newest reading of a database, and what it came to."""
        history = self._history(database)
        return history.head, history.state

    def chain_length(self, key: str) -> int:
        """Return how many deltas lie between a reading and the full one that it rests on."""
        return len(self._chain(self._readings[key])) - 1

    # --- reading ---------------------------------------------------------------------------------

    def _found(self, database: int, relation: Relation, position: int) -> FoundRelation:
        name = (self.database_name(database, position) or str(database)) if database else ""
        return FoundRelation(database, name, relation)

    def _counts(self, item: ReadingObject) -> bool:
        if self._limits is None or item.timeline == 0:
            return True
        return item.position < self._limits.get(item.timeline, 0)

    def _history(self, database: int) -> _DatabaseHistory:
        if self._objects is None:
            self.refresh()
        assert self._objects is not None
        if database not in self._histories:
            history = _DatabaseHistory()
            for item in self._objects.get(database, []):
                self._add(history, item)
            self._histories[database] = history
        return self._histories[database]

    def _add(self, history: _DatabaseHistory, item: ReadingObject) -> None:
        reading = self._read(item)
        if reading.base is not None and reading.base == history.head:
            changed = [*(relation.oid for relation in reading.relations), *reading.gone]
            state = _applied(history.state, reading)
        else:
            # Full, or by another writer, who knew another reading as the last one.
            state = self._state_of(reading)
            changed = [*state, *history.state]
        history.turn_to(state, changed, reading.position)
        history.head = item.key

    def _state_of(self, reading: Reading) -> dict[int, Relation]:
        state: dict[int, Relation] = {}
        for step in reversed(self._chain(reading)):
            state = _applied(state, step)
        return state

    def _chain(self, reading: Reading) -> list[Reading]:
        """Return a reading, what it rests on, and so on to a full one. Raises CorruptObject."""
        chain = [reading]
        passed: set[str] = set()
        while (key := chain[-1].base) is not None:
            if key in passed:
                raise CorruptObject(key, "Readings rest on each other in a circle.")
            passed.add(key)
            chain.append(self._by_key(key))
        return chain

    def _by_key(self, key: str) -> Reading:
        if key not in self._readings:
            self._readings[key] = decode_reading(key, self._store.get(key))
        return self._readings[key]

    def _read(self, item: ReadingObject) -> Reading:
        return self._by_key(item.key)


def version_at(versions: list[Version], position: int) -> Version:
    """Return the version that held at a position, else the first one; there must be one."""
    at = bisect_right(versions, position, key=lambda version: version.begin)
    return versions[max(at - 1, 0)]


def _applied(state: dict[int, Relation], reading: Reading) -> dict[int, Relation]:
    found = dict(state) if reading.base is not None else {}
    for oid in reading.gone:
        found.pop(oid, None)
    found.update((relation.oid, relation) for relation in reading.relations)
    return found
