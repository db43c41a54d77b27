"""Which table of one commit is which table of the next: by name, and across a rename."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass

from pitr.sqlite.file import page as pages
from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.past.schema import Schema, SchemaEntry
from pitr.sqlite.past.tables import folded
from pitr.sqlite.statement.tokens import tokens_of


@dataclass(frozen=True, slots=True)
class TablePair:
    """One table before and after; None where it did not exist."""

    before: SchemaEntry | None
    after: SchemaEntry | None

    @property
    def name(self) -> str:
        """Return the name it is reported under: the newer one."""
        entry = self.after or self.before
        return entry.name if entry else ""

    @property
    def names(self) -> set[str]:
        """Return its folded names on both sides."""
        return {folded(entry.name) for entry in (self.before, self.after) if entry}

    @property
    def altered(self) -> bool:
        """Return whether it was there before and after, under another statement."""
        if self.before is None or self.after is None:
            return False
        return self.before.sql != self.after.sql


def pair_tables(
    before: Schema,
    after: Schema,
    earlier: Snapshot,
    later: Snapshot,
    changed: Container[object],
) -> list[TablePair]:
    """Return every table of two neighbouring commits, dropped and created ones included.

    `changed` are the pages that the later commit wrote.
    """
    pairs = []
    dropped = {entry.rowid: entry for entry in before.tables.values()}
    for name, entry in after.tables.items():
        if name in before.tables:
            pairs.append(TablePair(before.tables[name], entry))
            dropped.pop(before.tables[name].rowid, None)
    for name, entry in after.tables.items():
        if name not in before.tables:
            predecessor = dropped.get(entry.rowid)
            if predecessor and _is_renamed(predecessor, entry, earlier, later, changed):
                del dropped[entry.rowid]
                pairs.append(TablePair(predecessor, entry))
            else:
                pairs.append(TablePair(None, entry))
    return pairs + [TablePair(entry, None) for entry in dropped.values()]


def _is_renamed(
    before: SchemaEntry,
    after: SchemaEntry,
    earlier: Snapshot,
    later: Snapshot,
    changed: Container[object],
) -> bool:
    """Tell a rename from a DROP and a CREATE that reuse root page and place in sqlite_schema."""
    if not before.root:
        return before.module is not None and before.module == after.module
    if before.root != after.root:
        return False
    old, new = _root_content(earlier, before.root), _root_content(later, after.root)
    if not old and not new:
        return before.root not in changed and _body(before.sql or "") == _body(after.sql or "")
    return any(part not in changed for part in old & new)


def _body(sql: str) -> str:
    """Return the text of a CREATE TABLE behind the table's name."""
    return next((sql[token.begin :] for token in tokens_of(sql) if token.is_sign("(")), "")


def _root_content(snapshot: Snapshot, root: int) -> set[bytes | int]:
    """Return the cells of a root that is a leaf, the children of any other."""
    if not pages.is_leaf(snapshot.page(root), root):
        return set(snapshot.children(root))
    return set(snapshot.extents(root, is_index=snapshot.is_index(root)))


def is_vacuum(before: Schema, after: Schema, later: Snapshot) -> bool:
    """Return whether the database was laid out anew between two neighbouring commits.

    VACUUM counts the schema cookie up by one, leaves every statement as it was and no page free.
    Whatever else counts the cookie up once changes a statement.
    """
    return (
        after.cookie == (before.cookie + 1) & 0xFFFFFFFF
        and not later.header.freelist_count
        and has_same_statements(before, after)
    )


def has_same_statements(before: Schema, after: Schema) -> bool:
    """Return whether the two schemas differ in nothing but places."""
    return _statements(before) == _statements(after)


def _statements(schema: Schema) -> Counter[tuple[str, str, str | None]]:
    # VACUUM leaves sqlite_sequence out when no table needs it any more.
    return Counter(
        (entry.kind, entry.name, entry.sql)
        for entry in schema.entries
        if entry.name != "sqlite_sequence"
    )
