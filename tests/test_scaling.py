"""docs/scaling.md shows what its script computes, and the script counts as the formats do."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import pytest

from tests.test_tidy import ROOT
from tools import scaling
from tools.scaling import GB, MB, TB, Cluster

PAGE = ROOT / "docs" / "scaling.md"
SMALL = Cluster(MB, 100 * GB)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the script as the document says."""
    command = [sys.executable, "-m", "tools.scaling", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_document_shows_what_the_script_prints() -> None:
    """The table is the script's, figure by figure."""
    shown = re.search(r"<!-- table -->\n\n(.*?)\n<!-- /table -->", PAGE.read_text(), re.DOTALL)

    assert shown is not None
    assert run().stdout == shown[1], "run: python -m tools.scaling, and put it into the document"


def test_measured_figures_are_those_of_the_benchmarks() -> None:
    """What was measured anew is put into both."""
    said = (ROOT / "docs" / "benchmarks.md").read_text()

    def found(pattern: str) -> list[float]:
        [line] = re.findall(pattern, said)
        return [float(figure.replace(",", "")) for figure in line]

    size, seconds, stored = found(
        r"(\d+) MB: best \| median \| CPU \| stored \|(?:.*\n)+?"
        r"\| pitr \|.*\| ([\d.]+) s \| (\d+) MB \|"
    )
    base, base_seconds = found(r"Of (\d+) MB, start aside, it took ([\d.]+) s")
    records, share = found(
        r"pgbench with page images \| ([\d,]+) \|.*\n.*small records only \|.*\| ([\d.]+) % \|"
    )
    here = [size / stored, (seconds - 0.3) / size / MB, base_seconds / base / MB, records, share]
    assert here == pytest.approx(
        [
            scaling.WAL_RATIO,
            scaling.CAPTURE_CPU_SECONDS,
            scaling.BACKUP_CPU_SECONDS,
            scaling.RECORDS_A_SEGMENT,
            scaling.INDEX_SHARE * 100,
        ]
    )
    assert f"Known chunks take {scaling.KNOWN_CHUNK_BYTES} bytes" in said


def test_own_cluster_is_estimated_by_the_same_functions() -> None:
    """The options make one column; two that belong together are asked for together."""
    mine = run("--wal", "1MB", "--database", "100GB").stdout

    assert mine == scaling.table([("yours", SMALL)])
    assert run("--wal", "1MB").returncode == 2
    assert run("--wal", "1XB", "--database", "1TB").returncode == 2


def test_counts_follow_the_formats() -> None:
    """One object a segment, pieces once a second, a chunk of 128 KiB: worked out by hand."""
    day = 86_400 / 16  # segments of 16 MB at 1 MB/s

    assert scaling.wal_objects(SMALL) == pytest.approx(30 * day)
    assert scaling.pieces_per_day(SMALL) == pytest.approx(day * 15)
    assert scaling.pieces_per_day(Cluster(GB, TB)) == 0
    assert scaling.manifest_bytes(SMALL) == 100 * GB / (128 << 10) * 28
    assert scaling.listing_pages(SMALL) == 162


def test_estimates_grow_with_what_they_depend_on() -> None:
    """Twice the WAL or data is more of what counts it; larger segments are fewer objects."""
    double = dataclasses.replace(SMALL, wal_bytes_per_second=2 * MB)
    large = dataclasses.replace(SMALL, segment_bytes=64 * MB)
    often = dataclasses.replace(SMALL, base_days=1)

    for figure in (scaling.archive_bytes, scaling.requests_per_day, scaling.capture_cores):
        assert figure(double) > figure(SMALL)
    assert scaling.wal_objects(large) * 4 == pytest.approx(scaling.wal_objects(SMALL))
    assert scaling.restore_bytes(often) < scaling.restore_bytes(SMALL)
    assert scaling.base_bytes(often) > scaling.base_bytes(SMALL)
