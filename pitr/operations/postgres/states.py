"""Tables of an archive as they were at a position, in a server that runs for a block only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pitr.config import Settings
from pitr.operations.clock import now_us
from pitr.operations.postgres.bases import nearest_base
from pitr.operations.postgres.reading import Reading
from pitr.operations.postgres.sidecar import new_sidecar
from pitr.postgres.base.archive import BaseArchive
from pitr.postgres.replay.replay import CatalogState, Replay, ServerTools, StopPoint, open_source
from pitr.postgres.replay.server import RunningServer, find_binaries, server_account
from pitr.recovery.folder import new_recovery


class TablesThen(NamedTuple):
    """A running server with the tables as they were; without tables when there were none."""

    started: RunningServer
    catalogs: CatalogState


@dataclass(frozen=True, slots=True)
class PastStates:
    """Opens states of the tables of one archive, each in a server of its own."""

    settings: Settings
    reading: Reading

    @contextlib.contextmanager
    def at(
        self, stop: StopPoint, database: str, tables: Sequence[str]
    ) -> Iterator[TablesThen | None]:
        """Recover tables to a stop for a block; None when none of them was there.

        Raises what recovering raises.
        """
        bases = BaseArchive(self.reading.store)
        base = bases.open(nearest_base(self.reading, bases, stop).id)
        source = open_source(base, self.reading.wal)
        tools = ServerTools(
            find_binaries(source.control.major, chosen=self.settings.pg_bindir),
            server_account(self.settings.sidecar_user),
        )
        with new_recovery(self.settings.state, label="asked", now_us=now_us()) as new:
            folder = new_sidecar(self.settings, new, tools.account)
            replay = Replay(source, stop, tools, folder, self.reading.index)
            catalogs = replay.find_tables(database, tables, may_lack=True)
            if not catalogs.tables:
                yield None
                return
            with replay.asked(catalogs) as started:
                yield TablesThen(started, catalogs)
