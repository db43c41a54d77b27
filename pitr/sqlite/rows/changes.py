"""What one commit did to the rows of the tables, from the pages that it changed.

A `Stepper` stands at one commit and steps to the commit before it. It reads the pages that the
later commit changed, as they are on both sides, of the tables that are watched; to begin with it
reads their interior pages, about one page in three hundred.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pitr.sqlite.file import page as pages
from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.file.overflow import OverflowOwners, explained, overflow_candidates
from pitr.sqlite.file.tree import Forest, PageDelta
from pitr.sqlite.past.schema import SCHEMA_ROOT, Schema, SchemaEntry
from pitr.sqlite.past.tables import folded
from pitr.sqlite.rows.pairing import TablePair, has_same_statements, is_vacuum, pair_tables
from pitr.sqlite.rows.rowdiff import RowDiff, TableSide
from pitr.sqlite.rows.rtree import updated_boxes
from pitr.sqlite.rows.watch import Scope, Subject, Watch
from pitr.vocabulary.change import TableChange

_PAGES_PER_INTERIOR_PAGE = 128


@dataclass(frozen=True, slots=True)
class TableDelta:
    """What a commit did to one table; `diff` has the rows, None when no page of it changed."""

    pair: TablePair
    change: TableChange
    diff: RowDiff | None

    @property
    def is_listed(self) -> bool:
        """Return whether anything happened that a user would call a change of the table."""
        found = self.change
        has_rows = found.inserted or found.updated or found.deleted
        return bool(has_rows or found.created or found.dropped or found.altered or found.rewritten)


class Stepper:
    """The watched tables as of one commit. After an error it must not be used any more."""

    def __init__(self, watch: Watch, here: Snapshot) -> None:
        """Read the schema and the interior pages of the watched tables of a state."""
        self._watch = watch
        self._stand(Schema.read(here))
        self._settle(here, self._standing.by_later_root)

    def _stand(self, schema: Schema) -> None:
        """Take over a schema, and the scope of a step that changes none of it."""
        self.schema = schema
        pairs = [TablePair(entry, entry) for entry in schema.tables.values()]
        subjects = self._watch.subjects(pairs, schema, schema)
        self._standing = Scope(subjects, is_standing=True)

    def _settle(self, here: Snapshot, roots: Iterable[int]) -> None:
        """Watch the trees of a state, with nothing known of them."""
        self._forest = Forest()
        self._owners = OverflowOwners(self._forest)
        self._knows_all_trees = False
        self._loose_pages_read = 0
        if here.page_count:
            for root in {SCHEMA_ROOT, *roots}:
                self._forest.plant(root, here)

    def step(
        self, here: Snapshot, there: Snapshot, changed: frozenset[int], *, is_exact: bool
    ) -> list[TableDelta]:
        """Step to the state before; return what happened to the watched tables in between.

        `changed` are the pages that may differ between the two. `is_exact` says that a single
        transaction led from there to here. Raises CorruptDatabase.
        """
        earlier = self._earlier_schema(here, there, changed)
        scope = self._standing
        if earlier is not self.schema:
            pairs = pair_tables(earlier, self.schema, there, here, changed)
            subjects = self._watch.subjects(pairs, earlier, self.schema)
            scope = Scope(subjects, is_standing=False)
        step = _Step(here, there, changed, scope)
        layout = _Layout.between(earlier, self.schema, step, is_exact=is_exact)
        candidates: set[int] = set()
        if not layout.only_moved:
            candidates = self._overflow_candidates(step)
        self._move(step, earlier)
        if not layout.only_moved:
            step.compare_rows()
            self._suspect_rows(step, candidates, earlier)
            step.settle_rows(renumbered=layout.renumbered)
        if earlier is not self.schema:
            self._stand(earlier)
        affected = scope.affected(step.diffs, all_of_them=layout.vacuumed)
        deltas = [_table_delta(s, step, vacuumed=layout.vacuumed) for s in affected]
        return [delta for delta in deltas if delta.is_listed]

    def _earlier_schema(self, here: Snapshot, there: Snapshot, changed: frozenset[int]) -> Schema:
        """Return the schema there: the very same object when nothing of it has changed."""
        if not _share_pages(here, there):
            return Schema.read(there)
        touched = [page for page in changed if self._forest.root_of(page) == SCHEMA_ROOT]
        if not touched:
            return self.schema
        same_cookie = here.header.schema_cookie == there.header.schema_cookie
        if same_cookie and touched == [1] and here.page(1)[100:] == there.page(1)[100:]:
            return self.schema
        return Schema.read(there)

    # --- trees -----------------------------------------------------------------------------------

    def _move(self, step: _Step, earlier: Schema) -> None:
        """Take the forest to the state before; leave in the step what left and entered it."""
        here, there, forest = step.here, step.there, self._forest
        if _share_pages(here, there):
            felled, planted = self._replaced_roots(step, earlier)
            stayed, grown = forest.step(step.changed, here, there, felled=felled, planted=planted)
            self._owners.step(step.changed, stayed, felled, there)
            step.later = stayed
            step.earlier = {root: stayed[root] for root in stayed if root not in felled} | grown
            return
        step.later = {
            root: PageDelta(forest.is_index(root), left=forest.row_pages(root, here))
            for root in forest.roots
        }
        self._settle(there, step.scope.by_earlier_root)
        forest = self._forest
        step.earlier = {
            root: PageDelta(forest.is_index(root), entered=forest.row_pages(root, there))
            for root in forest.roots
        }

    def _replaced_roots(self, step: _Step, earlier: Schema) -> tuple[set[int], set[int]]:
        """Return the roots that are no trees there, or other ones, and those that are new there."""
        if earlier is self.schema:
            return set(), set()
        kept = {
            tree.after.root
            for tree in step.scope.trees
            if tree.before and tree.after and tree.before.root == tree.after.root
        }
        wanted = set(step.scope.by_earlier_root)
        if self._knows_all_trees:
            kept |= {root for _, _, root in _places(earlier) & _places(self.schema)}
            wanted |= earlier.roots
        kept = {root for root in kept if step.keeps_kind(root)}
        return set(self._forest.roots) - kept - {SCHEMA_ROOT}, wanted - kept

    # --- rows that changed on overflow pages alone -----------------------------------------------

    def _overflow_candidates(self, step: _Step) -> set[int]:
        here, there = step.here, step.there
        if not _share_pages(here, there):
            return set()
        loose = self._loose(step.changed)
        if self._loose_pages_read > here.page_count // _PAGES_PER_INTERIOR_PAGE:
            # By now, to look at pages of other tables has cost as much as to know their trees.
            self._watch_all_trees(here)
            loose = self._loose(step.changed)
        self._loose_pages_read += len(loose)
        found = overflow_candidates(loose, step.changed, there, here)
        if found and not here.header.auto_vacuum:
            # Mostly such a page went from one chain to another. To see that, all trees have to
            # be watched; it saves reading every leaf in search of its owner.
            self._watch_all_trees(here)
        return found

    def _loose(self, page_numbers: Iterable[int]) -> list[int]:
        return [page for page in page_numbers if not self._forest.root_of(page)]

    def _watch_all_trees(self, here: Snapshot) -> None:
        if not self._knows_all_trees:
            for root in self.schema.roots - set(self._forest.roots):
                self._forest.plant(root, here)
            self._knows_all_trees = True

    def may_read(self, page_number: int) -> bool:
        """Return whether a step that changes this page will look at it, as far as known now."""
        root = self._forest.root_of(page_number)
        return not root or root == SCHEMA_ROOT or root in self._standing.by_later_root

    def _suspect_rows(self, step: _Step, candidates: set[int], schema: Schema) -> None:
        """Add the rows of which a commit may have changed nothing but overflow pages.

        `schema` is that of the state before, at which the forest stands by now.
        """
        if not candidates:
            return
        here, there = step.here, step.there
        if not there.header.auto_vacuum:
            deltas = step.later.values(), step.earlier.values()
            candidates = candidates - explained(candidates, *deltas, here, there)
        trees = step.scope.by_earlier_root
        tables = {table.root for table in schema.tables.values()} & set(self._forest.roots)
        others = {SCHEMA_ROOT} | tables
        for suspect in self._owners.suspects(candidates, trees.keys(), others, there):
            step.diff_of(trees[suspect.root]).suspect(suspect.cell)


@dataclass
class _Step:
    """One step: from the state after a commit (here) to the one before it (there)."""

    here: Snapshot
    there: Snapshot
    changed: frozenset[int]
    scope: Scope

    def __post_init__(self) -> None:
        self.later: Mapping[int, PageDelta] = {}  # what left the trees of here, by root
        self.earlier: Mapping[int, PageDelta] = {}  # what entered the trees of there
        self.diffs: dict[TablePair, RowDiff] = {}

    def keeps_kind(self, root: int) -> bool:
        """Return whether a root is of the same kind of b-tree on both sides."""
        return root not in self.changed or self.here.is_index(root) == self.there.is_index(root)

    def compare_rows(self) -> None:
        """Compare the cells of each tree that was touched."""
        for tree in self.scope.touched(self.later, self.earlier):
            self.diff_of(tree).compare()

    def settle_rows(self, *, renumbered: bool) -> None:
        """Decide which of the rows whose cells differ are other rows."""
        for tree, diff in self.diffs.items():
            if renumbered and _may_be_renumbered(tree):
                diff.pair_moved_rows()
            diff.settle()

    def _sides(self, tree: TablePair) -> tuple[TableSide | None, TableSide | None]:
        later, earlier = _delta_of(tree.after, self.later), _delta_of(tree.before, self.earlier)
        left = later.left if later else frozenset()
        entered = earlier.entered if earlier else frozenset()
        if _share_pages(self.here, self.there):
            untouched = (left & entered) - self.changed
            left, entered = left - untouched, entered - untouched
        before = after = None
        if tree.before:
            is_index = earlier.is_index if earlier else self.there.is_index(tree.before.root)
            before = TableSide(self.there, tree.before, entered, is_index)
        if tree.after:
            is_index = later.is_index if later else self.here.is_index(tree.after.root)
            after = TableSide(self.here, tree.after, left, is_index)
        return before, after

    def diff_of(self, tree: TablePair) -> RowDiff:
        """Return the diff of a tree, an empty one when none of its own pages changed."""
        if tree not in self.diffs:
            self.diffs[tree] = RowDiff(*self._sides(tree))
        return self.diffs[tree]


@dataclass(frozen=True, slots=True)
class _Layout:
    """Whether the database was laid out anew in a step, and what follows from it for the rows."""

    vacuumed: bool
    renumbered: bool  # rowids of tables without an INTEGER PRIMARY KEY may be others
    only_moved: bool  # nothing else happened: no row has to be read

    @classmethod
    def between(cls, earlier: Schema, later: Schema, step: _Step, *, is_exact: bool) -> _Layout:
        if earlier is later or earlier.cookie == later.cookie:
            return cls(vacuumed=False, renumbered=False, only_moved=False)
        vacuumed = is_vacuum(earlier, later, step.here)
        renumbered = vacuumed or (not is_exact and has_same_statements(earlier, later))
        # VACUUM runs in a transaction of its own and writes every page.
        only_moved = vacuumed and is_exact and _covers(step.changed, step.here)
        return cls(vacuumed=vacuumed, renumbered=renumbered, only_moved=only_moved)


def _share_pages(here: Snapshot, there: Snapshot) -> bool:
    """Return whether pages of the two states can be compared by number."""
    same_size = here.source.page_size == there.source.page_size
    return same_size and bool(here.page_count and there.page_count)


def _covers(changed: Collection[int], here: Snapshot) -> bool:
    """Return whether the changed pages are all pages of the database."""
    has_lock_page = pages.lock_byte_page(here.source.page_size) <= here.page_count
    inside = sum(1 for page_number in changed if page_number <= here.page_count)
    return inside >= here.page_count - has_lock_page


def _places(schema: Schema) -> set[tuple[str, str, int]]:
    return {(entry.kind, folded(entry.name), entry.root) for entry in schema.entries if entry.root}


def _delta_of(entry: SchemaEntry | None, deltas: Mapping[int, PageDelta]) -> PageDelta | None:
    return deltas.get(entry.root) if entry else None


def _may_be_renumbered(tree: TablePair) -> bool:
    if not (tree.before and tree.after) or tree.altered:
        return False
    definition = tree.after.definition
    return definition.rowid_column is None and not definition.without_rowid


# --- what is reported ----------------------------------------------------------------------------


def _table_delta(subject: Subject, step: _Step, *, vacuumed: bool) -> TableDelta:
    pair = subject.pair
    diff = step.diffs.get(subject.trees[0]) if subject.trees else None
    is_there_on_both_sides = pair.before is not None and pair.after is not None
    change = TableChange(
        table=pair.name,
        inserted=diff.inserted if diff else 0,
        updated=_updated(subject, step),
        deleted=diff.deleted if diff else 0,
        truncated=is_there_on_both_sides and diff is not None and _is_truncated(diff),
        rewritten=is_there_on_both_sides and (vacuumed or _is_rewritten(pair, diff)),
        dropped=pair.after is None,
        created=pair.before is None,
        altered=pair.altered,
    )
    return TableDelta(pair, change, diff)


def _updated(subject: Subject, step: _Step) -> int:
    diffs = [step.diffs.get(tree) for tree in subject.trees]
    if len(diffs) < 2:
        return diffs[0].updated if diffs and diffs[0] else 0
    entry = subject.pair.after
    if not any(diffs) or entry is None or subject.pair.before is None:
        return 0
    return updated_boxes(entry, step.diff_of(subject.trees[0]), diffs[1])


def _is_truncated(diff: RowDiff) -> bool:
    """Return whether the commit took all rows of a table that had some."""
    return diff.deleted > 0 and diff.after is not None and diff.after.has_no_rows


def _is_rewritten(pair: TablePair, diff: RowDiff | None) -> bool:
    """Return whether the rows were stored anew without being other rows.

    With auto_vacuum SQLite moves root pages by itself; that is no rewriting.
    """
    if diff is None or diff.before is None or diff.after is None:
        return False
    if pair.altered and diff.rewritten:
        return True
    has_moved = diff.before.entry.root != diff.after.entry.root
    return has_moved and diff.kept > 0 and not diff.after.snapshot.header.auto_vacuum
