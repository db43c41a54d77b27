"""`pitr demo --postgres`, as the README shows it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.cli.commands import PITR, environment

# Every command of the story waits for a server that it starts: minutes on a busy machine.
_SECONDS = 540


@pytest.mark.soak
@pytest.mark.timeout(_SECONDS + 30)
def test_demo_on_postgres_ends_with_the_rows_brought_back(tmp_path: Path) -> None:
    """A server of its own, a writer whose work survives, and nothing left behind."""
    changes = {"PITR_ARCHIVE": "elsewhere", "PITR_SOURCE": "none"}
    done = subprocess.run(
        [*PITR, "demo", "--postgres", "--json"],
        cwd=tmp_path,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    tables = {table["table"]: table["rows"] for table in found["tables"]}
    [change] = found["transaction"]["tables"]

    assert change["deleted"] >= 20_000
    # An order that came in while the DELETE ran was there before its commit, and is not lost.
    assert 0 <= tables["public.orders"] - change["deleted"] < 20
    assert tables["public.order_lines"] == 20_000
    assert found["merge"]["inserted"] == change["deleted"] + 20_000
    assert found["undo"]["deleted"] > 0
    assert done.stderr.count("$ pitr undo m-") == 2
    counted = [int(rows) for rows in re.findall(r"^ (?:open|paid) +\| +(\d+)$", done.stderr, re.M)]
    # At both ends: what was lost and what came in since.
    assert sum(counted[:2]) > change["deleted"]
    assert sum(counted[2:]) >= sum(counted[:2])
    assert not list(tmp_path.iterdir())
