"""Names of tables and columns, and how they stand in SQL."""

from __future__ import annotations

from dataclasses import dataclass


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as an SQL literal; a session with standard_conforming_strings reads it back."""
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """A table's schema and name, as the catalog spells them."""

    schema: str
    name: str

    @property
    def sql(self) -> str:
        """Return the qualified name as SQL."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    def __str__(self) -> str:
        """Return the name as the user writes it: quoted only where it has to be."""
        return f"{_plain(self.schema)}.{_plain(self.name)}"


def _plain(name: str) -> str:
    is_plain = name.isascii() and name.isidentifier() and name == name.lower()
    return name if is_plain else quoted(name)
