"""The index of WAL records: what it takes to make and to keep, and what asking it costs.

On real WAL of pgbench, a bulk load and DDL. Beside it `pg_waldump --stats` on the same files, and
the same questions answered by scanning the WAL.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import zstandard

from bench.report import Aim, Result, Table, bytes_text
from bench.world import CACHE, Size, say
from pitr.archive.local import LocalStore
from pitr.postgres.index.compaction import merge
from pitr.postgres.index.name import IndexObject
from pitr.postgres.index.segment import index_segment
from pitr.postgres.index.wal_index import WalIndex
from pitr.postgres.wal.record import RelationFile
from pitr.postgres.wal.scan import Scan, ScanState, scan
from pitr.postgres.wal.versions import version_of_major
from pitr.postgres.wal_store.folder import WalFolder
from pitr.vocabulary.position import Lsn
from tools.postgres_servers import Server

_MAJOR = 15
_SEGMENT = 1 << 24
_BLOCK = 1 << 17
_MERGED_AT_ONCE = 16
_SETTINGS: dict[str, str | int | bool] = {
    "max_wal_size": "20GB",
    "wal_keep_size": "20GB",
    "wal_recycle": False,
    "checkpoint_timeout": "1h",
    "shared_buffers": "128MB",
}
_DDL = "".join(
    f"CREATE TABLE t{n} (id serial PRIMARY KEY, x text); INSERT INTO t{n} (x) VALUES ('a');"
    f" ALTER TABLE t{n} ALTER COLUMN x TYPE varchar(30); CREATE INDEX ON t{n} (x);"
    for n in range(300)
)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the WAL by what wrote it: its whole segments."""

    name: str
    begin: int
    end: int


@dataclass(slots=True)
class _Sums:
    """What indexing one part came to."""

    records: int = 0
    rows: int = 0
    wal_bytes: int = 0
    index_bytes: int = 0
    scan_seconds: float = 0.0
    index_seconds: float = 0.0


def run(size: Size) -> Result:
    """Write WAL of about a size, index it, compact it, ask it."""
    folder = CACHE / "wal-index"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with Server(_MAJOR, settings=_SETTINGS) as server:
        parts, accounts = _write_wal(server, size)
        store = LocalStore(folder)
        wal = WalFolder(server.wal)
        made = {part.name: _index(wal, store, part) for part in parts}
        waldump = _waldump_seconds(server, parts)
        asked = _ask(store, wal, parts, accounts)
    total = _total(list(made.values()))
    rows = [_row(name, sums) for name, sums in [*made.items(), ("all", total)]]
    return Result(
        [
            Table(
                "Making the index of WAL records",
                ["WAL of", "records", "rows", "WAL, compressed", "index", "share",
                 "scan", "index", "index / scan"],
                rows,
                "CPU time. `pg_waldump --stats` reads the same files in "
                f"{waldump:.2f} s, the scan in {total.scan_seconds:.2f} s.",
            ),
            Table(
                "Asking for all records of one table",
                ["from", "time", "read"],
                asked,
                "CPU time. `pgbench_accounts` over all of the WAL, its LSNs and lengths.",
            ),
        ],
        [
            Aim("index, share of the compressed WAL", total.index_bytes / total.wal_bytes, 0.15),
            *(
                Aim(f"index, share of the WAL of {name}", s.index_bytes / s.wal_bytes, 0.15)
                for name, s in made.items()
            ),
        ],
    )  # fmt: skip


def _write_wal(server: Server, size: Size) -> tuple[list[_Part], RelationFile]:
    server.query("CREATE DATABASE bench")
    server.run(
        "pgbench", "-i", "-q", "-s", str(max(1, size.bytes >> 25)), "bench", database="bench"
    )
    steps: list[tuple[str, Callable[[], object]]] = [
        ("pgbench", lambda: _pgbench(server, size.bytes)),
        (
            "INSERT … SELECT",
            lambda: server.query(
                "CREATE TABLE bulk AS SELECT g AS id, md5(g::text) AS x FROM"
                f" generate_series(1, {size.bytes // 400}) g; INSERT INTO bulk SELECT * FROM bulk",
                "bench",
            ),
        ),
        ("DDL", lambda: server.query(_DDL, "bench")),
    ]
    parts = []
    for name, work in steps:
        say(f"writing WAL: {name}")
        begin = _switch(server)
        work()
        parts.append(_Part(name, begin, _switch(server)))
    number = server.value("SELECT pg_relation_filenode('pgbench_accounts')", "bench")
    oid = server.value("SELECT oid FROM pg_database WHERE datname = 'bench'")
    return parts, RelationFile(1663, oid, number)


def _pgbench(server: Server, wanted: int) -> None:
    """Run pgbench until it has written this much WAL after its first full-page images."""
    begin = _position(server)
    while _position(server) - begin < wanted:
        server.run("pgbench", "-n", "-c", "4", "-T", "5", database="bench")


def _position(server: Server) -> int:
    return Lsn.parse(server.value("SELECT pg_current_wal_insert_lsn()::text")).value


