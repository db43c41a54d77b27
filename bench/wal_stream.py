"""Streaming WAL into an archive: `pitr capture` beside pg_receivewal, on the same WAL.

    python -m bench.wal_stream PLACE ARCHIVE SPOOL SLOT     one capture, as the command is wired

All WAL is there before anything is measured, kept by a slot for each run, so that the receiver is
what limits. pg_receivewal copies or compresses; pitr also verifies every record, digests, indexes
and keeps the map of the catalog. CPU is that of the receiving process alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.report import Aim, Bar, Result, Table, bytes_text
from bench.world import CACHE, ROOT, Size, folder_bytes, say
from pitr.archive.archive import create_or_adopt, open_archive
from pitr.archive.local import LocalStore
from pitr.postgres.capture.capture import Capture
from pitr.postgres.capture.following import CatalogFollower, index_objects
from pitr.vocabulary.event import Event
from tools.postgres_servers import Server

_ROUNDS = 3
# It has no zstd up to 18, although it takes the word.
_METHODS = ("lz4", "gzip:1", "gzip")
_PGBENCH_BYTES = 16 << 20  # of WAL for one unit of scale, about
_SETTINGS: dict[str, str | int | bool] = {
    "max_replication_slots": 40,
    "max_wal_senders": 20,
    "max_wal_size": "20GB",
    "checkpoint_timeout": "1h",
    "shared_buffers": "128MB",
}


@dataclass(frozen=True, slots=True)
class _Run:
    seconds: float
    cpu_seconds: float
    bytes: int


def run(size: Size) -> Result:
    """Stream the WAL of a pgbench database of a size, in rounds that alternate the ways."""
    folder = CACHE / "wal-stream"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    with Server(15, settings=_SETTINGS) as server:
        names = ["pg_receivewal", *(f"pg_receivewal, {method}" for method in _METHODS), "pitr"]
        slots = {(name, at): f"bench_{place}_{at}" for place, name in enumerate(names)
                 for at in range(_ROUNDS)}  # fmt: skip
        for slot in slots.values():
            server.query(f"SELECT pg_create_physical_replication_slot('{slot}', true)")
        wal_bytes, end = _write_wal(server, size)
        runs: dict[str, list[_Run]] = {name: [] for name in names}
        for (name, at), slot in sorted(slots.items(), key=lambda item: item[0][1]):
            say(f"{name}, round {at + 1}")
            runs[name].append(_measure(server, name, slot, end, folder / slot))
    found = {name: min(of, key=lambda one: one.seconds) for name, of in runs.items()}
    return _result(found, {name: median(r.seconds for r in of) for name, of in runs.items()},
                   wal_bytes)  # fmt: skip


def _write_wal(server: Server, size: Size) -> tuple[int, str]:
    """Load a pgbench database, run some transactions on it, end the segment."""
    begin = server.value("SELECT pg_current_wal_lsn()")
    scale = max(1, size.bytes // _PGBENCH_BYTES)
    say(f"writing {size.name} of WAL")
    server.run("pgbench", "-i", "-q", "-s", str(scale))
    server.run("pgbench", "-c", "4", "-t", str(250 * scale))
    end = str(server.value("SELECT pg_switch_wal()"))
    server.query("CHECKPOINT")
    return int(server.value(f"SELECT '{end}'::pg_lsn - '{begin}'::pg_lsn")), end


def _measure(server: Server, name: str, slot: str, end: str, folder: Path) -> _Run:
    folder.mkdir(mode=0o777)
    if name == "pitr":
        command = _pitr(server, slot, folder)
    else:
        command = [str(server.bin / "pg_receivewal"), "-D", str(folder), "-S", slot]
        _, _, method = name.partition(", ")
        command += [f"--endpos={end}", *(["-Z", method] if method else [])]
    environment = {**os.environ, **server.environment()}
    before, began = os.times(), time.monotonic()
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
    seconds, after = time.monotonic() - began, os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return _Run(seconds, cpu, folder_bytes(folder))


def _pitr(server: Server, slot: str, folder: Path) -> Sequence[str]:
    store = LocalStore(folder / "archive")
    store.make()
    system = server.value("SELECT system_identifier FROM pg_control_system()") % 2**64
    create_or_adopt(store, engine="postgres", identity={"system_identifier": str(system)})
    places = [server.url(), str(folder / "archive"), str(folder / "spool"), slot]
    return [sys.executable, "-m", "bench.wal_stream", *places]


def _result(found: dict[str, _Run], medians: dict[str, float], wal_bytes: int) -> Result:
    rows = [
        [
            name,
            f"{wal_bytes / run_.seconds / 1e6:,.0f} MB/s",
            f"{wal_bytes / medians[name] / 1e6:,.0f} MB/s",
            f"{run_.cpu_seconds:.2f} s",
            bytes_text(run_.bytes),
        ]
        for name, run_ in found.items()
    ]
    note = (
        "Start of the process included: 0.3 s of Python. pitr checks every record's CRC and "
        f"indexes it in the same pass. Load of the machine: {os.getloadavg()[0]:.1f}."
    )
    columns = ["way", "best", "median", "CPU", "stored"]
    table = Table(f"Streaming {bytes_text(wal_bytes)} of WAL", columns, rows, note)
    ratio = found["pg_receivewal"].seconds / found["pitr"].seconds
    figure = "Streaming WAL, MB/s"
    bars = [Bar(figure, name, wal_bytes / one.seconds / 1e6) for name, one in found.items()]
    gzip = found["pg_receivewal, gzip"].cpu_seconds / found["pitr"].cpu_seconds
    aims = [
        Aim("streaming: pitr / pg_receivewal", ratio, 0.8, is_maximum=False),
        Aim("streaming, CPU: pitr / pg_receivewal with gzip", gzip, 0.8, is_maximum=False),
    ]
    return Result([table], aims, bars)


def main(place: str, archive: str, spool: str, slot: str) -> None:
    """Capture once, with everything that `pitr capture` makes."""
    store = LocalStore(archive)

    def tell(event: Event) -> None:
        print(event.level, event.message, event.detail)

    with closing(CatalogFollower(store, place, tell)) as catalog:
        capture = Capture(
            store, open_archive(store), place, slot=slot, spool=Path(spool), on_event=tell,
            on_segment=index_objects, on_scan=catalog.see,
        )  # fmt: skip
        capture.once()


if __name__ == "__main__":
    main(*sys.argv[1:])
