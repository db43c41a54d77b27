"""Distilled WAL against PostgreSQL's own reader: pg_waldump must accept it whole.

The WAL is that of a real server under a random workload; what is kept is chosen at random. Records
that are kept are where they were and as they were, but for xl_prev and CRC; all else is filler.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pitr.postgres.wal.distill import (
    Distillation,
    KeptRun,
    TimelineSpan,
    WalLayout,
    distil,
    plan_gap,
)
from pitr.postgres.wal.geometry import WalGeometry
from pitr.postgres.wal.page import PAGE_BYTES, align, content_of, decode_page_header
from pitr.postgres.wal.segment_name import SegmentName
from pitr.vocabulary.position import Lsn
from tests.postgres.random_workload import RandomWorkload
from tests.postgres.replay_world import archiving_server, finish_wal, world_folder

SEED = int(os.environ.get("PITR_TEST_SEED", "1"))
LINE = re.compile(
    r"rmgr: (?P<manager>\S+) +len \(rec/tot\): +\d+/ *(?P<length>\d+), tx: +(?P<xid>\d+), "
    r"lsn: (?P<lsn>\S+), prev \S+, desc: (?P<text>.*)"
)


@dataclass(frozen=True, slots=True)
class Dumped:
    """One record as pg_waldump shows it."""

    lsn: int
    length: int
    manager: str
    xid: int
    text: str

    @property
    def is_filler(self) -> bool:
        return self.manager == "XLOG" and self.text.split()[0] in ("NOOP", "SWITCH")


def dumped(programs: Path, wal: Path, begin: int, end: int) -> list[Dumped]:
    """Return the records that pg_waldump finds in a folder."""
    span = ["-s", str(Lsn(begin)), "-e", str(Lsn(end))]
    command = [programs / "pg_waldump", "-p", wal, *span]
    out = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = []
    for line in out.splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        lsn = Lsn.parse(match["lsn"]).value
        words = (match["manager"], int(match["xid"]), match["text"])
        found.append(Dumped(lsn, int(match["length"]), *words))
    return found


@dataclass(frozen=True, slots=True)
class RealWal:
    """WAL of a server, and what pg_waldump finds in it."""

    folder: Path
    programs: Path
    geometry: WalGeometry
    layout: WalLayout
    records: list[Dumped]

    def read(self, begin: int, end: int) -> bytes:
        """Return bytes of the WAL."""
        parts = []
        while begin < end:
            name = SegmentName.at(1, begin, self.geometry.segment_bytes)
            with (self.folder / "wal" / str(name)).open("rb") as file:
                file.seek(begin - name.begin)
                parts.append(file.read(min(end, name.end) - begin))
            begin += len(parts[-1])
        return b"".join(parts)

    def runs(self, rows: list[int]) -> list[KeptRun]:
        """Return the runs of records with these numbers."""
        runs: list[KeptRun] = []
        for row in rows:
            record = self.records[row]
            end = self.geometry.end(self.geometry.position(record.lsn) + align(record.length))
            if runs and self.geometry.start(self.geometry.position(runs[-1].end)) == record.lsn:
                runs[-1] = KeptRun(runs[-1].begin, record.lsn, end)
            else:
                runs.append(KeptRun(record.lsn, record.lsn, end))
        return runs


@pytest.fixture(scope="module", params=[1, 16], ids=["1MB", "16MB"])
def real_wal(request: pytest.FixtureRequest) -> Iterator[RealWal]:
    """Record a random workload in segments of 1 and of 16 MB."""
    with world_folder() as folder:
        with archiving_server(folder, 15, segment_megabytes=request.param) as server:
            workload = RandomWorkload(server, SEED)
            workload.prepare()
            workload.run(30)
            workload.close()
            finish_wal(server)
            programs = server.bin
        names = sorted(path.name for path in (folder / "wal").iterdir())
        size = request.param << 20
        begin, end = (SegmentName.parse(names[at], size).begin for at in (0, -1))
        header = decode_page_header((folder / "wal" / names[0]).read_bytes())
        assert header.system_identifier is not None
        geometry = WalGeometry(size, PAGE_BYTES)
        layout = WalLayout(geometry, header.magic, header.system_identifier)
        records = dumped(programs, folder / "wal", begin, end)
        assert len(records) > 5000
        yield RealWal(folder, programs, geometry, layout, records)


@pytest.mark.parametrize("seed", range(SEED, SEED + 4))
def test_distilled_wal_is_read_whole_by_pg_waldump(
    real_wal: RealWal, seed: int, tmp_path: Path
) -> None:
    """Every kept record is unchanged, every other is filler, and each mark begins a record."""
    chance = random.Random(seed)
    print(f"seed {seed}")
    known = real_wal.records
    first = chance.randrange(len(known) // 2)
    last = min(len(known) - 1, first + chance.choice((10, 300, 5000, 20000)))
    share = chance.choice((0, 0.001, 0.01, 0.1, 0.5, 0.9, 1))
    rows = [
        row for row in range(first, last) if chance.random() < share and not known[row].is_filler
    ]
    marks = sorted(known[chance.randrange(first, last)].lsn for _ in range(chance.choice((0, 4))))
    begin, stop = known[first].lsn, known[last].lsn
    plan = Distillation(
        real_wal.layout, [TimelineSpan(1, 0)], begin, stop, real_wal.runs(rows), marks
    )
    size = real_wal.geometry.segment_bytes
    for segment in distil(plan, real_wal.read):
        path = tmp_path / str(SegmentName(segment.timeline, segment.number, size))
        path.write_bytes(segment.data.ljust(size, b"\0"))

    found = dumped(real_wal.programs, tmp_path, begin, stop + 64)
    wanted = [known[row] for row in rows]
    assert [record for record in found if not record.is_filler] == wanted
    assert found[-1].lsn == stop
    assert set(marks) <= {record.lsn for record in found}
    for record in wanted:
        assert whole(tmp_path, record, size) == whole(real_wal.folder / "wal", record, size)


def whole(folder: Path, record: Dumped, size: int) -> bytes:
    """Return a record's bytes but xl_prev and CRC."""
    name = SegmentName.at(1, record.lsn, size)
    wanted = record.length * 2 + 100  # with the page headers in between
    with (folder / str(name)).open("rb") as file:
        file.seek(record.lsn - name.begin)
        data = file.read(wanted)
    if len(data) < wanted and (folder / str(name.next)).exists():
        data += (folder / str(name.next)).read_bytes()[:wanted]
    found = content_of(data, record.lsn, record.lsn, record.length, size)
    assert len(found) == record.length
    return found[:8] + found[16:20] + found[24:]


