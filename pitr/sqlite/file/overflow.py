"""Find the rows that changed on their overflow pages alone.

An UPDATE that keeps a row's size, or a blob write, may change an overflow page and leave the
b-tree page as it is. Such a page was on an overflow chain before the commit and is on the same
one after it. Whoever owns it is found from the pointer map where there is one; otherwise by
looking for the chain, which reads leaves only when a commit holds a page that nothing else
explains, and then remembers what it saw.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.file.page import (
    Cell,
    PointerKind,
    damaged,
    local_payload_max,
    next_overflow_page,
    overflow_page_count,
)
from pitr.sqlite.file.tree import Forest, PageDelta


@dataclass(frozen=True, slots=True)
class Suspect:
    """A row whose overflow chain holds a changed page; its cell as it is before and after."""

    root: int
    cell: Cell
    page_number: int


def overflow_candidates(
    page_numbers: Iterable[int], changed: frozenset[int], before: Snapshot, after: Snapshot
) -> set[int]:
    """Return those pages that may be on the same overflow chain before and after, changed.

    What is a b-tree page on either side begins with a byte that as a page number would lie far
    outside the database; what was free on either side stands on a trunk that was changed too.
    """
    found = set()
    for page_number in page_numbers:
        if page_number > min(before.page_count, after.page_count):
            continue
        image = after.page(page_number)
        if next_overflow_page(image) > after.page_count or after.is_bookkeeping(page_number):
            continue
        earlier = before.page(page_number)
        if next_overflow_page(earlier) <= before.page_count and earlier != image:
            found.add(page_number)
    if found:
        found -= before.free_pages(changed)
    if found:
        found -= after.free_pages(changed)
    return found


def explained(
    candidates: Collection[int],
    later: Iterable[PageDelta],
    earlier: Iterable[PageDelta],
    here: Snapshot,
    there: Snapshot,
) -> set[int]:
    """Return the candidates on chains of cells that are on one side only, so are known anyway.

    `later` are the deltas whose `left` pages count, `earlier` those whose `entered` pages do.
    """
    found: set[int] = set()
    for is_index in (False, True):
        left = {p for delta in later if delta.is_index is is_index for p in delta.left}
        entered = {p for delta in earlier if delta.is_index is is_index for p in delta.entered}
        old = {c for p in left for c in _overflowing(here, p, is_index=is_index)}
        new = {c for p in entered for c in _overflowing(there, p, is_index=is_index)}
        for snapshot, cells in ((here, old - new), (there, new - old)):
            for cell in cells:
                found.update(p for p in snapshot.overflow_pages(cell) if p in candidates)
    return found


def _overflowing(snapshot: Snapshot, page_number: int, *, is_index: bool) -> Iterator[Cell]:
    """Yield the cells of a page that have overflow pages."""
    local_max = local_payload_max(snapshot.usable_size, is_index=is_index)
    # A cell begins with the size of its payload; one byte of it is enough for most.
    short = min(local_max, 0x7F) + 1
    for extent in snapshot.extents(page_number, is_index=is_index):
        if extent and extent[0] < short:
            continue
        cell = snapshot.cell(extent, page_number, is_index=is_index)
        if cell.overflow:
            yield cell


class _Chains:
    """The overflow chains of one tree: all their first pages, and the chains followed so far."""

    def __init__(self, here: Snapshot, row_pages: Iterable[int], *, is_index: bool) -> None:
        self._is_index = is_index
        self._leaf_of: dict[int, tuple[int, int]] = {}  # first page: (b-tree page, chain length)
        self._firsts_on: dict[int, list[int]] = {}  # b-tree page: first pages
        self._unfollowed: list[int] = []  # first pages, ascending
        self._followed: dict[int, list[int]] = {}
        self._first_of: dict[int, int] = {}  # any page of a followed chain: its first page
        self.add(here, row_pages)

    def add(self, here: Snapshot, row_pages: Iterable[int]) -> None:
        for page_number in row_pages:
            firsts = []
            for cell in _overflowing(here, page_number, is_index=self._is_index):
                length = overflow_page_count(cell, here.usable_size)
                self._leaf_of[cell.overflow] = page_number, length
                insort(self._unfollowed, cell.overflow)
                firsts.append(cell.overflow)
            if firsts:
                self._firsts_on[page_number] = firsts

    def remove(self, row_pages: Iterable[int]) -> None:
        for page_number in row_pages:
            for first in self._firsts_on.pop(page_number, ()):
                if first in self._followed:
                    self._forget_chain(first)
                self._take_unfollowed(first)
                del self._leaf_of[first]

    def forget(self, changed: Iterable[int]) -> None:
        """Drop what was learnt of chains that run through changed pages."""
        for page_number in changed:
            if page_number in self._first_of:
                self._forget_chain(self._first_of[page_number])

    def _forget_chain(self, first: int) -> None:
        for page_number in self._followed.pop(first):
            del self._first_of[page_number]
        insort(self._unfollowed, first)

    def _take_unfollowed(self, first: int) -> None:
        del self._unfollowed[bisect_left(self._unfollowed, first)]

    def owner(self, page_number: int, here: Snapshot) -> tuple[int, int] | None:
        """Return (first page, b-tree page) of the chain that a page is on, None when on none.

        Chains are mostly written front to back: the nearest one that begins below comes first.
        """
        if page_number not in self._first_of:
            at = bisect_right(self._unfollowed, page_number)
            nearest = self._unfollowed[at - 1 :: -1] if at else []
            for first in (*nearest, *self._unfollowed[at:]):
                if page_number in self._follow(first, here):
                    break
            else:
                return None
        first = self._first_of[page_number]
        return first, self._leaf_of[first][0]

    def _follow(self, first: int, here: Snapshot) -> Collection[int]:
        chain = list(here.chain(first, self._leaf_of[first][1]))
        self._followed[first] = chain
        for page_number in chain:
            self._first_of[page_number] = first
        self._take_unfollowed(first)
        return chain


class OverflowOwners:
    """Who owns an overflow page, for the trees of a forest. Follows the forest's steps."""

    def __init__(self, forest: Forest) -> None:
        self._forest = forest
        self._chains: dict[int, _Chains] = {}

    def step(
        self,
        changed: frozenset[int],
        deltas: Mapping[int, PageDelta],
        felled: Collection[int],
        there: Snapshot,
    ) -> None:
        """Go along with a step of the forest; call it after `Forest.step`."""
        for root in felled:
            self._chains.pop(root, None)
        for root, chains in self._chains.items():
            chains.forget(changed)
            if root in deltas:
                chains.remove(deltas[root].left)
                chains.add(there, deltas[root].entered)

    def suspects(
        self,
        candidates: Collection[int],
        wanted: Collection[int],
        others: Collection[int],
        here: Snapshot,
    ) -> Iterator[Suspect]:
        """Yield the rows of the trees `wanted` whose overflow chains hold one of the pages.

        The pages may belong to the trees `others` as well: to find them there may be cheaper.
        """
        if here.header.auto_vacuum:
            owners = _climb(candidates, here)
            found = {(self._forest.root_of(leaf), first, leaf) for first, leaf in owners}
        else:
            found = set(self._search(candidates, wanted, others, here))
        for root, first, leaf in found:
            if root in wanted:
                yield _suspect(root, first, leaf, here, is_index=self._forest.is_index(root))

    def _search(
        self,
        candidates: Collection[int],
        wanted: Collection[int],
        others: Collection[int],
        here: Snapshot,
    ) -> Iterator[tuple[int, int, int]]:
        """Yield (root, first overflow page, b-tree page).

        Trees whose chains are known are asked first, then the smaller ones before the larger.
        """
        missing, unasked = set(candidates), set(wanted)
        forest = self._forest
        roots = sorted(
            unasked.union(others),
            key=lambda root: (root not in self._chains, forest.size(root)),
        )
        for root in roots:
            if not missing or not unasked:
                return
            unasked.discard(root)
            if root not in self._chains:
                row_pages = forest.row_pages(root, here)
                here.source.prefetch(row_pages)
                self._chains[root] = _Chains(here, row_pages, is_index=forest.is_index(root))
            for page_number in sorted(missing):
                owner = self._chains[root].owner(page_number, here)
                if owner:
                    missing.discard(page_number)
                    yield root, *owner


def _climb(page_numbers: Iterable[int], here: Snapshot) -> set[tuple[int, int]]:
    """Return (first page of the chain, b-tree page) of overflow pages by the pointer map."""
    owners: dict[int, tuple[int, int]] = {}
    for start in page_numbers:
        page_number, way = start, [start]
        while page_number not in owners:
            kind, parent = here.pointer(page_number)
            if kind is not PointerKind.OVERFLOW_NEXT:
                leaf = parent if kind is PointerKind.OVERFLOW_FIRST else 0
                owners[page_number] = page_number, leaf
                break
            way.append(parent)
            if len(way) > here.page_count:
                raise damaged(page_number, "The pointer map runs in a circle.")
            page_number = parent
        for passed in way:
            owners[passed] = owners[page_number]
    return set(owners.values())


def _suspect(root: int, first: int, leaf: int, here: Snapshot, *, is_index: bool) -> Suspect:
    for cell in _overflowing(here, leaf, is_index=is_index):
        if cell.overflow == first:
            return Suspect(root, cell, leaf)
    raise damaged(leaf, f"No cell leads to overflow page {first}, which is said to be its own.")
