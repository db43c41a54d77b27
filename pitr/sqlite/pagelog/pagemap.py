"""Page maps: which commit last wrote each page, as of one commit.

A page map (object kind PMAP) is an accelerator: it holds no page image, can always be built anew
from the commit segments, and is believed only when its chain equals the chain of its commit.
Pages are mapped in blocks, so that a reader of one table fetches only the blocks it needs.
Specification: docs/formats/archive.md, "Page maps".
"""

from __future__ import annotations

from array import array

import msgspec

from pitr.archive.document import newer_format
from pitr.archive.object import ObjectReader, Section, encode_object
from pitr.errors import CorruptObject
from pitr.sqlite.pagelog.segment import FIRST_CHAIN, PAGE_SIZES, CommitKind, SegmentIndex

KIND = b"PMAP"
VERSION = 1
BLOCK_PAGES = 16384
_HEAD = 0
# Files that are made longer than the database needs, as by SQLITE_FCNTL_CHUNK_SIZE.
_SPARE_PAGES = 1 << 16
_COMMITS = 1_000_000
_DIGESTS = 2_000_000


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    commit: int
    chain: str
    page_size: int
    page_count: int
    block_pages: int


# Made here, in one thread: pitr/archive/document.py says why.
_HEAD_DECODER = msgspec.json.Decoder(_Head)


class CurrentPages:
    """The newest state, page by page: the commit that wrote it last and the digest of its image.

    Commit 0 means never written. Takes 16 bytes a page.
    """

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.commit = 0
        self.chain = FIRST_CHAIN
        self.commits = array("Q")
        self.digests = array("Q")
        self._room = 0  # by how much the commit that is being applied may grow the database

    @property
    def page_count(self) -> int:
        """Return the size of the database in pages."""
        return len(self.commits)

    def resize(self, page_count: int) -> None:
        """Grow with pages never written, or forget the pages beyond `page_count`."""
        missing = page_count - len(self.commits)
        if missing > 0:
            self.commits.frombytes(bytes(8 * missing))
            self.digests.frombytes(bytes(8 * missing))
        else:
            del self.commits[page_count:], self.digests[page_count:]

    def digest(self, page_number: int) -> int | None:
        """Return the digest of a page's image, None when it was never written."""
        at = page_number - 1
        if at >= len(self.commits) or not self.commits[at]:
            return None
        return self.digests[at]

    def record(self, page_number: int, commit: int, digest: int) -> None:
        """Note that a commit wrote a page."""
        self.commits[page_number - 1] = commit
        self.digests[page_number - 1] = digest

    def apply(self, index: SegmentIndex, ordinal: int) -> None:
        """Go on to the state after a record; of a part without records, take in its pages."""
        number, entries = index.commit_at(ordinal), index.entries_of(ordinal)
        self.page_size = index.page_size
        if entries:
            numbers = index.numbers[entries.start : entries.stop]
            self._grow(index, min(numbers), max(numbers), len(numbers))
            self.resize(max(self.page_count, max(numbers)))
        for entry in entries:
            self.record(index.numbers[entry], number, index.digests[entry])
        if index.records:
            record = index.records[ordinal]
            self._grow(index, 1, record.page_count, 0)
            self._room = 0
            if record.kind is CommitKind.BASE:
                self._forget_all_but(number)
            self.resize(record.page_count)
            self.commit, self.chain = record.number, record.chain

    def _grow(self, index: SegmentIndex, least: int, greatest: int, written: int) -> None:
        """Raise CorruptObject for more growth than the pages written in a commit can explain.

        A page is written or, when it is new and free, named by a trunk of the freelist that is.
        """
        self._room += written * (index.page_size // 4)
        if least < 1 or greatest > self.page_count + self._room + _SPARE_PAGES:
            raise CorruptObject(index.key, f"Its pages up to {greatest} cannot come from it.")

    def _forget_all_but(self, number: int) -> None:
        """Forget the pages that a base did not write: what they were, they are no more."""
        for at, commit in enumerate(self.commits):
            if commit != number:
                self.commits[at] = self.digests[at] = 0


def map_key(commit: int, chain: bytes) -> str:
    """Return the key of the page map of a commit; the chain keeps maps of fenced writers apart."""
    return f"map/{commit:016d}.{chain[:4].hex()}"


def encode_map(current: CurrentPages) -> tuple[str, bytes]:
    """Return the key and the bytes of the page map of the newest state."""
    head = _Head(
        current.commit, current.chain.hex(), current.page_size, current.page_count, BLOCK_PAGES
    )
    sections = [Section(_HEAD, msgspec.json.encode(head))]
    for block, begin in enumerate(range(0, current.page_count, BLOCK_PAGES)):
        end = begin + BLOCK_PAGES
        sections.append(Section(_COMMITS + block, current.commits[begin:end].tobytes()))
        digests = current.digests[begin:end].tobytes()
        sections.append(Section(_DIGESTS + block, digests, compress=False))
    # Written from the front, read from the back: the head belongs near the directory.
    sections.append(sections.pop(0))
    return map_key(current.commit, current.chain), encode_object(KIND, VERSION, sections)


class PageMap:
    """One stored page map, read block by block."""

    def __init__(self, reader: ObjectReader) -> None:
        """Decode the head. Raises CorruptObject, PreconditionFailed for a newer format."""
        if reader.version > VERSION:
            raise newer_format(reader.key, reader.version)
        self._reader = reader
        self.key = reader.key
        try:
            head = _HEAD_DECODER.decode(reader.section(_HEAD))
            self.chain = bytes.fromhex(head.chain)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise CorruptObject(reader.key, f"Its head cannot be read: {error}.") from None
        if head.block_pages < 1 or head.page_count < 0 or head.page_size not in PAGE_SIZES:
            raise CorruptObject(reader.key, "Its head declares impossible sizes.")
        self.commit = head.commit
        self.page_size = head.page_size
        self.page_count = head.page_count
        self._block_pages = head.block_pages
        self._blocks: dict[int, array[int]] = {}

    @property
    def bytes_read(self) -> int:
        """Return the bytes fetched from the store so far."""
        return self._reader.bytes_read

    def commit_of(self, page_number: int) -> int:
        """Return the commit that last wrote a page, 0 when none did or it lies beyond the end."""
        if page_number > self.page_count:
            return 0
        block, at = divmod(page_number - 1, self._block_pages)
        commits = self._blocks.get(block)
        if commits is None:
            commits = self._blocks[block] = self._block(_COMMITS, block)
        return commits[at]

    def _block(self, section: int, block: int) -> array[int]:
        column = array("Q")
        data = self._reader.section(section + block)
        expected = min(self._block_pages, self.page_count - block * self._block_pages)
        if len(data) != 8 * expected:
            raise CorruptObject(self._reader.key, f"Block {block} is of the wrong length.")
        column.frombytes(data)
        return column

    def load(self) -> CurrentPages:
        """Return the whole map as the state that capture goes on from."""
        current = CurrentPages(self.page_size)
        current.commit, current.chain = self.commit, self.chain
        for block in range(-(-self.page_count // self._block_pages)):
            current.commits.extend(self._block(_COMMITS, block))
            current.digests.extend(self._block(_DIGESTS, block))
        return current
