"""Tables of an archive as they were at a position, in a server that runs for a block only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pitr.clock import now_us
from pitr.config import Settings
from pitr.operations.postgres.bases import nearest_base
from pitr.operations.postgres.reading import Reading
from pitr.operations.postgres.sidecar import new_sidecar, server_tools
from pitr.postgres.base.archive import BaseArchive
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.replay.replay import Replay, ReplaySource, StopPoint, open_source
from pitr.postgres.replay.server import RunningServer
from pitr.postgres.replay.target_tables import TargetRelation
from pitr.recovery.folder import new_recovery


@contextlib.contextmanager
def passing_replay(
    settings: Settings,
    source: ReplaySource,
    stop: StopPoint,
    index: WalIndex | None,
    *,
    label: str,
) -> Iterator[Replay]:
    """Replay to a stop for a block, behind which nothing is left of it.

    Raises PreconditionFailed without server programs, or a user or a folder for them.
    """
    tools = server_tools(settings, source.control.major)
    with new_recovery(settings.state, label=label, now_us=now_us()) as new:
        yield Replay(source, stop, tools, new_sidecar(settings, new, tools.account), index)


class TableThen(NamedTuple):
    """A running server, and the table as its catalogs have it."""

    started: RunningServer
    table: TargetRelation


@dataclass(frozen=True, slots=True)
class PastStates:
    """Opens states of single tables of one archive, each in a server of its own."""

    settings: Settings
    reading: Reading
    bases: BaseArchive

    @contextlib.contextmanager
    def at(self, stop: StopPoint, database: str, table: str) -> Iterator[TableThen | None]:
        """Recover a table to a stop for a block; None when it was not there.

        Raises what recovering raises.
        """
        base = self.bases.open(nearest_base(self.reading, self.bases, stop).id)
        source = open_source(base, self.reading.wal)
        index = self.reading.index
        with passing_replay(self.settings, source, stop, index, label="asked") as replay:
            catalogs = replay.find_tables(database, [table], may_lack=True)
            if not catalogs.tables:
                yield None
                return
            with replay.asked(catalogs) as started:
                yield TableThen(started, catalogs.tables[0])
