"""What both engines can say about a table, at whatever moment it was read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column. `default` is SQL text or None; `declared_type` may be empty (SQLite)."""

    name: str
    declared_type: str
    not_null: bool = False
    default: str | None = None
    primary_key_position: int = 0  # counted from 1; 0 = not in the primary key
    generated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table with its columns in declared order. The two flags are SQLite's own kinds."""

    name: str
    columns: tuple[Column, ...]
    without_rowid: bool = False
    strict: bool = False

    @property
    def key_columns(self) -> tuple[str, ...]:
        """Return the names of the primary key's columns in key order; empty without a key."""
        in_key = [column for column in self.columns if column.primary_key_position > 0]
        in_key.sort(key=lambda column: column.primary_key_position)
        return tuple(column.name for column in in_key)
