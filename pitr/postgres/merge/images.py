"""The rows that a merge touches, as they were before it and after it: what an undo goes back by.

In the folder of the merge, made durable before COMMIT:

    rows.json           the tables: names, key, columns and the types by which they travel
    <i>.before.zst      rows that are updated or deleted, as they were: binary COPY, compressed
    <i>.after.zst       rows that are inserted or updated, as they are now

Of a table without a key both have every live row whose content is that of a row of the merge, with
the number of its copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import zstandard

from pitr.durable import publish_new, temporary_beside, write_new
from pitr.errors import Corrupt, PlanStale
from pitr.postgres.diff.alignment import AFTER, BEFORE, LIVE, AlignedTable, SharedColumn
from pitr.postgres.diff.copying import CopiedRows, CopyOut
from pitr.postgres.merge.planned import PlannedTable
from pitr.postgres.tables.definition import Table
from pitr.postgres.tables.name import TableName
from pitr.postgres.tables.reading import read_table
from pitr.postgres.tables.session import Connection
from pitr.vocabulary.drift import SchemaDrift
from pitr.vocabulary.row_class import Action

_ROWS = "rows.json"
_LEVEL = 1
_READ_BYTES = 1 << 20


class ImageTable(msgspec.Struct, frozen=True, kw_only=True):
    """One table as rows.json has it; `staged` are names and types of the columns in its files."""

    oid: int
    schema: str
    name: str
    key: list[str]
    columns: list[str]
    staged: list[tuple[str, str]]

    @property
    def as_is(self) -> frozenset[int]:
        """Return the places of the columns that it has as numerics, not as texts of them."""
        kinds = dict(self.staged)
        return frozenset(at for at in range(len(self.columns)) if kinds.get(f"c{at}") == "numeric")


def image_table(index: int, live: Table, key: Sequence[str]) -> AlignedTable:
    """Return a live table as all three states of itself: every column that can be written."""
    every = {
        column.name: SharedColumn(dict.fromkeys((BEFORE, AFTER, LIVE), column))
        for column in live.plain_columns
    }
    named = tuple(every[name] for name in key)
    return AlignedTable(
        index=index,
        sides=dict.fromkeys((BEFORE, AFTER, LIVE), live),
        after_known=True,
        key=named,
        columns=tuple(
            column
            for name, column in every.items()
            if name not in key or not column.own.is_exact_key
        ),
        drift=SchemaDrift(),
    )


class Images:
    """Writes the files of one merge while its transaction is open."""

    def __init__(
        self, connection: Connection, folder: Path, tables: Sequence[PlannedTable]
    ) -> None:
        self._connection = connection
        self._saved: set[str] = set()
        self._folder = folder
        self._tables = [table for table in tables if table.classes()]
        self._aligned = [
            image_table(at, table.live, [c.name for c in table.aligned.key])
            for at, table in enumerate(self._tables)
        ]

    def save_before(self) -> None:
        """Write the rows that will be updated or deleted. Raises psycopg.Error, OSError."""
        self._save(BEFORE, Action.UPDATE, Action.DELETE)

    def takes_as_staged(self, table: PlannedTable) -> bool:
        """Return whether the rows of a table are saved in the form in which b has them."""
        return self._aligned[self._tables.index(table)].taken(LIVE) == table.aligned.taken(LIVE)

    def save_if(
        self, table: PlannedTable, source: str, is_right: Callable[[CopiedRows], bool]
    ) -> bool:
        """Write the rows of a table as they are now, if what `source` has comes to what is right.

        That is what stands behind FROM, with the live rows as `l`: what was read back, so that it
        need not be read again. Without effect if it is not right. What was saved before, of an
        attempt that was taken back, is no more.
        """
        at = self._tables.index(table)
        taken = ", ".join(self._aligned[at].taken(LIVE, "l"))
        path = _file(self._folder, at, AFTER)
        self._saved.discard(table.rows)
        path.unlink(missing_ok=True)
        if not is_right(self._write(path, f"SELECT {taken} FROM {source}")):
            path.unlink()
            return False
        self._saved.add(table.rows)
        return True

    def save_after(self) -> None:
        """Write the rows that were inserted or updated and are not saved yet; and what there is."""
        self._save(AFTER, Action.INSERT, Action.UPDATE)
        pairs = zip(self._tables, self._aligned, strict=True)
        described = [_described(table, aligned) for table, aligned in pairs]
        write_new(self._folder / _ROWS, msgspec.json.encode(described))

    def _save(self, state: str, *actions: Action) -> None:
        for at, (table, aligned) in enumerate(zip(self._tables, self._aligned, strict=True)):
            if table.rows not in self._saved:
                select = _select(table, aligned, table.acting(*actions))
                self._write(_file(self._folder, at, state), select)

    def _write(self, path: Path, select: str) -> CopiedRows:
        """Write the rows of a SELECT; return what they come to."""
        rows = CopyOut(self._connection, select)
        _write_compressed(path, rows)
        return rows.copied


def _select(table: PlannedTable, aligned: AlignedTable, acting: str) -> str:
    taken = aligned.taken(LIVE, "l")
    if table.keyless:
        groups = ", ".join(map(str, range(1, len(taken) + 1)))
        chosen = f"SELECT FROM {table.rows} AS r WHERE {table.same_content()} AND {table.acting()}"
        return (
            f"SELECT {', '.join(taken)}, count(*) FROM {table.live.source} AS l"
            f" WHERE EXISTS ({chosen}) GROUP BY {groups}"
        )
    return (
        f"SELECT {', '.join(taken)} FROM {table.rows} AS r {table.live_row()} WHERE {acting}"
        " ORDER BY r.n"
    )


def _described(table: PlannedTable, aligned: AlignedTable) -> ImageTable:
    live = table.live
    return ImageTable(
        oid=live.oid,
        schema=live.name.schema,
        name=live.name.name,
        key=[column.name for column in aligned.key],
        columns=[column.name for column in aligned.columns],
        staged=aligned.staged_columns(),
    )


def _file(folder: Path, index: int, state: str) -> Path:
    return folder / f"{index}.{state}.zst"


def _write_compressed(path: Path, pieces: Iterable[bytes]) -> None:
    temporary = temporary_beside(path)
    with temporary.open("xb") as file:
        temporary.chmod(0o600)
        with zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True, threads=1).stream_writer(
            file, closefd=False
        ) as writer:
            for piece in pieces:
                writer.write(piece)
    publish_new(temporary, path)


# --- reading -------------------------------------------------------------------------------------


def read_images(folder: Path) -> list[ImageTable]:
    """Return the tables of a merge. Raises Corrupt."""
    try:
        return msgspec.json.decode((folder / _ROWS).read_bytes(), type=list[ImageTable])
    except (OSError, ValueError) as error:
        raise Corrupt(
            f"the record of the merge {folder.name!r} is damaged",
            detail=f"{folder / _ROWS}: {error}.",
            hint="Nothing is lost in the database; only this merge cannot be taken back.",
        ) from None


def read_pieces(folder: Path, index: int, state: str) -> Iterator[bytes]:
    """Yield the rows of a table as binary COPY. Raises Corrupt."""
    path = _file(folder, index, state)
    try:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
            while piece := reader.read(_READ_BYTES):
                yield piece
    except (OSError, zstandard.ZstdError) as error:
        raise Corrupt(
            f"the record of the merge {folder.name!r} is damaged", detail=f"{path}: {error}."
        ) from None


def align_image(connection: Connection, index: int, image: ImageTable) -> AlignedTable:
    """Return the table of an image as it is now. Raises PlanStale when it has changed too much."""
    name = TableName(image.schema, image.name)
    live = read_table(connection, oid=image.oid)
    if live is None or live.name != name:
        live = read_table(connection, name)
    if live is None:
        raise _changed(name, "it is gone")
    missing = [one for one in image.key + image.columns if live.find(one) is None]
    if missing:
        raise _changed(name, f"{', '.join(missing)} is gone")
    known = {*image.key, *image.columns}
    aligned = image_table(index, live, image.key)
    chosen = [column for column in aligned.columns if column.name in known]
    chosen.sort(key=lambda column: image.columns.index(column.name))
    found = replace(aligned, columns=tuple(chosen), as_is=image.as_is)
    # What was recorded as a numeric is compared by its text, whatever has that text now.
    is_text = all(found.columns[at].carried == "text" for at in image.as_is)
    if found.staged_columns() != image.staged or not is_text:
        raise _changed(name, "a type is another one")
    return found


def _changed(name: TableName, what: str) -> PlanStale:
    return PlanStale(
        "the merge cannot be taken back any more; nothing was changed",
        detail=f"The table {name} has changed since: {what}.",
        hint="Its rows before and after are in the folder of the recovery, as binary COPY.",
    )
