"""The one question every reader asks of the past: what did page N hold after commit C?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class PageSource(Protocol):
    """The pages of one database at one commit. Safe to call from one thread at a time."""

    @property
    def page_size(self) -> int:
        """Return the size of every page in bytes, a power of two from 512 to 65536."""

    @property
    def page_count(self) -> int:
        """Return the size of the database in pages after that commit."""

    def page(self, page_number: int) -> bytes:
        """Return the image of a page, counted from 1.

        A page that was never written (the lock-byte page, growth) is zeros. Raises
        CorruptObject, ObjectMissing, and ValueError for a page outside 1..page_count.
        """

    def prefetch(self, page_numbers: Iterable[int]) -> None:
        """Begin to fetch these pages together, for calls of `page` that follow soon.

        A hint: may do nothing, and may be called with any numbers.
        """
