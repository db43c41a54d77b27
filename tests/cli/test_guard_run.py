"""`pitr guard run` on SQLite, and how a guarded command gets its terminal and its signals."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Done, capturing, environment, pitr, succeed, write
from tests.cli.migrations import alembic, django
from tests.processes import beside

FAST = {"PITR_POLL": "20ms", "PITR_FLUSH": "20ms"}
ORDERS = "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, cents INTEGER)"
ROWS = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)"
    " INSERT INTO orders SELECT i, 'item ' || i, 100 FROM n"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A captured database, in which every test makes the tables that it wants."""
    folder = tmp_path_factory.mktemp("guarded")
    write(folder / "shop.db", ORDERS, "CREATE TABLE notes (text)")
    succeed(folder, "init", "shop.db", "--archive", "archive")
    with capturing(folder, **FAST):
        yield folder


@pytest.fixture
def shop(place: Path) -> Path:
    """The captured database with 20 orders and one note."""
    drops = [f"DROP TABLE IF EXISTS {name}" for name in ("orders", "notes", "alembic_version")]
    drops += ["DROP TABLE IF EXISTS django_migrations"]
    made = [ORDERS, ROWS, "CREATE TABLE notes (text)", "INSERT INTO notes VALUES ('a')"]
    write(place / "shop.db", *drops, *made)
    return place


def guard(folder: Path, *words: str) -> Done:
    """Run a command under guard with --json; return how it ended, with the document as output."""
    done = pitr(folder, "guard", "run", "--json", *words, **FAST)
    return Done(done.code, done.out[done.out.rfind("\n{\n") + 1 :], done.err)


def script(*statements: str) -> list[str]:
    """Return a command that runs statements on shop.db, each as a transaction of its own."""
    lines = ["import sqlite3", "c = sqlite3.connect('shop.db', isolation_level=None, timeout=10)"]
    lines += [f"c.execute({statement!r})" for statement in statements]
    return [sys.executable, "-c", "\n".join(lines)]


def tables_of(done: Done) -> dict[str, dict[str, object]]:
    """Return what the document says of each table, without what says nothing."""
    return {
        table["table"]: {name: value for name, value in table.items() if value and name != "table"}
        for table in done.json["tables"]
    }


def test_rows_lost_between_the_marks_are_told_and_brought_back(shop: Path) -> None:
    """The command's output comes first; the repair brings exactly the lost rows back."""
    command = [*script("DELETE FROM orders WHERE id > 15"), "ignored"]
    done = pitr(shop, "guard", "run", "--json", "--", *command, **FAST)
    assert done.code == 0, done.err
    assert tables_of(done) == {"orders": {"deleted": 5}}
    assert (done.json["attributed_by"], done.json["exit_code"]) == ("window", 0)
    assert done.json["before"].startswith("name:guard-")

    repair = done.json["repair"].split()
    assert repair[:2] == ["pitr", "revert"]
    succeed(shop, *repair[1:], **FAST)
    assert succeed(shop, "merge", "--yes", "--json", **FAST).json["inserted"] == 5


def test_limits_are_passed_and_repaired(shop: Path) -> None:
    """Rows of a dropped table count; what a table's remake under its name keeps, does not."""
    command = script(
        "CREATE TABLE new AS SELECT * FROM orders WHERE id <= 18", "DROP TABLE orders",
        "ALTER TABLE new RENAME TO orders", "DROP TABLE notes",
    )  # fmt: skip
    limits = ("--max-deleted", "2", "--forbid", "drop", "--auto-repair")
    done = guard(shop, *limits, "--window", "--", *command)

    assert done.code == 1, done.err
    found = tables_of(done)
    assert found["orders"].get("deleted") == 2
    assert "dropped" not in found["orders"]
    assert found["notes"]["dropped"]
    assert len(done.json["limits_passed"]) == 2
    assert done.json["repaired"]["inserted"] == 3, done.json


