"""Open a past state as an SQLite database: a read-only VFS over a PageSource.

SQLite asks the VFS for bytes at offsets; the VFS answers from page images. Nothing is written, no
lock is taken and no file is opened: the name that SQLite opens is a key into a table of the past
states that are open in this process. Opened immutable, a database whose header says WAL needs no
`-wal` and no `-shm`.

What a page costs to fetch, verify and decompress is paid once while it stays in the cache above
the source. SQLite's own cache is left small: a large one made the first scan five times slower.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path

import apsw

from pitr.errors import PitrError, UsageError
from pitr.sqlite.file.pages import PageSource
from pitr.sqlite.statement.faults import sqlite_faults

_VFS_NAME = "pitr-past"
_CACHE_BYTES = 32 << 20
_CACHE_PAGES_MIN = 64
_RUN_PAGES_MIN = 16
_RUN_BYTES_MAX = 4 << 20
BUILTIN_COLLATIONS = frozenset({"BINARY", "NOCASE", "RTRIM"})
_STEPS_BETWEEN_SIGNALS = 100_000  # of SQLite's virtual machine; a millisecond or so

_open_pasts: dict[str, PastPages] = {}
_serial = itertools.count(1)
_registration = threading.Lock()


class PastPages:
    """The pages of one past state as one file, with a cache. Use from one thread."""

    def __init__(self, source: PageSource) -> None:
        self.source = source
        self._page_size = source.page_size
        self._bytes = source.page_size * source.page_count
        pages_max = max(_CACHE_PAGES_MIN, _CACHE_BYTES // source.page_size)
        self.page = lru_cache(pages_max)(self._load)
        self.expect(())

    def expect(self, page_numbers: Iterable[int]) -> None:
        """Announce pages that will all be read, in about this order; forgets the ones before.

        They are fetched run by run, each when the first page of the one before is asked for.
        """
        self._expected = iter(page_numbers)
        self._run_pages = _RUN_PAGES_MIN
        self._fetch_run()

    def _fetch_run(self) -> None:
        run: list[int] = []
        try:
            run.extend(islice(self._expected, self._run_pages))
        except PitrError:
            self._expected = iter(())  # whoever needs the damaged page is told
        self._run = frozenset(run)
        self._run_pages = min(2 * self._run_pages, max(1, _RUN_BYTES_MAX // self._page_size))
        self.source.prefetch(run)

    def _load(self, page_number: int) -> bytes:
        if page_number in self._run:
            self._fetch_run()
        return self.source.page(page_number)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - SQLite's name
        """Return the bytes, fewer at the end of the file. Raises what the source raises."""
        number, begin = divmod(offset, self._page_size)
        if not begin and amount == self._page_size and offset < self._bytes:
            return self.page(number + 1)
        return self._span(offset, min(offset + amount, self._bytes))

    def _span(self, begin: int, end: int) -> bytes:
        """Return part of a page (SQLite reads the header by itself), or several pages."""
        size = self._page_size
        pages = [self.page(at // size + 1) for at in range(begin - begin % size, end, size)]
        return b"".join(pages)[begin % size :][: max(0, end - begin)]

    def xFileSize(self) -> int:  # noqa: N802
        """Return the size of the file in bytes."""
        return self._bytes

    def xClose(self) -> None:  # noqa: N802
        """Do nothing: the pages belong to `open_past`."""

    def xLock(self, level: int) -> None:  # noqa: N802
        """Do nothing: the past does not change."""

    def xUnlock(self, level: int) -> None:  # noqa: N802
        """Do nothing, as for `xLock`."""

    def xFileControl(self, operation: int, pointer: int) -> bool:  # noqa: N802
        """Understand no control operation."""
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        """Return the page size; nothing is ever written."""
        return self._page_size

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        """Say that the file cannot change."""
        return apsw.SQLITE_IOCAP_IMMUTABLE


class _PastVFS(apsw.VFS):
    """The VFS whose file names are keys of `_open_pasts`; temporary files go the usual way."""

    def __init__(self) -> None:
        super().__init__(_VFS_NAME, base="")

    def xOpen(  # type: ignore[override]  # noqa: N802 - any object with a file's methods will do
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> apsw.VFSFile | PastPages:
        """Return an open past state, or a temporary file of the default VFS."""
        if name is None:
            return super().xOpen(name, flags)
        key = name.filename() if isinstance(name, apsw.URIFilename) else name
        if key not in _open_pasts:
            raise apsw.CantOpenError(f"no past state of this name is open: {key}")
        flags[1] = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_MAIN_DB
        return _open_pasts[key]

    def xAccess(self, path: str, flags: int) -> bool:  # noqa: N802
        """Say that no journal and no WAL lies beside a past state."""
        return False

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        """Return the key itself."""
        return name


@cache
def _registered_vfs() -> _PastVFS:
    """Register the VFS, once per process; SQLite forgets it when the object is gone."""
    return _PastVFS()


@contextmanager
def open_past(source: PageSource) -> Iterator[apsw.Connection]:
    """Open a past state read-only, and forget it at the end.

    The connection belongs to the thread that opened it. Errors of the source (CorruptObject,
    ObjectMissing) come out of whichever statement needed the page. A collation that only the
    application knows can be read past, but not compared by: see `allow_unknown_collations`.
    Raises CorruptDatabase when the pages are no database.
    """
    with _registration:
        _registered_vfs()
    key = f"past-{next(_serial)}"
    _open_pasts[key] = PastPages(source)
    connection = None
    try:
        with sqlite_faults("the past state cannot be opened"):
            connection = connect(_uri(key), writable_others=False)
            connection.pragma("schema_version")
        yield connection
    finally:
        if connection is not None:
            connection.close(True)
        _open_pasts.pop(key).page.cache_clear()


def connect(uri: str, *, writable_others: bool) -> apsw.Connection:
    """Open a database by URI, able to read any schema and to be interrupted by Ctrl-C.

    With `writable_others` the databases that are attached later can be written; a past state
    stays read-only all the same.
    """
    access = apsw.SQLITE_OPEN_READWRITE if writable_others else apsw.SQLITE_OPEN_READONLY
    connection = apsw.Connection(uri, flags=access | apsw.SQLITE_OPEN_URI)
    allow_unknown_collations(connection)
    allow_signals(connection)
    return connection


def attach(connection: apsw.Connection, path: Path, schema: str, *, writable: bool) -> None:
    """Attach a file that exists, by the ordinary VFS whatever the main database uses."""
    mode = "rw" if writable else "ro"
    uri = f"{path.absolute().as_uri()}?mode={mode}&vfs={_ordinary_vfs()}"
    connection.execute(f"ATTACH ? AS {schema}", (uri,))


def _ordinary_vfs() -> str:
    return apsw.vfs_names()[0]  # SQLite lists the default first


def past_uri(past: apsw.Connection) -> str:
    """Return the URI under which other connections of this thread can open the same past state."""
    return _uri(past.db_filename("main"))


def past_pages(past: apsw.Connection) -> PastPages:
    """Return the pages behind a connection of `open_past`."""
    return _open_pasts[past.db_filename("main")]


def _uri(key: str) -> str:
    return f"file:{key}?vfs={_VFS_NAME}&immutable=1"


def allow_signals(connection: apsw.Connection) -> None:
    """Let Python see Ctrl-C during long statements, which then end with KeyboardInterrupt."""
    connection.set_progress_handler(lambda: False, _STEPS_BETWEEN_SIGNALS)


def allow_unknown_collations(connection: apsw.Connection) -> None:
    """Let tables be read whose collations only the application knows.

    Comparing by such a collation raises UsageError: an index is ordered by it, and a search with
    any other order would silently miss rows.
    """
    connection.collation_needed(_stand_in)


def _stand_in(connection: apsw.Connection, name: str) -> None:
    if name.upper() in BUILTIN_COLLATIONS:
        return  # SQLite asks in a UTF-16 database, and then uses its own for UTF-8

    def compare(left: str, right: str) -> int:
        raise UsageError(
            f"text cannot be compared by the collation {name}",
            detail="The application defines it; its order is not known here.",
            hint="Add COLLATE BINARY (or NOCASE) to the comparison.",
        )

    connection.create_collation(name, compare)
