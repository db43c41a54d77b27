"""One state of a database read straight from its pages: b-trees, payloads, free pages.

What a b-tree says of pages is checked as it is used: a page number outside the database, a page
of the wrong kind, a chain that runs in a circle raise CorruptDatabase. Nothing here can loop on
damaged pages, nor read more pages than the database has.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Iterator, Sequence
from functools import cached_property

from pitr.sqlite.file import page as pages
from pitr.sqlite.file.page import Cell, DatabaseHeader, PointerKind, damaged
from pitr.sqlite.file.pages import PageSource

# SQLite gives up at this depth too.
DEPTH_MAX = 20


class Snapshot:
    """The pages of one commit, decoded on demand. Keeps no image: the page source caches."""

    def __init__(self, source: PageSource) -> None:
        self.source = source
        self.page_count = source.page_count

    @cached_property
    def header(self) -> DatabaseHeader:
        """Return the database header. Raises CorruptDatabase, also for an empty database."""
        return pages.decode_header(self.page(1))

    @cached_property
    def usable_size(self) -> int:
        """Return the bytes of a page that the format uses."""
        return self.header.usable_size

    def page(self, page_number: int) -> bytes:
        """Return a page's image; a number outside the database is damage, not a bug."""
        if not 1 <= page_number <= self.page_count:
            reason = f"A pointer leads to it; the database has {self.page_count} pages."
            raise damaged(page_number, reason)
        return self.source.page(page_number)

    # --- b-trees ---------------------------------------------------------------------------------

    def is_index(self, page_number: int) -> bool:
        """Return whether a b-tree page is one of an index b-tree."""
        return pages.page_kind(self.page(page_number), page_number).is_index

    def children(self, page_number: int) -> list[int]:
        """Return the children of an interior page in key order, all of them inside the database."""
        children = pages.child_pages(self.page(page_number), page_number, self.usable_size)
        if not (min(children) > 1 and max(children) <= self.page_count):
            raise damaged(page_number, "A child pointer leads outside the database.")
        return children

    def height(self, root: int) -> int:
        """Return the levels of a b-tree, 1 when the root is a leaf."""
        page_number = root
        for height in range(1, DEPTH_MAX + 1):
            if pages.is_leaf(self.page(page_number), page_number):
                return height
            page_number = self.children(page_number)[0]
        raise damaged(root, f"Its b-tree is deeper than {DEPTH_MAX} levels.")

    def levels(self, root: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Yield (level, [(page, its parent)…]) from the root (parent 0) down to the leaves, 1.

        Reads interior pages only. Raises CorruptDatabase when a page comes twice.
        """
        here = [(root, 0)]
        seen = {root}
        for level in range(self.height(root), 0, -1):
            yield level, here
            if level > 1:
                self.source.prefetch([page_number for page_number, _ in here])
                here = [(child, above) for above, _ in here for child in self.children(above)]
                before = len(seen)
                seen.update(child for child, _ in here)
                if len(seen) != before + len(here):
                    raise damaged(root, "Its b-tree names a page twice.")

    def row_pages(self, root: int) -> list[int]:
        """Return the pages of a b-tree that carry rows: leaves; of an index b-tree, all pages."""
        found: list[int] = []
        is_index = self.is_index(root)
        for level, here in self.levels(root):
            if is_index or level == 1:
                found.extend(page_number for page_number, _ in here)
        return found

    def leaves(self, root: int) -> Iterator[int]:
        """Yield the leaves of a b-tree in key order, reading interior pages as they come."""
        found = self._leaves_below(root, self.height(root))
        for count, page_number in enumerate(found, start=1):
            if count > self.page_count:
                raise damaged(root, "Its b-tree names a page twice.")
            yield page_number

    def _leaves_below(self, page_number: int, height: int) -> Iterator[int]:
        if height == 1:
            yield page_number
            return
        children = self.children(page_number)
        if height == 2:
            yield from children
            return
        self.source.prefetch(children)
        for child in children:
            yield from self._leaves_below(child, height - 1)

    def extents(self, page_number: int, *, is_index: bool) -> list[bytes]:
        """Return the cells of a row-carrying page; see `page.cell_extents`."""
        image = self.page(page_number)
        return pages.cell_extents(image, page_number, self.usable_size, is_index=is_index)

    def cell_count(self, page_number: int) -> int:
        """Return how many cells a page has."""
        return pages.cell_count(self.page(page_number), page_number)

    def cell(self, extent: bytes, page_number: int, *, is_index: bool) -> Cell:
        """Decode a cell from its extent."""
        return pages.decode_cell(extent, page_number, self.usable_size, is_index=is_index)

    def cells(self, root: int) -> Iterator[tuple[Cell, int]]:
        """Yield (cell, its page) of every row of a b-tree, in no order."""
        is_index = self.is_index(root)
        row_pages = self.row_pages(root)
        self.source.prefetch(row_pages)
        for page_number in row_pages:
            for extent in self.extents(page_number, is_index=is_index):
                yield self.cell(extent, page_number, is_index=is_index), page_number

    def seek(self, root: int, rowid: int) -> Cell | None:
        """Return the cell of a rowid in a table b-tree."""
        page_number = root
        for _ in range(DEPTH_MAX):
            image = self.page(page_number)
            if pages.is_leaf(image, page_number):
                extents = self.extents(page_number, is_index=False)
                cells = (self.cell(extent, page_number, is_index=False) for extent in extents)
                return next((cell for cell in cells if cell.rowid == rowid), None)
            separators = pages.separator_rowids(image, page_number, self.usable_size)
            page_number = self.children(page_number)[bisect_left(separators, rowid)]
        raise damaged(root, f"Its b-tree is deeper than {DEPTH_MAX} levels.")

    # --- payloads --------------------------------------------------------------------------------

    def chain(self, first: int, page_count: int) -> Iterator[int]:
        """Yield the pages of an overflow chain that must have `page_count` pages."""
        if page_count > self.page_count:
            raise damaged(first, f"An overflow chain of {page_count} pages does not fit.")
        seen = set()
        page_number = first
        for remaining in range(page_count, 0, -1):
            if page_number in seen:
                raise damaged(page_number, "An overflow chain runs in a circle.")
            seen.add(page_number)
            yield page_number
            if remaining > 1:
                page_number = pages.next_overflow_page(self.page(page_number))

    def overflow_pages(self, cell: Cell) -> Sequence[int]:
        """Return the overflow pages of a cell in order. Reads all but the content of the last."""
        if not cell.overflow:
            return ()
        count = pages.overflow_page_count(cell, self.usable_size)
        return list(self.chain(cell.overflow, count))

    def payload(self, cell: Cell) -> bytes:
        """Return the whole payload of a cell, overflow included."""
        if not cell.overflow:
            return cell.local
        parts = [cell.local]
        parts += [self.page(number)[4 : self.usable_size] for number in self.overflow_pages(cell)]
        return b"".join(parts)[: cell.payload_size]

    def record_header(self, cell: Cell, page_number: int) -> bytes:
        """Return at least the header of a row's record: its overflow is read only if need be."""
        if cell.overflow and pages.record_header_size(cell.local, page_number) > len(cell.local):
            return self.payload(cell)
        return cell.local

    # --- what is in no b-tree --------------------------------------------------------------------

    def free_pages(self, within: Container[int]) -> set[int]:
        """Return the free pages named by the first freelist trunks, as long as those are `within`.

        SQLite takes pages from the front of the freelist and puts them there, so that the pages
        which a commit took or freed stand on trunks which it wrote.
        """
        free: set[int] = set()
        trunk = self.header.freelist_trunk
        while trunk and trunk in within and trunk not in free:
            free.add(trunk)
            image = self.page(trunk)
            trunk, leaves = pages.decode_trunk(image, trunk, self.usable_size)
            free.update(leaves)
        return free

    def pointer(self, page_number: int) -> tuple[PointerKind, int]:
        """Return the pointer map entry of a page; only where `header.auto_vacuum`."""
        found = pages.pointer_map_page(page_number, self.source.page_size, self.usable_size)
        return pages.decode_pointer(self.page(found), found, page_number)

    def is_bookkeeping(self, page_number: int) -> bool:
        """Return whether a page is page 1, the lock-byte page or a pointer map page."""
        if page_number in (1, pages.lock_byte_page(self.source.page_size)):
            return True
        if not self.header.auto_vacuum:
            return False
        size = self.source.page_size
        return pages.pointer_map_page(page_number, size, self.usable_size) == page_number
