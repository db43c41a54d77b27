"""Which tables are reported, and the b-trees that their rows rest in."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pitr.errors import TableUnknown
from pitr.sqlite.past.schema import Schema, SchemaEntry
from pitr.sqlite.past.tables import folded
from pitr.sqlite.rows.pairing import TablePair
from pitr.sqlite.statement.pattern import TablePattern


@dataclass(frozen=True, slots=True)
class Subject:
    """What is reported as one table.

    `trees` are the tables whose rows are compared: itself, or of a virtual table the shadow tables
    that tell its rows. The first one is the one whose rows are counted.
    """

    pair: TablePair
    trees: tuple[TablePair, ...]


class Scope:
    """The subjects of one step, found by the roots of their trees on either side.

    `is_standing` says that the step changes no schema, so that only touched pages matter.
    """

    def __init__(self, subjects: Sequence[Subject], *, is_standing: bool) -> None:
        self._subjects = subjects
        self._is_standing = is_standing
        self._subjects_of: dict[TablePair, list[Subject]] = {}
        for subject in subjects:
            for tree in subject.trees:
                self._subjects_of.setdefault(tree, []).append(subject)
        self.trees = list(self._subjects_of)
        self.by_later_root = {tree.after.root: tree for tree in self.trees if tree.after}
        self.by_earlier_root = {tree.before.root: tree for tree in self.trees if tree.before}

    def touched(self, later: Iterable[int], earlier: Iterable[int]) -> list[TablePair]:
        """Return the trees with these roots on the later or on the earlier side, each once."""
        found = [self.by_later_root.get(root) for root in later]
        found += [self.by_earlier_root.get(root) for root in earlier]
        return list(dict.fromkeys(tree for tree in found if tree))

    def affected(self, trees: Iterable[TablePair], *, all_of_them: bool) -> Sequence[Subject]:
        """Return the subjects that something may have happened to, given the trees that differ."""
        if all_of_them or not self._is_standing:
            return self._subjects
        found = (subject for tree in trees for subject in self._subjects_of[tree])
        return list(dict.fromkeys(found))


class Watch:
    """The tables asked for, by name or pattern; None for all but SQLite's own and shadow tables.

    Those are left out of what a pattern means too. A table that is asked for is followed across
    renames.
    """

    def __init__(self, names: Collection[str] | None) -> None:
        self._patterns = None if names is None else [TablePattern.parse(name) for name in names]
        self._names: set[str] = set()  # folded: what was asked for, and what it was called since
        self._unseen = set(names or ())
        self._known: dict[str, str] = {}  # every table met, by folded name

    def subjects(self, pairs: Iterable[TablePair], before: Schema, after: Schema) -> list[Subject]:
        """Return what is to be reported of all tables of two neighbouring commits."""
        shadows = before.shadows.keys() | after.shadows.keys()
        for schema in (after, before):
            self._known |= {name: entry.name for name, entry in schema.tables.items()}
        self._look_for({name.name for s in (after, before) for name in s.tables.values()}, shadows)
        return [
            Subject(pair, tuple(_trees(pair, before, after)))
            for pair in pairs
            if self._wants(pair, shadows)
        ]

    def _look_for(self, tables: set[str], shadows: set[str]) -> None:
        for pattern in self._patterns or ():
            for name in map(folded, pattern.chosen(tables)):
                if not (pattern.is_wild and _is_own(name, shadows)):
                    self._names.add(name)
                    self._unseen.discard(pattern.text)

    def _wants(self, pair: TablePair, shadows: set[str]) -> bool:
        if self._patterns is None:
            return not any(_is_own(name, shadows) for name in pair.names)
        if self._names.isdisjoint(pair.names):
            return False
        self._names |= pair.names
        return True

    def refuse_unseen(self) -> None:
        """Raise TableUnknown when a table that was asked for has been in no schema so far."""
        for name in sorted(self._unseen):
            matches = difflib.get_close_matches(folded(name), self._known, n=3)
            near = [self._known[match] for match in matches]
            raise TableUnknown(
                f"no table {name} in the archived time",
                detail="No commit that was looked at has a table of this name.",
                hint=f"Did you mean {' or '.join(near)}?" if near else None,
            )


def _is_own(name: str, shadows: set[str]) -> bool:
    """Return whether a folded name is of SQLite's own tables or of a virtual table's inside."""
    return name in shadows or name.startswith("sqlite_")


def _trees(pair: TablePair, before: Schema, after: Schema) -> Iterator[TablePair]:
    entry = pair.after or pair.before
    module = entry.module if entry else None
    if entry is None or entry.root:
        yield pair
    elif module in ("rtree", "rtree_i32", "geopoly"):
        yield _shadow_pair(pair, before, after, "_rowid")
        yield _shadow_pair(pair, before, after, "_node")
    elif module in ("fts3", "fts4", "fts5"):
        content = _shadow_pair(pair, before, after, "_content")
        has_content = content.before or content.after
        rows = content if has_content else _shadow_pair(pair, before, after, "_docsize")
        if rows.before or rows.after:
            yield rows


def _shadow_pair(pair: TablePair, before: Schema, after: Schema, suffix: str) -> TablePair:
    return TablePair(
        _shadow(pair.before, before, suffix),
        _shadow(pair.after, after, suffix),
    )


def _shadow(virtual: SchemaEntry | None, schema: Schema, suffix: str) -> SchemaEntry | None:
    return schema.shadow(virtual, suffix) if virtual else None
