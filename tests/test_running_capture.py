"""The units, rules and rights in docs/guides/running-capture.md are well-formed and true."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_tidy import ROOT

TEXT = (ROOT / "docs" / "guides" / "running-capture.md").read_text()
UNITS = {
    Path(path).name: text
    for text, path in re.findall(r"^```ini\n(# (/etc/systemd/\S+)\n.*?)^```", TEXT, re.M | re.S)
}


def test_page_has_its_units() -> None:
    """The service itself, and a job with its timer."""
    assert set(UNITS) == {"pitr-capture.service", "pitr-backup.service", "pitr-backup.timer"}
    for line in ("ProtectSystem=strict", "NoNewPrivileges=yes", "UMask=0077", "Restart=always"):
        assert f"\n{line}\n" in UNITS["pitr-capture.service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd on this machine")
def test_units_are_accepted_by_systemd(tmp_path: Path) -> None:
    """systemd-analyze finds nothing to say about them, and finds a mistake when there is one."""

    def verify(units: dict[str, str]) -> tuple[int, str]:
        for name, text in units.items():
            (tmp_path / name).write_text(text.replace("/opt/pitr/bin/pitr", sys.executable))
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in units)],
            capture_output=True,
            text=True,
            check=False,
        )
        lines = done.stderr.splitlines()
        return done.returncode, "\n".join(line for line in lines if "pitr-" in line)

    assert verify(UNITS) == (0, "")
    wrong = UNITS["pitr-capture.service"].replace("ProtectSystem=strict", "ProtectSistem=strict")
    assert "ProtectSistem" in verify({"pitr-capture.service": wrong})[1]


def test_alert_rules_ask_for_figures_that_status_prints() -> None:
    """Every figure of a rule is one of `pitr status --prometheus`."""
    rules = re.findall(r"^        expr: (.*)$", TEXT, re.MULTILINE)
    asked = {name for rule in rules for name in re.findall(r"\bpitr_\w+", rule)}

    assert len(rules) >= 8
    printed = (ROOT / "pitr" / "cli" / "prometheus.py").read_text()
    assert asked <= set(re.findall(r'"(pitr_\w+)"', printed))


def test_rights_of_the_bucket_are_json_and_no_more_than_needed() -> None:
    """List, read, write and delete below the prefix."""
    [text] = re.findall(r"^```json\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    statements = json.loads(text)["Statement"]

    assert {action for each in statements for action in each["Action"]} == {
        "s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject",
    }  # fmt: skip
