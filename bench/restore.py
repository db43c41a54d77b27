"""One table out of a file: what it takes, beside whatever has to move the whole file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from shutil import copyfile
from statistics import median

from bench import peer
from bench.report import Bar, Result, Table, bytes_text, seconds_text, times
from bench.world import (
    Size,
    archive_of,
    capturing,
    folder_with_copy,
    median_seconds,
    pitr,
    say,
    write,
)

_ROUNDS = 3
_SCAN = "SELECT count(*), sum(length(note)), sum(cents) FROM orders"
_serial = count(1)


def run(size: Size) -> Result:
    """Measure restores of the table `orders` after some seconds of live commits."""
    folder = folder_with_copy("restore", size)
    path = folder / "shop.db"
    archive_of(folder)
    with capturing(folder):
        write(path, 4, 500)
    peer.replicate_once(folder)
    whole_bytes = path.stat().st_size
    table_bytes = _table_bytes(path)
    compared, read_bytes = _restore(folder)
    alone, _ = _restore(folder, "--no-compare")
    ways: list[tuple[str, float, float]] = [
        ("pitr restore, compared with live", compared, read_bytes),
        ("pitr restore --no-compare", alone, read_bytes),
        ("native scan of the table", _seconds(partial(_scan, path)), table_bytes),
        ("native copy of the table", _seconds(partial(_copy_table, path, folder)), table_bytes),
        ("copy of the file", _seconds(partial(_copy_file, path, folder)), whole_bytes),
        (f"litestream {peer.version()} restore", *_peer(folder)),
    ]
    rows = [
        [name, seconds_text(seconds), times(seconds / alone), bytes_text(read)]
        for name, seconds, read in ways
    ]
    note = (
        f"The file has {bytes_text(whole_bytes)}, the table {bytes_text(table_bytes)} of it. "
        "Everything is in the page cache. The seconds of pitr include the start of Python, in the "
        "first row also counting each row against the live table."
    )
    title = f"One table of a file of {size.name}"
    table = Table(title, ["way", "time", "to restore", "bytes read"], rows, note)
    figure = "Seconds until the rows of one table of 90 MB are back"
    bars = [
        Bar(figure, f"{name} of {size.name}", seconds)
        for name, seconds, _ in (ways[1], ways[4], ways[5])
    ]
    return Result([table], [], bars)


def _restore(folder: Path, *options: str) -> tuple[float, float]:
    """Return the median time of a restore, and the bytes that it reads from the archive."""
    say(f"restore {' '.join(options)}")
    seconds, read = [], 0
    for _ in range(_ROUNDS):
        sidecar = f"back-{next(_serial)}.db"
        arguments = ("-t", "orders", "--at", "latest", "--to", sidecar, *options)
        took, outcome = pitr(folder, "restore", *arguments)
        seconds.append(took)
        read = outcome["bytes_read"]
        if outcome["tables"][0]["differs"]:
            raise RuntimeError(f"what came back is not what was there: {outcome}")
        (folder / sidecar).unlink()
    return median(seconds), read


def _peer(folder: Path) -> tuple[float, float]:
    say("litestream restore")
    to = folder / "peer.db"
    replica = sum(path.stat().st_size for path in (folder / "replica").rglob("*.ltx"))
    return _seconds(partial(peer.restore, folder, to)), replica


def _seconds(work: Callable[[], object]) -> float:
    return median_seconds(work, _ROUNDS)


def _scan(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute(_SCAN).fetchall()


def _copy_table(path: Path, folder: Path) -> None:
    to = folder / "copy.db"
    to.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as database:
        database.execute("ATTACH ? AS side", (str(to),))
        database.execute("PRAGMA side.journal_mode = MEMORY")
        database.execute("PRAGMA side.synchronous = OFF")
        database.execute("CREATE TABLE side.orders AS SELECT * FROM orders")
        database.commit()


def _copy_file(path: Path, folder: Path) -> None:
    copyfile(path, folder / "copy.db")


def _table_bytes(path: Path) -> int:
    """Return the bytes of the table's pages, counted by their share of the rows' bytes."""
    with closing(sqlite3.connect(path)) as database:
        [(size,)] = database.execute("SELECT sum(pgsize) FROM dbstat WHERE name = 'orders'")
    return int(size)