def test_nothing_is_repaired_by_itself_while_others_may_have_done_it(shop: Path) -> None:
    """A commit in a SQLite file does not tell who made it: the user has to say so."""
    done = guard(shop, "--max-deleted", "0", "--auto-repair", "--", *script("DELETE FROM orders"))

    assert done.code == 1, done.err
    assert "work of others may be among it" in done.err + done.out
    assert done.json["repaired"] is None
    assert done.json["repair"]


def test_within_the_limits_nothing_is_repaired(shop: Path) -> None:
    """Inserts and updates are no deletes; a table that came and went is not listed."""
    command = script(
        "INSERT INTO orders VALUES (99, 'new', 1)", "UPDATE orders SET cents = 5 WHERE id = 1",
        "CREATE TABLE passing (a)", "DROP TABLE passing",
    )  # fmt: skip
    done = guard(shop, "--max-deleted", "0", "--forbid", "drop,truncate", "--", *command)

    assert done.code == 0, done.err
    assert tables_of(done) == {"orders": {"inserted": 1, "updated": 1}}
    assert done.json["repair"].startswith("pitr restore -t orders --at name:guard-")


@pytest.mark.parametrize(
    ("command", "code", "exit_code", "name"),
    [
        (["false"], 20, 1, None),
        (["sh", "-c", "exit 42"], 20, 42, None),
        (["sh", "-c", "kill -9 $$"], 20, 137, "SIGKILL"),
        (["true"], 0, 0, None),
    ],
)
def test_exit_code_of_the_command_is_told(
    shop: Path, command: list[str], code: int, exit_code: int, name: str | None
) -> None:
    """A failed command ends with 20; its own code, as a shell has it, is in the document."""
    done = guard(shop, "--", *command)

    assert (done.code, done.json["exit_code"], done.json["signal"]) == (code, exit_code, name)
    assert (done.json["tables"], done.json["repair"]) == ([], None)


def test_command_that_does_not_exist_is_a_usage_error(shop: Path) -> None:
    """Nothing is marked for it. Neither for a word that --forbid does not know."""
    marks = len(succeed(shop, "status", "--json", **FAST).json["marks"])
    assert pitr(shop, "guard", "run", "--", "no-such-command", **FAST).code == 2
    assert pitr(shop, "guard", "run", "--forbid", "drup", "--", "true", **FAST).code == 2
    assert pitr(shop, "guard", "run", **FAST).code == 2
    assert len(succeed(shop, "status", "--json", **FAST).json["marks"]) == marks


def test_archive_that_cannot_be_proven_current_lets_nothing_run(tmp_path: Path) -> None:
    """Exit 3 while the archive is not writable, and the command was not started."""
    write(tmp_path / "shop.db", ORDERS)
    succeed(tmp_path, "init", "shop.db", "--archive", "archive")
    (tmp_path / "shop.db").rename(tmp_path / "gone.db")
    done = pitr(tmp_path, "guard", "run", "--json", "--", "touch", "ran")

    assert done.code == 3
    assert "not run" in done.error["message"]
    assert not (tmp_path / "ran").exists()


def test_without_a_capture_the_guard_archives_by_itself(tmp_path: Path) -> None:
    """It says so, and what was lost can be brought back all the same."""
    write(tmp_path / "shop.db", ORDERS, ROWS)
    succeed(tmp_path, "init", "shop.db", "--archive", "archive")
    done = pitr(tmp_path, "guard", "run", "--", *script("DELETE FROM orders"))
    assert done.code == 0, done.err
    assert "no capture is running" in done.err
    [line] = [line for line in done.out.splitlines() if line.startswith("to bring it back:")]
    succeed(tmp_path, *line.partition("pitr ")[2].split())
    assert succeed(tmp_path, "merge", "--yes", "--json").json["inserted"] == 20


