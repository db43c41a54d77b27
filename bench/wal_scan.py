"""The scan of WAL beside `pg_waldump --stats`: same files, one core, every checksum verified.

Measured as CPU seconds (user and system) of one process, since both use one core: other work on
the machine disturbs that less than the clock. pg_waldump is a process of its own, so its start and
its reading of the file count; ours has the bytes at hand and its columns in memory at the end.
"""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bench.report import Aim, Bar, Result, Table, times
from bench.world import Size, say
from pitr.postgres.wal import scan as scanning
from pitr.postgres.wal.page import decode_segment_header
from pitr.postgres.wal.scan import Scan, ScanState, scan
from pitr.postgres.wal.scan_reference import scan_wal as reference
from pitr.postgres.wal.segment_name import is_segment_name
from tools.postgres_servers import Server

_ROUNDS = 9
_REFERENCE_ROUNDS = 3
_SETTINGS: dict[str, str | int | bool] = {
    "autovacuum": False,
    "max_wal_size": "4GB",
    "wal_keep_size": "4GB",
}


def run(size: Size) -> Result:
    """Measure a segment of a bulk load, one full of page images, one of small records."""
    with Server(15, settings=_SETTINGS) as server:
        rows, ratios = [], []
        for name, path in _segments(server).items():
            say(f"scan, {name}")
            row, found = _measure(server, name, path)
            rows.append(row)
            ratios.append(found)
    columns = ["WAL", "records", "pg_waldump", "scan in C", "to it", "reference", "to it"]
    note = (
        "CPU milliseconds for a segment of 16 MB, best of several. The ratio is pg_waldump's time"
        " to ours: more is better."
    )
    compiled, pure = (min(column) for column in zip(*ratios, strict=True))
    aims = [
        Aim("scan in C: times pg_waldump --stats, the least", compiled, 2, is_maximum=False),
        Aim("scan in plain Python: times it, the least", pure, 0.08, is_maximum=False),
    ]
    figure = "Scan of WAL in C, times pg_waldump --stats"
    bars = [Bar(figure, row[0], found[0]) for row, found in zip(rows, ratios, strict=True)]
    return Result([Table("Scan of a WAL segment", columns, rows, note)], aims, bars)


def _segments(server: Server) -> dict[str, Path]:
    """Write WAL of three kinds; return a whole segment of each."""
    server.run("pgbench", "-i", "-q", "-s", "10")
    found = {"bulk load": _last_whole(server)}
    server.query("CHECKPOINT")
    server.run("pgbench", "-c", "2", "-t", "4000", "-n", "-M", "prepared")
    found["after a checkpoint: page images"] = _last_whole(server)
    while _last_whole(server).name < _later(found["after a checkpoint: page images"], 6):
        server.run("pgbench", "-c", "2", "-t", "20000", "-n", "-M", "prepared")
    found["pgbench: small records"] = _last_whole(server)
    return found


def _last_whole(server: Server) -> Path:
    current = str(server.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())"))
    names = sorted(file for file in server.wal.iterdir() if is_segment_name(file.name))
    return max(file for file in names if file.name < current)


def _later(path: Path, segments: int) -> str:
    return f"{path.name[:16]}{int(path.name[16:], 16) + segments:08X}"


def _measure(server: Server, name: str, path: Path) -> tuple[list[str], tuple[float, float]]:
    data = path.read_bytes()
    head = decode_segment_header(data)

    def ours() -> Scan:
        return scan(
            data,
            head.begin,
            ScanState(head.begin),
            version=head.version,
            segment_bytes=head.segment_bytes,
        )

    chosen = scanning.scan_wal
    records = len(ours().records)
    compiled = min(_own_seconds(ours) for _ in range(_ROUNDS))
    theirs = min(_child_seconds(server, path) for _ in range(_ROUNDS))
    try:
        scanning.scan_wal = reference
        pure = min(_own_seconds(ours) for _ in range(_REFERENCE_ROUNDS))
    finally:
        scanning.scan_wal = chosen
    ratios = (theirs / compiled, theirs / pure)
    milliseconds = [f"{seconds * 1000:.1f}" for seconds in (theirs, compiled, pure)]
    row = [name, f"{records:,}", milliseconds[0], milliseconds[1], times(ratios[0])]
    return [*row, milliseconds[2], f"{ratios[1]:.3f} x"], ratios


def _own_seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def _child_seconds(server: Server, path: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # It ends with an error where the last record goes on in the next segment.
    command = [str(server.bin / "pg_waldump"), "--stats", str(path)]
    subprocess.run(command, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
