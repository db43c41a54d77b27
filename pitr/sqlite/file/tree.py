"""Which page belongs to which b-tree, kept up from commit to commit.

A `Forest` knows the b-trees that somebody watches as they are at one commit, and steps to the
commit before or after (it does not care which) by reading changed pages only. That matters because
pages that leave a tree are not written: a freed leaf is in no commit's changed pages and is found
by its absence from the changed interior page above it.

Takes five bytes a page of the database, whatever the number of trees.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from pitr.sqlite.file.btree import DEPTH_MAX, Snapshot
from pitr.sqlite.file.page import damaged


@dataclass(frozen=True, slots=True)
class PageDelta:
    """The row-carrying pages of one tree that a step has to compare.

    `left` are pages of the state stepped from, changed or no longer in the tree; `entered` pages
    of the state stepped to, changed or newly in the tree.
    """

    is_index: bool
    left: frozenset[int] = frozenset()
    entered: frozenset[int] = frozenset()


@dataclass(slots=True)
class _Edit:
    """What a step does to the memory of one tree: pages to forget, pages to (re)place."""

    delta: PageDelta
    forgotten: Collection[int] = ()
    placed: Mapping[int, tuple[int, int]] = field(default_factory=dict)  # page: (parent, level)


class Forest:
    """The b-trees that are watched, as of one commit: each page's parent and level."""

    def __init__(self) -> None:
        self._parents = array("I", [0])
        self._levels = bytearray(1)  # by page; 1 = leaf, 0 = in no watched tree
        self._is_index: dict[int, bool] = {}
        self._sizes: dict[int, int] = {}

    @property
    def roots(self) -> Collection[int]:
        """Return the roots of the watched trees."""
        return self._is_index.keys()

    def is_index(self, root: int) -> bool:
        """Return whether the tree is an index b-tree, in which interior pages carry rows too."""
        return self._is_index[root]

    def size(self, root: int) -> int:
        """Return how many pages the tree had when it came under watch."""
        return self._sizes[root]

    def root_of(self, page_number: int) -> int:
        """Return the root of the tree that a page belongs to, 0 for none."""
        if page_number >= len(self._levels) or not self._levels[page_number]:
            return 0
        for _ in range(DEPTH_MAX):
            parent = self._parents[page_number]
            if not parent:
                return page_number
            page_number = parent
        raise damaged(page_number, "Its b-tree runs in a circle.")

    def is_root_leaf(self, root: int) -> bool:
        """Return whether the tree consists of its root alone."""
        return self._levels[root] == 1

    def row_pages(self, root: int, here: Snapshot) -> frozenset[int]:
        """Return the row-carrying pages of a watched tree. Reads its interior pages."""
        return frozenset(p for p, level in self._subtree(root, here) if self._carries(root, level))

    def group(self, page_numbers: Iterable[int]) -> dict[int, list[int]]:
        """Return the pages by the root of their tree; those in no tree under 0."""
        groups: dict[int, list[int]] = {}
        for page_number in page_numbers:
            groups.setdefault(self.root_of(page_number), []).append(page_number)
        return groups

    # --- changing it -----------------------------------------------------------------------------

    def plant(self, root: int, here: Snapshot) -> None:
        """Watch one more tree of the state that the forest is at. Reads its interior pages."""
        self._is_index[root] = here.is_index(root)
        for level, pages in here.levels(root):
            self._make_room(max(page_number for page_number, _ in pages))
            for page_number, parent in pages:
                if self._levels[page_number]:
                    raise damaged(page_number, "It belongs to two b-trees.")
                self._parents[page_number] = parent
                self._levels[page_number] = level
            self._sizes[root] = self._sizes.get(root, 0) + len(pages)

    def step(
        self,
        changed: frozenset[int],
        here: Snapshot,
        there: Snapshot,
        *,
        felled: Collection[int] = (),
        planted: Collection[int] = (),
    ) -> tuple[dict[int, PageDelta], dict[int, PageDelta]]:
        """Go to a neighbouring commit; `changed` are the pages that differ between the two.

        `felled` are watched roots that are no trees there or not the same ones; `planted` roots
        to be watched from there on. Returns (what left and entered the trees that stay and what
        left the felled ones, what entered the planted ones), both by root; trees untouched are
        absent. Raises CorruptDatabase, after which the forest must not be used any more.
        """
        touched = self.group(changed)
        gone = {root: self._felled(root, here) for root in felled}
        stay = [root for root in touched if root and root not in gone]
        edits = {root: self._stepped(root, touched[root], changed, here, there) for root in stay}
        edits |= gone
        for edit in edits.values():
            self._forget(edit.forgotten)
        for root in felled:
            del self._is_index[root], self._sizes[root]
        for edit in edits.values():
            self._place(edit.placed)
        for root in planted:
            self.plant(root, there)
        left_or_stayed = {root: edit.delta for root, edit in edits.items()}
        grown = {
            root: PageDelta(self._is_index[root], entered=self.row_pages(root, there))
            for root in planted
        }
        return left_or_stayed, grown

    def _make_room(self, page_number: int) -> None:
        missing = page_number + 1 - len(self._levels)
        if missing > 0:
            self._levels.extend(bytes(missing))
            self._parents.frombytes(bytes(self._parents.itemsize * missing))

    def _forget(self, page_numbers: Iterable[int]) -> None:
        for page_number in page_numbers:
            self._levels[page_number] = self._parents[page_number] = 0

    def _place(self, placed: Mapping[int, tuple[int, int]]) -> None:
        self._make_room(max(placed, default=0))
        for page_number, (parent, level) in placed.items():
            self._parents[page_number] = parent
            self._levels[page_number] = level

    def _carries(self, root: int, level: int) -> bool:
        return level == 1 or self._is_index[root]

    def _subtree(self, root: int, here: Snapshot) -> Iterable[tuple[int, int]]:
        """Yield (page, level) of a whole watched tree, reading its interior pages."""
        stack = [root]
        seen = set()
        while stack:
            page_number = stack.pop()
            level = self._levels[page_number]
            if page_number in seen:
                raise damaged(page_number, "Its b-tree runs in a circle.")
            seen.add(page_number)
            yield page_number, level
            if level > 1:
                stack.extend(here.children(page_number))

    def _felled(self, root: int, here: Snapshot) -> _Edit:
        forgotten = dict(self._subtree(root, here))
        left = frozenset(p for p, level in forgotten.items() if self._carries(root, level))
        return _Edit(PageDelta(self._is_index[root], left=left), forgotten)

    # --- one tree, one step ----------------------------------------------------------------------

    def _stepped(
        self,
        root: int,
        touched: list[int],
        changed: frozenset[int],
        here: Snapshot,
        there: Snapshot,
    ) -> _Edit:
        levels = self._levels
        branches = [p for p in touched if levels[p] > 1]
        if not branches and (root not in changed or there.height(root) == 1):
            leaves = frozenset(touched)
            return _Edit(PageDelta(self._is_index[root], leaves, leaves))
        # Pages on the way from the root to a changed interior page: only these are read.
        path = {root}
        for page_number in branches:
            while page_number not in path:
                path.add(page_number)
                page_number = self._parents[page_number]
        placed, fresh = self._grow(root, path, changed, there)
        lost = self._lost(branches, placed, here)
        stayed = {p for p in touched if levels[p] == 1 and self._parents[p] not in path} - {root}
        left = {p for p in (*touched, *lost) if self._carries(root, levels[p])}
        entered = {p for p in fresh if self._carries(root, placed[p][1])} | (stayed - lost)
        delta = PageDelta(self._is_index[root], frozenset(left), frozenset(entered))
        return _Edit(delta, lost, placed)

    def _grow(
        self, root: int, path: set[int], changed: frozenset[int], there: Snapshot
    ) -> tuple[dict[int, tuple[int, int]], list[int]]:
        """Walk the tree there as far as it may differ; return (pages met, the new ones of them).

        A child that is neither changed nor new nor on the path keeps its subtree as it was.
        """
        level = there.height(root)
        placed = {root: (0, level)}
        fresh = [root] if root in changed else []
        frontier = [root]
        while level > 1:
            there.source.prefetch(frontier)
            level -= 1
            deeper = []
            for parent in frontier:
                for child in there.children(parent):
                    if child in placed:
                        raise damaged(child, "It has two parents in its b-tree.")
                    placed[child] = parent, level
                    is_fresh = child in changed or not self._was_at(root, child, level)
                    if is_fresh:
                        fresh.append(child)
                    if is_fresh or child in path:
                        deeper.append(child)
            frontier = deeper
        return placed, fresh

    def _was_at(self, root: int, page_number: int, level: int) -> bool:
        """Return whether the page was in this tree already, at this level."""
        if page_number >= len(self._levels) or self._levels[page_number] != level:
            return False
        return self.root_of(page_number) == root

    def _lost(
        self, branches: list[int], placed: Mapping[int, tuple[int, int]], here: Snapshot
    ) -> set[int]:
        """Return the pages that no longer hang on the tree: children given up, and theirs."""
        lost: set[int] = set()
        stack = [child for page_number in branches for child in here.children(page_number)]
        while stack:
            page_number = stack.pop()
            if page_number not in placed and page_number not in lost:
                lost.add(page_number)
                if self._levels[page_number] > 1:
                    stack.extend(here.children(page_number))
        return lost
