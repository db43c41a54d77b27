"""Catalogs that a recovery has brought to the target: the next one takes them as they are.

A server whose recovery ended has written every page (it ends with a checkpoint), and one that is
killed then writes no more. So its files hold the state at the stop, and the tables need neither the
catalogs of the base backup nor any of their records a second time. Its segments of WAL are
written over: a busy cluster has hundreds that hold one page, and a new file costs more than that.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from pitr.durable import move_scratch
from pitr.postgres.base.control import CONTROL_PATH
from pitr.postgres.replay.heap_rows import PAGE_BYTES
from pitr.postgres.replay.server import ServerFolder
from pitr.postgres.wal.segment_name import is_segment_name

_RELATION_FILE = re.compile(r"\d+(?:_\w+)?(?:\.\d+)?")
# Caches of the catalogs, which the next server makes itself.
_CACHE = "pg_internal.init"
_FOLDERS = ("base", "global")
_WAL = "pg_wal"


def is_settled(server: ServerFolder, stop: int) -> bool:
    """Return whether no page of a stopped server was written after the stop of its recovery.

    A server that was only asked may still write a page that it has no room for in memory, and where
    hints are logged such a page has an LSN that the next server's WAL has not reached.
    """
    return all(_newest(path) <= stop for path in _relation_files(server))


def take_over(settled: ServerFolder, server: ServerFolder, timeline: int) -> None:
    """Move the relation files of a stopped server into the folder of another, which is still empty.

    Its segments of WAL come along, to be written over by those of a recovery to the same stop; not
    those of the timeline that its recovery began, which is later than `timeline`. What is about
    transactions and the cluster as a whole stays behind and is removed with the rest.
    """
    server.data.mkdir(mode=0o700)
    server.account.own(server.data)
    for name in _FOLDERS:
        move_scratch(settled.data / name, server.data / name)
    _take_tablespaces(settled, server)
    _take_wal(settled, server, timeline)
    (server.data / CONTROL_PATH).unlink()
    for place in (server.data, server.folder / "tablespaces"):
        for cache in place.rglob(_CACHE):
            cache.unlink()
    shutil.rmtree(settled.folder)


def _take_wal(settled: ServerFolder, server: ServerFolder, timeline: int) -> None:
    move_scratch(settled.data / _WAL, server.data / _WAL)
    for path in list((server.data / _WAL).iterdir()):
        is_old = is_segment_name(path.name) and int(path.name[:8], 16) <= timeline
        if not is_old and not path.is_dir():
            path.unlink()


def _take_tablespaces(settled: ServerFolder, server: ServerFolder) -> None:
    """Move what is in tablespaces: beside the data directory, or inside where redo made them."""
    places = [settled.folder / "tablespaces", settled.data / "pg_tblspc"]
    for place in places:
        for folder in list(place.iterdir()) if place.is_dir() else ():
            if not folder.is_symlink():
                target = server.folder / "tablespaces"
                if not target.exists():
                    target.mkdir(mode=0o700)
                    server.account.own(target)
                move_scratch(folder, target / folder.name)


def _relation_files(server: ServerFolder) -> Iterator[Path]:
    for place in (*(server.data / name for name in _FOLDERS), server.folder / "tablespaces"):
        for folder, _, names in os.walk(place):
            yield from (Path(folder, name) for name in names if _RELATION_FILE.fullmatch(name))


def _newest(path: Path) -> int:
    """Return the greatest LSN of the pages of a relation file, 0 for an empty one."""
    data = path.read_bytes()
    words = memoryview(data[: len(data) - len(data) % PAGE_BYTES]).cast("I")
    # A page begins with its LSN, the upper half first.
    step = PAGE_BYTES // 4
    lsns = zip(words[::step].tolist(), words[1::step].tolist(), strict=True)
    return max((upper << 32 | lower for upper, lower in lsns), default=0)
