"""What the catalogs of a cluster at rest say, read from their files without a server.

Of a base backup the answers are candidates: its pages were copied while the server wrote. Of a
server that has just ended its recovery they are facts, since that ends with a checkpoint.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable

from pitr.postgres.base.contents import Base
from pitr.postgres.base.control import parse_filenode_map
from pitr.postgres.replay.heap_rows import (
    BOOTSTRAP_SUPERUSER,
    PG_AUTHID,
    PG_CLASS,
    PG_DATABASE,
    HeapRow,
    commit_lookup,
    heap_rows,
    visible_rows,
)
from pitr.postgres.replay.server import ServerFolder
from pitr.postgres.wal.wanted import DEFAULT_TABLESPACE, FIRST_USER_OID, LARGE_OBJECTS

_DATABASE = re.compile(r"(?:base|pg_tblspc/(\d+)/PG_\w+)/(\d+)/PG_VERSION")
_MAP = "pg_filenode.map"


class CatalogsAtRest:
    """The catalogs in a set of files; `is_settled` says that nothing writes them any more."""

    def __init__(
        self, paths: Iterable[str], read: Callable[[str], bytes], *, is_settled: bool
    ) -> None:
        """Take the paths of a data directory, and what reads one of them."""
        self._paths = frozenset(paths)
        self._read = read
        self._is_settled = is_settled
        self._is_committed = commit_lookup(lambda path: read(path) if path in self._paths else None)

    @classmethod
    def of_base(cls, base: Base) -> CatalogsAtRest:
        """Read the files of a base backup."""
        return cls(base.files(), base.read_file, is_settled=False)

    @classmethod
    def of_server(cls, server: ServerFolder) -> CatalogsAtRest:
        """Read the files of a server that has just ended its recovery."""
        begin = len(str(server.data)) + 1
        walked = os.walk(server.data, followlinks=True)
        paths = [f"{folder}/{name}"[begin:] for folder, _, names in walked for name in names]
        return cls(paths, lambda path: (server.data / path).read_bytes(), is_settled=True)

    def databases(self) -> dict[str, int]:
        """Return the OIDs of the databases, by name."""
        return {row.name: row.oid for row in self._shared(PG_DATABASE)}

    def superuser(self) -> str:
        """Return the name of the bootstrap superuser, which is not always `postgres`."""
        names = (row.name for row in self._shared(PG_AUTHID) if row.oid == BOOTSTRAP_SUPERUSER)
        return next(names, "postgres")

    def catalog_files(self, database: int) -> set[tuple[int, int]]:
        """Return (tablespace, number) of the files of a database's catalogs, when it has files.

        Of a base these are the files of every version of every row: some may be gone.
        """
        place = self.database_place(database)
        if place is None:
            return set()
        folder, tablespace = place
        mapped = parse_filenode_map(self._read(f"{folder}/{_MAP}"))
        pages = self._pages(folder, mapped[PG_CLASS])
        rows = visible_rows(pages, self._is_committed) if self._is_settled else heap_rows(pages)
        numbers = {row.file_number for row in rows if row.oid < FIRST_USER_OID}
        numbers |= set(mapped.values())
        return {(tablespace, number) for number in numbers - LARGE_OBJECTS if number}

    def database_place(self, database: int) -> tuple[str, int] | None:
        """Return the folder of a database and the OID of its tablespace; None when it has none."""
        for path in self._paths:
            match = _DATABASE.fullmatch(path)
            if match and int(match[2]) == database:
                return path.rpartition("/")[0], int(match[1] or DEFAULT_TABLESPACE)
        return None

    def _shared(self, catalog: int) -> Iterable[HeapRow]:
        number = parse_filenode_map(self._read(f"global/{_MAP}"))[catalog]
        return visible_rows(self._pages("global", number), self._is_committed)

    def _pages(self, folder: str, number: int) -> bytes:
        path = f"{folder}/{number}"
        return self._read(path) if path in self._paths else b""
