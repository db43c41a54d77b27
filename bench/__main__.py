"""Run the benchmarks: `python -m bench [NAME…] [--size 20MB|200MB|1GB|2GB|4GB|16GB] [--page FILE]`.

Tables go to stdout. Each result also replaces the one of its name and size in `.cache/bench`, and
`--page` writes all results that lie there as one document.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from bench import (
    base_backup,
    capture,
    diff,
    history,
    merge,
    pg_repair,
    reading,
    restore,
    surgical,
    surgical_costs,
    wal_index,
    wal_scan,
    wal_stream,
)
from bench.page import load_results, page_text, save_result
from bench.report import Result, aims_text, figure_text, table_text
from bench.world import SIZES, Size, alone, say

BENCHMARKS: dict[str, Callable[[Size], Result]] = {
    "capture": capture.run,
    "restore": restore.run,
    "reading": reading.run,
    "history": history.run,
    "diff": diff.run,
    "merge": merge.run,
    "wal-scan": wal_scan.run,
    "wal-index": wal_index.run,
    "wal-stream": wal_stream.run,
    "base-backup": base_backup.run,
    "surgical": surgical.run,
    "surgical-costs": surgical_costs.run,
    "pg-merge": pg_repair.run_merge,
    "pg-diff": pg_repair.run_diff,
}


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], metavar="NAME")
    parser.add_argument("--size", choices=SIZES, default="200MB")
    parser.add_argument("--page", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    size = Size(arguments.size, SIZES[arguments.size])
    only_page = arguments.page and not arguments.names
    with alone():
        for name in () if only_page else arguments.names or BENCHMARKS:
            say(f"== {name}, {size.name}")
            result = BENCHMARKS[name](size)
            save_result(name, size.name, result)
            show(result)
    if arguments.page:
        arguments.page.write_text(page_text(load_results()))


def show(result: Result) -> None:
    """Print what a benchmark found."""
    for table in result.tables:
        print(table_text(table), end="\n\n")
    if result.aims:
        print(aims_text(result.aims), end="\n\n")
    if result.bars:
        print(figure_text(result.bars), end="\n\n")


if __name__ == "__main__":
    main()
