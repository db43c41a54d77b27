"""Reading one index object from a store: its footer, and the row groups that a question needs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from pitr.archive.store import Store
from pitr.errors import CorruptObject
from pitr.postgres.index.file import Stretch, decode_columns
from pitr.postgres.index.name import IndexObject
from pitr.postgres.index.parquet import Damaged, Group, decode_footer, footer_extent
from pitr.postgres.index.rows import COLUMNS, NAMES, Rows

# Most objects of one segment are smaller: they are read with one request.
_TAIL_BYTES = 1 << 18
_OPEN_OBJECTS_MAX = 512


class IndexFile:
    """One object, its footer read and verified; row groups are fetched when asked for."""

    def __init__(self, store: Store, item: IndexObject) -> None:
        """Read the end of the object. Raises ObjectMissing, CorruptObject."""
        self.object = item
        self._store = store
        self._begin = max(0, item.size - _TAIL_BYTES)
        self._tail = self._fetch(self._begin, item.size)
        self.bytes_read = len(self._tail)
        try:
            extent = footer_extent(self._tail)
            if len(self._tail) < extent <= item.size:
                self._begin = item.size - extent
                self._tail = self._fetch(self._begin, item.size)
                self.bytes_read += extent
            footer = decode_footer(self._tail, COLUMNS, item.size)
            self.stretch = Stretch.of(footer.properties)
            found = (self.stretch.timeline, self.stretch.begin, self.stretch.end, footer.crc)
            if found != (item.timeline, item.begin, item.end, item.crc):
                raise Damaged("its footer contradicts its name")
        except Damaged as error:
            raise CorruptObject(item.key, f"{_sentence(error)}") from None
        self.groups = footer.groups

    def read(self, group: Group, names: Sequence[str] = NAMES, *, is_strict: bool = False) -> Rows:
        """Return columns of a row group, verified. Raises ObjectMissing, CorruptObject.

        `is_strict` is for who looks for damage that matters to other programs only.
        """
        begin = min(group.chunks[name].begin for name in names)
        end = max(group.chunks[name].end for name in names)
        if begin >= self._begin:
            data = self._tail[begin - self._begin : end - self._begin]
        else:
            data = self._fetch(begin, end)
            self.bytes_read += len(data)
        try:
            return decode_columns(data, begin, group, names, is_strict=is_strict)
        except Damaged as error:
            raise CorruptObject(self.object.key, _sentence(error)) from None

    def has_magic(self) -> bool:
        """Return whether the file begins as a Parquet file does; only others' readers ask."""
        return (self._tail[:4] if self._begin == 0 else self._fetch(0, 4)) == b"PAR1"

    def _fetch(self, begin: int, end: int) -> bytes:
        return self._store.get_ranges(self.object.key, [(begin, end)])[0]


def _sentence(error: Damaged) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


class IndexFiles:
    """Index objects of a store that are open; the ones used last are kept."""

    def __init__(self, store: Store) -> None:
        """Name the store."""
        self._store = store
        self._open: OrderedDict[str, IndexFile] = OrderedDict()
        self._closed_bytes = 0

    @property
    def bytes_read(self) -> int:
        """Return how many stored bytes were read so far."""
        return self._closed_bytes + sum(item.bytes_read for item in self._open.values())

    def open(self, item: IndexObject) -> IndexFile:
        """Return an object. Raises ObjectMissing, CorruptObject."""
        found = self._open.get(item.key)
        if found is not None:
            self._open.move_to_end(item.key)
            return found
        found = self._open[item.key] = IndexFile(self._store, item)
        while len(self._open) > _OPEN_OBJECTS_MAX:
            self._closed_bytes += self._open.popitem(last=False)[1].bytes_read
        return found
