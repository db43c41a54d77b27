"""What every test shares: the report header, and a world without the caller's settings."""

from __future__ import annotations

import os
import platform
import signal
import sqlite3
import time
from importlib.metadata import version
from importlib.util import find_spec

import apsw
import hypothesis
import pytest

from tools.postgres_servers import scratch_place

pytest_plugins = ["tests.postgres.fixtures"]

# A failing example prints the line that replays it; deadlines measure the machine, not the code.
# `make test` has the same examples in every run, `make soak` looks for new ones.
hypothesis.settings.register_profile("pitr", deadline=None, print_blob=True, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, print_blob=True)
hypothesis.settings.load_profile("pitr")

# Settings of the person who runs the tests that would change what is tested. PITR_PURE=1 is no
# such thing: it is how the tests are run on the plain-Python twins.
_FOREIGN_SETTINGS = ("PITR_", "AWS_", "NO_COLOR", "FORCE_COLOR", "XDG_", "TZ")
_OUR_SETTINGS = ("PITR_TEST_", "PITR_PURE")


def pytest_configure() -> None:
    """Forget the caller's settings once, before any test sets its own.

    A shell that runs the suite in its background, or nohup, has it ignore Ctrl-C or the end of the
    terminal, and so would all commands that the tests start and interrupt. Folders of tests are
    made in memory when there is room: what pitr makes durable it waits for, and on a disk that
    others write to that takes twice the time of all the rest.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for name in list(os.environ):
        if name.startswith(_FOREIGN_SETTINGS) and not name.startswith(_OUR_SETTINGS):
            del os.environ[name]
    time.tzset()
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", scratch_place())


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Name what a report of a failure needs: versions, the C path, what is left out."""
    pure = os.environ.get("PITR_PURE") == "1" or not find_spec("pitr._speedups")
    names = ("click", "msgspec", "obstore", "psycopg", "whenever", "xxhash", "zstandard")
    names += ("hypothesis",)
    return [
        f"pitr {version('pitr')} with its {'plain-Python twins' if pure else 'C speedups'}, "
        f"{platform.platform(terse=True)}, {os.cpu_count()} cores",
        f"SQLite {apsw.sqlite_lib_version()} (apsw {apsw.apsw_version()}), "
        f"writers: SQLite {sqlite3.sqlite_version} (Python's own)",
        ", ".join(f"{name} {version(name)}" for name in names),
        f"selected: {config.getoption('markexpr')} (the others: make soak, make test-s3)",
    ]
