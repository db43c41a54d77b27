"""Which relation files a recovery wants: the shared catalogs, a database's catalogs, its tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

GLOBAL_TABLESPACE = 1664
DEFAULT_TABLESPACE = 1663
FIRST_USER_OID = 16384
# Large objects live in catalogs, and may be most of a database.
LARGE_OBJECTS = frozenset((2613, 2683))


@dataclass(frozen=True, slots=True)
class WantedFiles:
    """Relation files by tablespace and number, all of one database, besides the shared catalogs.

    `database` is None when only the shared catalogs are wanted. `has_catalogs` adds the files that
    catalogs have from initdb on, whose numbers are below 16384. Without `has_shared` the shared
    catalogs are not wanted, nor the maps that say which files mapped catalogs have.

    `templates` are where the files lie that the database was copied from inside the stretch, as
    (tablespace, database): files of the same numbers are wanted there, for redo copies them.
    """

    database: int | None = None
    files: frozenset[tuple[int, int]] = frozenset()
    has_catalogs: bool = False
    has_shared: bool = True
    templates: frozenset[tuple[int, int]] = frozenset()

    @property
    def databases(self) -> frozenset[int]:
        """Return the database and those that it was copied from."""
        own = () if self.database is None else (self.database,)
        return frozenset((*own, *(database for _, database in self.templates)))

    def has_file(self, tablespace: int | None, database: int, number: int) -> bool:
        """Return whether a file is wanted; without a tablespace it is one in `base/`."""
        if tablespace == GLOBAL_TABLESPACE:
            return self.has_shared
        place = tablespace or DEFAULT_TABLESPACE
        is_template = (place, database) in self.templates
        if database != self.database and not is_template:
            return False
        if self.has_catalogs and number < FIRST_USER_OID:
            return number not in LARGE_OBJECTS
        if is_template:
            return any(number == wanted for _, wanted in self.files)
        return (place, number) in self.files

    def with_files(self, files: Iterable[tuple[int, int]]) -> WantedFiles:
        """Return the same with more files."""
        return replace(self, files=self.files | frozenset(files))

    def with_templates(self, templates: Iterable[tuple[int, int]]) -> WantedFiles:
        """Return the same of a database that was copied from there."""
        return replace(self, templates=self.templates | frozenset(templates))

    def lacking(self, files: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
        """Return those of the files of its database that it does not have."""
        database = self.database or 0
        return {file for file in files if not self.has_file(file[0], database, file[1])}
