"""debug wal: a segment as a user looks into it, whole, damaged, foreign."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zstandard

from tests.cli.commands import pitr
from tools.make_wal_golden import GOLDEN

NAME = "000000010000000000000008"


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    """The first segment of a golden file."""
    packed = (GOLDEN / "wal-17.zst").read_bytes()
    line, _, rest = zstandard.decompress(packed).partition(b"\n")
    path = tmp_path / NAME
    path.write_bytes(rest[: json.loads(line)["segment_bytes"]])
    return path


def test_debug_wal_lists_records_as_pg_waldump_does(segment: Path) -> None:
    """A head, one line a record, and why it ends."""
    shown = pitr(segment.parent, "debug", "wal", NAME)
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert lines[0].startswith("segment: PostgreSQL 17, cluster ")
    assert "timeline 1" in lines[0]
    commits = [line for line in lines if "desc: COMMIT is_commit=True xid=" in line]
    assert len(commits) > 20
    assert any(", blkref #0: rel 1663/" in line for line in lines)
    assert lines[-1].startswith("end: ")


def test_debug_wal_counts_the_records(segment: Path) -> None:
    """By resource manager, in text and as JSON."""
    found = pitr(segment.parent, "debug", "wal", "--stats", NAME, "--json").json
    assert not found["damaged"]
    heap = next(line for line in found["lines"] if line.startswith("Heap "))
    assert "rows changed" in heap


def test_debug_wal_names_damage(segment: Path) -> None:
    """What is before it is shown; exit 5."""
    data = bytearray(segment.read_bytes())
    data[500_000] ^= 1
    segment.write_bytes(data)
    for options in ([], ["--stats"]):
        shown = pitr(segment.parent, "debug", "wal", NAME, *options)
        assert shown.code == 5
        assert shown.out.splitlines()[-1].startswith("damaged: 0/87")
        assert "the checksum of the record is wrong" in shown.out


@pytest.mark.parametrize(
    ("at", "new", "code", "message"),
    [
        (0, b"\x20\xd1", 3, "unknown version"),
        (0, b"SQLite", 5, "not a WAL segment"),
        (8, b"\0\x20", 5, "first page"),
    ],
)
def test_debug_wal_refuses_what_it_does_not_know(
    segment: Path, at: int, new: bytes, code: int, message: str
) -> None:
    """A newer PostgreSQL is a precondition; another file, and a page out of place, are corrupt."""
    data = bytearray(segment.read_bytes())
    data[at : at + len(new)] = new
    segment.write_bytes(data)
    refused = pitr(segment.parent, "debug", "wal", NAME, "--json")
    assert refused.code == code
    assert message in refused.error["message"]
    assert refused.error["hint"] or refused.error["detail"]


def test_debug_wal_shows_a_timeline_history(tmp_path: Path) -> None:
    """By the name of the file."""
    (tmp_path / "00000003.history").write_text("1\t0/3000000\tfirst\n\n2\t0/5000000\tsecond\n")
    shown = pitr(tmp_path, "debug", "wal", "00000003.history")
    assert shown.out.splitlines() == [
        "timeline 1 until 0/3000000: first",
        "timeline 2 until 0/5000000: second",
        "timeline 3 from 0/5000000",
    ]
    (tmp_path / "00000002.history").write_text("2\t0/3000000\tfirst\n")
    assert pitr(tmp_path, "debug", "wal", "00000002.history").code == 5
