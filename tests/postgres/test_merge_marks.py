"""A merge and an undo on PostgreSQL are targets: the states just before and just after them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cli.commands import succeed
from tests.postgres.test_guard_run import made, running_capture
from tools.postgres_servers import Server


def test_t61_merge_is_marked_by_a_capture_that_runs(tmp_path: Path) -> None:
    """Both states come back by name."""
    settings = {"wal_keep_size": "1GB"}
    with Server(15, settings=settings, segment_megabytes=1) as server, made(server, tmp_path) as it:

        def run(*words: str) -> Any:
            return succeed(tmp_path, *words, "--json", **it.changes).json

        def lines_at(mark: str) -> int:
            found = run("restore", "-t", "lines", "--at", f"name:{mark}", "--no-compare")
            return int(found["tables"][0]["rows"])

        with running_capture(it):
            succeed(tmp_path, "mark", "whole", **it.changes)
            server.query("DELETE FROM lines")
            merged = run("restore", "-t", "lines", "--at", "name:whole", "--merge", "--yes")
            marks = {name: f"{merged['merge']}-{name}" for name in ("before", "after")}
            assert merged["marks"] == marks | {"note": None}, merged["warnings"]
            assert [lines_at(marks[name]) for name in ("before", "after")] == [0, 40]
