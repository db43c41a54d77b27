"""One object of the index: rows to Parquet and back, no I/O.

Row groups with rows of no relation file come first (`relation` is 0 in all of them), then those of
relation files, ascending by database and file. Inside a row group the rows of one file are in the
order of their LSNs. So a reader finds the row groups of a file by the bounds of their columns, and
its rows in them by bisection.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pitr.postgres.index.name import IndexObject
from pitr.postgres.index.parquet import (
    Damaged,
    Footer,
    Group,
    check_headers,
    decode_chunk,
    decode_footer,
    encode_file,
    footer_crc,
)
from pitr.postgres.index.rows import BY_NAME, COLUMNS, NAMES, RowKind, Rows
from pitr.postgres.wal.page import advance, align
from pitr.postgres.wal.record import RelationFile
from pitr.postgres.wal.segment_name import is_segment_bytes

FORMAT = "1"
_CREATED_BY = "pitr index version 1"
GROUP_ROWS_MAX = 1 << 17
_NUMBER_MAX = 1 << 32
_FILE = ("tablespace", "database", "relation")

# Half-open ranges of block numbers; and the files of a question, with the blocks that matter.
BlockRanges: TypeAlias = Sequence[tuple[int, int]]
WantedFiles: TypeAlias = Mapping[RelationFile, BlockRanges | None]


@dataclass(frozen=True, slots=True)
class Stretch:
    """The WAL that an object is of: records of a timeline that end in (begin, end].

    `next_lsn` is where the first record begins that is not in it: the state from which a scan goes
    on. `segment_bytes` is needed to count page headers.
    """

    timeline: int
    begin: int
    end: int
    next_lsn: int
    segment_bytes: int

    def properties(self) -> dict[str, str]:
        """Return it as the key-value metadata of a file."""
        return {
            "pitr.format": FORMAT,
            "pitr.timeline": str(self.timeline),
            "pitr.begin": str(self.begin),
            "pitr.end": str(self.end),
            "pitr.next": str(self.next_lsn),
            "pitr.segment_bytes": str(self.segment_bytes),
        }

    @classmethod
    def of(cls, properties: Mapping[str, str]) -> Stretch:
        """Read the metadata of a file. Raises Damaged."""
        try:
            if properties["pitr.format"] != FORMAT:
                raise Damaged(f"the index has format {properties['pitr.format']}")
            names = ("timeline", "begin", "end", "next", "segment_bytes")
            found = cls(*(int(properties[f"pitr.{name}"]) for name in names))
        except (KeyError, ValueError) as error:
            raise Damaged(f"the file's metadata is not that of an index: {error}") from None
        if not is_segment_bytes(found.segment_bytes) or found.next_lsn < found.begin:
            raise Damaged("the file's metadata has positions that cannot be")
        return found


def encode_index(
    stretch: Stretch, groups: Iterable[Rows], times: tuple[int, int]
) -> tuple[str, bytes]:
    """Return key and bytes of the object for these row groups, given in their order.

    `times` are the first and the last time of a commit in it, 0 and 0 when there is none.
    """
    data = encode_file(
        COLUMNS,
        ([group[name] for name in NAMES] for group in groups if len(group)),
        stretch.properties(),
        _CREATED_BY,
    )
    crc = footer_crc(data)
    item = IndexObject(stretch.timeline, stretch.begin, stretch.end, *times, crc, len(data))
    return item.key, data


def footer_of(data: bytes) -> Footer:
    """Return the footer of a whole file. Raises Damaged."""
    return decode_footer(data, COLUMNS, len(data))


def cut_groups(rows: Rows, limit: int = GROUP_ROWS_MAX) -> Iterator[Rows]:
    """Yield rows in groups of at most `limit`, of about the same size."""
    count = -(-len(rows) // limit)
    for number in range(count):
        yield rows.cut(len(rows) * number // count, len(rows) * (number + 1) // count)


def decode_columns(
    data: bytes, begin: int, group: Group, names: Sequence[str], *, is_strict: bool = False
) -> Rows:
    """Return columns of a row group; `data` are the bytes of the file from `begin` on.

    `is_strict` has the headers of the pages compared as well. Raises Damaged.
    """
    found = {}
    for name in names:
        chunk = group.chunks[name]
        part = data[chunk.begin - begin : chunk.end - begin]
        found[name] = decode_chunk(part, BY_NAME[name], group.rows)
        if is_strict:
            check_headers(part, BY_NAME[name], group.rows)
    return Rows(found)


def is_system(group: Group) -> bool:
    """Return whether a row group holds the rows without a relation file."""
    return group.chunks["relation"].greatest == 0


def may_hold(group: Group, file: RelationFile, ranges: BlockRanges | None) -> bool:
    """Return whether rows of a file, and of one of these blocks, can be in a row group.

    Rows that make or shorten a file have the block 0 or the number of blocks that are left: a row
    group with such rows is never passed over.
    """
    chunks = group.chunks
    relation, database = chunks["relation"], chunks["database"]
    if relation.greatest == 0 or not database.least <= file.database <= database.greatest:
        return False
    is_one = database.least == database.greatest
    if is_one and not relation.least <= file.number <= relation.greatest:
        return False
    if ranges is None or chunks["kind"].greatest > RowKind.BLOCK or relation.least == 0:
        return True
    block = chunks["block"]
    return any(begin <= block.greatest and block.least < end for begin, end in ranges)


def file_of(rows: Rows) -> RelationFile:
    """Return the file that rows are of, all of the same."""
    return RelationFile(rows["tablespace"][0], rows["database"][0], rows["relation"][0])


def files_in(rows: Rows) -> list[RelationFile]:
    """Return the files that the rows of a row group are of."""
    return sorted({RelationFile(*row) for row in set(rows.select(*_FILE))})


def rows_of_file(rows: Rows, file: RelationFile) -> Rows:
    """Return the rows of a file of a row group, in the order of LSNs."""
    return next(FileSet({file: None}).pieces(rows), rows.cut(0, 0))


class FileSet:
    """The files of a question in the order of the index, so that row groups are asked quickly."""

    def __init__(self, files: WantedFiles) -> None:
        self._ranges = files
        self._files = sorted(files, key=lambda file: (file.database, file.number))
        self._keys = [(file.database, file.number) for file in self._files]

    def is_in(self, group: Group) -> bool:
        """Return whether rows of one of the files can be in a row group; see `may_hold`."""
        relation, database = group.chunks["relation"], group.chunks["database"]
        is_one = database.least == database.greatest
        low = bisect_left(self._keys, (database.least, relation.least if is_one else 0))
        high = bisect_right(
            self._keys, (database.greatest, relation.greatest if is_one else _NUMBER_MAX)
        )
        return any(may_hold(group, file, self._ranges[file]) for file in self._files[low:high])

    def pieces(self, rows: Rows) -> Iterator[Rows]:
        """Yield the rows of each of the files in a row group, in the order of LSNs."""
        databases, relations = rows["database"], rows["relation"]
        numbers = range(len(rows))

        def key_of(row: int) -> tuple[int, int]:
            return databases[row], relations[row]

        at = row = 0
        while row < len(rows):
            at = bisect_left(self._keys, key_of(row), at)
            if at == len(self._keys):
                return
            key = self._keys[at]
            row = bisect_left(numbers, key, row, key=key_of)
            end = bisect_right(numbers, key, row, key=key_of)
            while at < len(self._keys) and self._keys[at] == key:
                if row < end:
                    yield _of_tablespace(rows.cut(row, end), self._files[at].tablespace)
                at += 1
            row = end


def _of_tablespace(rows: Rows, tablespace: int) -> Rows:
    """Return those rows that are of one tablespace.

    Two may give the same number to two files of one database.
    """
    if set(rows["tablespace"]) <= {tablespace}:
        return rows
    return rows.take([i for i, found in enumerate(rows["tablespace"]) if found == tablespace])


def clip(rows: Rows, begin: int, end: int, segment_bytes: int) -> Rows:
    """Return the rows of records that end in (begin, end]; `rows` are in the order of LSNs."""
    lsns, lengths = rows["lsn"], rows["length"]

    def ends_after(row: int, position: int) -> bool:
        return align(advance(lsns[row], lengths[row], segment_bytes)) > position

    low = bisect_left(lsns, begin)
    while low and ends_after(low - 1, begin):
        low -= 1
    high = bisect_left(lsns, end)
    while high > low and ends_after(high - 1, end):
        high -= 1
    return rows.cut(low, high)
