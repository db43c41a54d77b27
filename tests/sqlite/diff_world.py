"""Three states of a real database: an application in its own process, a capture, a sidecar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pitr.sqlite.diff.candidates import Limits
from pitr.sqlite.diff.classified import ClassifiedTable, classify, stream_rows
from pitr.sqlite.diff.states import States, StateSources, open_states
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.past.replay import open_past
from pitr.sqlite.past.sidecar import restore_tables
from pitr.vocabulary.diff_row import DiffRow
from tests.memory_store import MemoryStore
from tests.sqlite.capture_world import App, capture_once

# Pages tell of every table, however small; or of none.
NARROW = Limits(sidecar_bytes_min=0)
WHOLE = Limits(sidecar_bytes_min=1 << 60)
# Pages tell of some tables: each is looked at by itself.
TIGHT = Limits(sidecar_bytes_min=0, table_bytes_max=30_000, table_cells_max=300)


class DiffWorld:
    """One database with its archive. `before`, `after` are commits, as `mark` returned them."""

    def __init__(self, folder: Path, *statements: str, mode: str = "WAL") -> None:
        self.folder = folder
        self.path = folder / "live.db"
        self.store = MemoryStore()
        self.app = App(self.path, f"PRAGMA journal_mode = {mode}", *statements)
        self._sidecars = 0

    def run(self, *statements: str) -> DiffWorld:
        """Run statements, each a transaction of its own unless they say otherwise."""
        for statement in statements:
            self.app.run(statement)
        return self

    def mark(self) -> int:
        """Archive what was committed, and return the number of the newest commit."""
        capture_once(self.store, self.path)
        return PageArchive(self.store).last_commit().number

    def archive(self) -> PageArchive:
        """Return the archive."""
        return PageArchive(self.store)

    def restore(self, at: int, *tables: str, where: str | None = None) -> Path:
        """Write a sidecar."""
        self._sidecars += 1
        sidecar = self.folder / f"sidecar-{self._sidecars}.db"
        with open_past(PageArchive(self.store).at(at)) as past:
            restore_tables(past, tables, sidecar, where=where)
        return sidecar

    def sources(
        self,
        before: int,
        *tables: str,
        after: int | None = None,
        where: str | None = None,
        columns: Mapping[str, Sequence[str]] | None = None,
        archive: bool = True,
    ) -> StateSources:
        """Return where the states of a recovery made now are."""
        return StateSources(
            live=self.path,
            sidecar=self.restore(before, *tables, where=where),
            tables=tables,
            before_commit=before,
            after_commit=after,
            has_condition=where is not None,
            columns=columns or {},
            archive=PageArchive(self.store) if archive else None,
        )

    @contextmanager
    def states(self, before: int, *tables: str, **options: Any) -> Iterator[States]:
        """Open the states of `sources(…)`."""
        with open_states(self.sources(before, *tables, **options), wait_seconds=0) as states:
            yield states

    def close(self) -> None:
        """End the application."""
        self.app.close()


@contextmanager
def making_worlds(folder: Path) -> Iterator[Callable[..., DiffWorld]]:
    """Yield a function that makes worlds in folders of their own, and close them at the end."""
    worlds: list[DiffWorld] = []

    def make(*statements: str, mode: str = "WAL") -> DiffWorld:
        own = folder / str(len(worlds))
        own.mkdir()
        worlds.append(DiffWorld(own, *statements, mode=mode))
        return worlds[-1]

    try:
        yield make
    finally:
        for world in worlds:
            world.close()


Found = dict[tuple[object, ...], tuple[str, str]]


def classes(rows: Sequence[DiffRow]) -> Found:
    """Return (class, mask) of each row by its key."""
    return {row.key: (str(row.row_class), mask(row)) for row in rows}


def mask(row: DiffRow) -> str:
    """Return the columns to repair and those touched, as r0t1."""
    verdict = row.verdict
    return "".join(f"r{at}" for at in verdict.repair_columns) + "".join(
        f"t{at}" for at in verdict.touched_columns
    )


def both_ways(states: States) -> list[tuple[ClassifiedTable, list[DiffRow]]]:
    """Classify whole tables and by pages, and return the outcome, which must be the same."""
    outcomes = []
    for limits in (WHOLE, TIGHT, NARROW):
        tables = classify(states, limits)
        outcomes.append([(table, list(stream_rows(states, table))) for table in tables])
    whole, *by_pages = outcomes
    assert not any(table.narrowed for table, _ in whole)
    for narrow in by_pages:
        for (one, rows), (other, others) in zip(whole, narrow, strict=True):
            assert rows == others, (one.name, other.narrowed)
            assert one.counts == other.counts
            assert one.warnings == other.warnings
    return narrow