def test_alembic_migration_is_counted(place: Path, tmp_path: Path) -> None:
    """Rows deleted and a table dropped in one transaction."""
    write(place / "shop.db", "DROP TABLE IF EXISTS orders", "DROP TABLE IF EXISTS notes")
    url = f"sqlite:///{place / 'shop.db'}"
    run(alembic(tmp_path, url, "one"))
    done = guard(place, "--", *alembic(tmp_path, url, "two"))

    assert done.code == 0, done.err
    found = tables_of(done)
    assert found["orders"] == {"deleted": 5}
    assert found["notes"]["dropped"]


def test_django_migration_is_counted(place: Path, tmp_path: Path) -> None:
    """Django makes a SQLite table anew to drop a column: that is a column dropped, no table."""
    write(place / "shop.db", "DROP TABLE IF EXISTS orders", "DROP TABLE IF EXISTS notes",
          "DROP TABLE IF EXISTS django_migrations")  # fmt: skip
    database: dict[str, object] = {
        "ENGINE": "django.db.backends.sqlite3", "NAME": str(place / "shop.db"),
    }  # fmt: skip
    run(django(tmp_path, database, "0001"))
    done = guard(place, "--", *django(tmp_path, database, "0002"))

    assert done.code == 0, done.err
    found = tables_of(done)["orders"]
    assert (found["deleted"], found["columns_dropped"]) == (5, ["cents"])
    assert "dropped" not in found


def run(command: list[str]) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


# --- terminal and signals ------------------------------------------------------------------------

RUN = "import sys; from pitr.cli.guarded_command import run_command as r; e = r(sys.argv[1:], {})"
SHOW = f"{RUN}; print('ended', e.code, e.signal, flush=True)"
TRAP = "trap 'echo got {name}; exit 7' {name}; echo ready; while :; do sleep 0.05; done"


def read_until(terminal: int, text: str) -> str:
    """Return what comes from a file until a text has come."""
    seen, deadline = "", time.monotonic() + 60
    while text not in seen:
        assert time.monotonic() < deadline, seen
        seen += os.read(terminal, 4096).decode()
    return seen


def test_interrupt_from_the_terminal_reaches_the_command_once() -> None:
    """Ctrl-C ends the command, not whoever waits for it; the command has the terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        command = ["sh", "-c", f"test -t 0 && {TRAP.format(name='INT')}"]
        os.execve(sys.executable, [sys.executable, "-c", SHOW, *command], environment())
    try:
        read_until(terminal, "ready")
        os.write(terminal, b"\x03")
        seen = read_until(terminal, "None")
        assert seen.count("got INT") == 1
        assert "ended 7 None" in seen
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP"])
def test_signal_to_the_guard_alone_is_passed_on(name: str) -> None:
    """Without a terminal, as in CI, nobody else would tell the command."""
    with beside(
        [sys.executable, "-c", SHOW, "sh", "-c", TRAP.format(name=name)],
        env=environment(),
        stdout=subprocess.PIPE,
        own_group=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.stdout.read() == f"got {name}\nended 7 None\n"


def test_signal_that_comes_while_the_command_is_started_is_passed_on() -> None:
    """The command may run, and somebody may want its end, before we know that it runs."""
    command = "trap 'exit 7' TERM; kill -TERM $PPID; while :; do sleep 0.01; done"
    often = "from pitr.cli.guarded_command import run_command as r\nimport sys\n" + (
        "print([r(sys.argv[1:], {}).code for _ in range(20)])"
    )
    with beside(
        [sys.executable, "-c", often, "sh", "-c", command],
        env=environment(),
        stdout=subprocess.PIPE,
        own_group=True,
    ) as process:
        assert process.communicate(timeout=60)[0] == f"{[7] * 20}\n"


def test_stopped_and_continued_command_goes_on() -> None:
    """Job control: Ctrl-Z stops both, and `fg` continues both."""
    words = [sys.executable, "-c", SHOW, "sh", "-c", "echo ready; sleep 0.3; echo on; exit 3"]
    with beside(words, env=environment(), stdout=subprocess.PIPE, own_group=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        os.killpg(process.pid, signal.SIGCONT)
        assert process.stdout.read() == "on\nended 3 None\n"
