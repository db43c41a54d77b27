"""The results of all benchmarks on one page."""

from __future__ import annotations

import os
import platform
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import apsw
import msgspec

from bench.report import Result, aims_text, figure_text, table_text
from bench.world import CACHE, SIZES


class Stored(msgspec.Struct):
    """A result with what it was measured of, when, and on what."""

    name: str
    size: str
    day: str
    machine: str
    result: Result


def save_result(name: str, size: str, result: Result) -> None:
    """Keep a result in place of the one of the same name and size."""
    now = datetime.now(UTC)
    stored = Stored(name, size, f"{now:%Y-%m-%d}", _machine(), result)
    _folder().mkdir(parents=True, exist_ok=True)
    (_folder() / f"{name}-{size}.json").write_bytes(msgspec.json.encode(stored))


def load_results() -> list[Stored]:
    """Return what is kept, by benchmark and size."""
    found = [
        msgspec.json.decode(path.read_bytes(), type=Stored) for path in _folder().glob("*.json")
    ]
    return sorted(found, key=lambda item: (item.name, list(SIZES).index(item.size)))


def _folder() -> Path:
    return CACHE / "results"


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return (
        f"{os.cpu_count()} cores {platform.machine()}, {memory} GB, {platform.system()} "
        f"{platform.release().split('-')[0]}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version} in the writer and {apsw.sqlite_lib_version()} in pitr"
    )


def page_text(results: list[Stored]) -> str:
    """Return the page that docs/benchmarks.md is."""
    template = Path(__file__).with_name("page.md").read_text()
    aims = [aim for item in results for aim in item.result.aims]
    bars = [bar for item in results for bar in item.result.bars]
    sections = [
        "\n\n".join(
            [f"### {item.name}, {item.size}", *(table_text(table) for table in item.result.tables)]
        )
        for item in results
    ]
    machines = sorted({f"{item.machine} ({item.day})" for item in results})
    return template.format(
        machines="; ".join(machines),
        aims=aims_text(aims),
        figure=figure_text(bars),
        tables="\n\n".join(sections),
    )