def _switch(server: Server) -> int:
    """Begin a new segment and return where it begins."""
    server.query("SELECT pg_switch_wal()")
    at = _position(server)
    return at - at % _SEGMENT if at % _SEGMENT < 1 << 13 else at - at % _SEGMENT + _SEGMENT


def _index(wal: WalFolder, store: LocalStore, part: _Part) -> _Sums:
    say(f"indexing: {part.name}")
    version = version_of_major(_MAJOR)
    sums = _Sums()
    state = ScanState(part.begin)
    compressor = zstandard.ZstdCompressor(level=2)
    limit = wal.ranges(1)[-1][1].value
    for begin in range(part.begin, part.end, _SEGMENT):
        data = wal.read(1, Lsn(begin), Lsn(min(begin + _SEGMENT, limit)))
        scanned, seconds = _timed(_scan_of(data, begin, state))
        sums.scan_seconds += seconds
        state = scanned.state
        (key, index), seconds = _timed(
            lambda scanned=scanned, begin=begin: index_segment(
                scanned,
                timeline=1,
                begin=begin,
                end=begin + _SEGMENT,
                version=version,
                segment_bytes=_SEGMENT,
            )
        )
        sums.index_seconds += seconds
        store.put_new(key, index)
        sums.records += len(scanned.records)
        sums.rows += len(scanned.blocks)
        sums.index_bytes += len(index)
        blocks = (data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK))
        sums.wal_bytes += sum(len(compressor.compress(block)) for block in blocks)
    return sums


def _scan_of(data: bytes, begin: int, state: ScanState) -> Callable[[], Scan]:
    version = version_of_major(_MAJOR)
    return lambda: scan(data, begin, state, version=version, segment_bytes=_SEGMENT)


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return what the work returns, and the CPU seconds of the quicker of two runs."""
    best = 1e9
    for _ in range(2):
        began = time.process_time()
        found = work()
        best = min(best, time.process_time() - began)
    return found, best


def _waldump_seconds(server: Server, parts: list[_Part]) -> float:
    command = ["pg_waldump", "--stats", "-p", str(server.wal)]
    command += ["-s", str(Lsn(parts[0].begin)), "-e", str(Lsn(parts[-1].end))]
    command[0] = str(server.bin / "pg_waldump")
    began = time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


def _ask(
    store: LocalStore, wal: WalFolder, parts: list[_Part], file: RelationFile
) -> list[list[str]]:
    begin, end = Lsn(parts[0].begin), min(Lsn(parts[-1].end), wal.ranges(1)[-1][1])
    say("asking")

    def ask(index: WalIndex) -> int:
        return len(index.kept_records(1, begin, end, {file: None}, lambda *_: False))

    rows = []
    index = WalIndex(store, wal)
    count, seconds = _timed(lambda: ask(index))
    rows.append([f"objects of segments, {count} records", f"{seconds:.2f} s",
                 bytes_text(index.bytes_read)])  # fmt: skip
    merged_bytes, seconds = _timed_once(lambda: _compact(store))
    rows.append(["(compaction of all of it)", f"{seconds:.2f} s", bytes_text(merged_bytes)])
    index = WalIndex(store, wal)
    count, seconds = _timed(lambda: ask(index))
    rows.append([f"compacted, {count} records", f"{seconds:.2f} s", bytes_text(index.bytes_read)])
    with_nothing = LocalStore(_emptied(CACHE / "wal-index-none"))
    count, seconds = _timed_once(lambda: ask(WalIndex(with_nothing, wal)))
    rows.append([f"the WAL itself, {count} records", f"{seconds:.2f} s",
                 bytes_text(end.bytes_since(begin))])  # fmt: skip
    return rows


def _timed_once(work: Callable[[], T]) -> tuple[T, float]:
    began = time.process_time()
    found = work()
    return found, time.process_time() - began


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _compact(store: LocalStore) -> int:
    """Merge everything into one object, round by round; return its bytes."""
    while True:
        found = filter(None, map(IndexObject.of, store.list("index/")))
        objects = sorted(found, key=lambda item: item.begin)
        if len(objects) == 1:
            return objects[0].size
        for at in range(0, len(objects), _MERGED_AT_ONCE):
            run_ = objects[at : at + _MERGED_AT_ONCE]
            if len(run_) > 1:
                merge(store, run_)
                for item in run_:
                    store.delete(item.key)


def _total(parts: list[_Sums]) -> _Sums:
    names = _Sums.__slots__
    return _Sums(**{name: sum(getattr(part, name) for part in parts) for name in names})


def _row(name: str, sums: _Sums) -> list[str]:
    return [
        name,
        f"{sums.records:,}",
        f"{sums.rows:,}",
        bytes_text(sums.wal_bytes),
        bytes_text(sums.index_bytes),
        f"{sums.index_bytes / sums.wal_bytes:.1%}",
        f"{sums.scan_seconds:.2f} s",
        f"{sums.index_seconds:.2f} s",
        f"{sums.index_seconds / sums.scan_seconds:.1f}",
    ]