def test_kept_record_with_a_damaged_body_is_still_damaged(
    real_wal: RealWal, tmp_path: Path
) -> None:
    """The new CRC follows from the old one, so what was broken in the archive is found out."""
    rows = [row for row in range(10, 400) if not real_wal.records[row].is_filler][::7]
    victim = real_wal.records[rows[3]]
    plan = Distillation(
        real_wal.layout,
        [TimelineSpan(1, 0)],
        real_wal.records[10].lsn,
        real_wal.records[400].lsn,
        real_wal.runs(rows),
        [],
    )

    def read(begin: int, end: int) -> bytes:
        data = bytearray(real_wal.read(begin, end))
        at = victim.lsn + 26 - begin
        if 0 <= at < len(data):
            data[at] ^= 1
        return bytes(data)

    size = real_wal.geometry.segment_bytes
    for segment in distil(plan, read):
        path = tmp_path / str(SegmentName(segment.timeline, segment.number, size))
        path.write_bytes(segment.data.ljust(size, b"\0"))
    found = dumped(real_wal.programs, tmp_path, plan.begin, plan.stop)

    assert found
    assert max(record.lsn for record in found) < victim.lsn


@pytest.mark.parametrize("seed", range(SEED, SEED + 5))
def test_gap_of_any_size_is_filled_exactly(seed: int) -> None:
    """Fillers and switches lead from any position to any other, in records of legal sizes."""
    chance = random.Random(seed)
    geometry = WalGeometry(1 << 20, PAGE_BYTES)
    for _ in range(2000):
        edge = geometry.segment_position(chance.randrange(1, 5))
        begin = edge - 8 * chance.choice((0, 1, 2, 3, 4, 100, chance.randrange(100_000)))
        length = 24 + 8 * chance.choice((0, 1, 2, 3, 5, 300, chance.randrange(400_000)))
        end, at = begin + length, begin
        for filler in plan_gap(geometry, begin, end):
            segment = geometry.segment(geometry.start(at))
            if filler is None:
                assert geometry.segment_position(segment + 1) - at >= 24
                at = geometry.segment_position(segment + 1)
            else:
                assert 24 <= filler <= 1 << 20
                at += filler
        assert at == end


def test_position_and_lsn_are_inverse() -> None:
    """A position leads to an LSN behind a page header, and back."""
    geometry = WalGeometry(1 << 20, PAGE_BYTES)
    for position in range(0, geometry.segment_position(2) + 9000, 8):
        lsn = geometry.start(position)
        page = lsn - lsn % PAGE_BYTES
        assert lsn - page >= geometry.header_bytes(page)
        assert geometry.position(lsn) == position
        assert geometry.position(geometry.end(position)) == position
