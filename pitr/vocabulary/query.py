"""What a query answers, alike for both engines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pitr.vocabulary.diff_row import Row


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The names of the columns and the rows, which are read as they are asked for."""

    columns: tuple[str, ...]
    rows: Iterator[Row]
