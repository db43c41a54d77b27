"""`pitr demo --postgres`, as the README shows it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cli.commands import succeed


def test_demo_on_postgres_ends_with_the_rows_brought_back(tmp_path: Path) -> None:
    """A server of its own, a writer whose work survives, and nothing left behind."""
    changes = {"PITR_ARCHIVE": "elsewhere", "PITR_SOURCE": "none"}
    done = succeed(tmp_path, "demo", "--postgres", "--json", **changes)
    tables = {table["table"]: table["rows"] for table in done.json["tables"]}
    [change] = done.json["transaction"]["tables"]

    assert tables["public.orders"] == change["deleted"] >= 20_000
    assert tables["public.order_lines"] == 20_000
    assert done.json["merge"]["inserted"] == change["deleted"] + 20_000
    assert done.json["undo"]["deleted"] > 0
    assert done.err.count("$ pitr undo m-") == 2
    counted = [int(rows) for rows in re.findall(r"^ (?:open|paid) +\| +(\d+)$", done.err, re.M)]
    # At both ends: what was lost and what came in since.
    assert sum(counted[:2]) > change["deleted"]
    assert sum(counted[2:]) >= sum(counted[:2])
    assert not list(tmp_path.iterdir())
