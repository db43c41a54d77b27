"""What all commands share: help, exit codes, JSON errors, colours, pipes, terminals."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pitr.cli.main import cli
from tests.cli.commands import PITR, WAIT_SECONDS, environment, pitr, succeed, told
from tests.cli.conftest import Shop
from tests.processes import beside
from tests.test_docs import walk

EXIT_CODES = ("0", "1", "2", "3", "4", "5", "6", "7", "20", "70", "130")
LEAVES = {path: command for path, command in walk(cli) if not isinstance(command, click.Group)}


@pytest.mark.parametrize("path", dict(walk(cli)))
def test_help_ends_with_the_exit_codes(path: str) -> None:
    """Every --help lists all codes, whatever the command."""
    command, words = cli, path.split()[1:]
    with click.Context(cli, info_name="pitr") as context:
        for word in words:
            assert isinstance(command, click.Group)
            found = command.get_command(context, word)
            assert found is not None
            command = found
        shown = command.get_help(context)
    codes = [line.split()[0] for line in shown.partition("Exit codes:\n")[2].splitlines() if line]

    assert tuple(codes) == EXIT_CODES


def test_list_of_commands_is_not_cut_short(tmp_path: Path) -> None:
    """On 80 columns each command's line ends with a whole sentence."""
    shown = succeed(tmp_path, "--help").out.partition("Commands:\n")[2].partition("\n\n")[0]

    assert len(shown.splitlines()) == len(cli.commands)
    assert all(line.endswith(".") and "..." not in line for line in shown.splitlines()), shown


@pytest.mark.parametrize("path", sorted(LEAVES.keys() - {"pitr recoveries psql"}))
def test_command_takes_json(path: str) -> None:
    """--json on every command; only psql, which takes the terminal over, prints as it likes."""
    assert "--json" in {name for option in LEAVES[path].params for name in option.opts}


def test_version_starts_without_the_engine() -> None:
    """`pitr --version` imports no database library, no store and no time zones."""
    code = (
        "import sys; import pitr.cli.main; "
        "print(*({'apsw', 'obstore', 'zstandard', 'whenever'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)

    assert done.stdout == "\n"


def test_no_command_shows_the_help(tmp_path: Path) -> None:
    """Alone, pitr shows what there is, on stderr and with exit 2."""
    done = pitr(tmp_path)

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Usage: pitr [OPTIONS] COMMAND [ARGS]...\n")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("restor",), "no such command 'restor'. Did you mean 'restore'?"),
        (("log", "--limt", "3"), "no such option '--limt'. Did you mean '--limit'?"),
        (("log", "--limit", "0"), "invalid value for '--limit': 0 is not in the range x>=1"),
        (("sql", "--at", "latest"), "missing argument 'STATEMENT'"),
        (("restore", "--at", "latest"), "restore needs a table"),
        (("when", "-t", "orders"), "when needs either --gone or --changed"),
    ],
)
def test_usage_error_reads_like_all_errors(shop: Shop, words: tuple[str, ...], error: str) -> None:
    """Lower case, no full stop, a hint; with --json as a document on stderr."""
    text, document = pitr(shop.folder, *words), pitr(shop.folder, *words, "--json")

    assert (text.code, document.code, text.out, document.out) == (2, 2, "", "")
    assert told(text.err)[0].startswith(f"error: {error.partition('. ')[0]}")
    assert document.error["kind"] == "UsageError"
    assert document.error["message"].startswith(error.partition(". ")[0])
    assert document.error["hint"]


def test_reader_that_goes_away_is_no_error(shop: Shop) -> None:
    """`pitr sql … | head -1`: nothing on stderr but the echo, exit 0."""
    numbers = (
        "WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 200000) SELECT * FROM n"
    )
    with beside(
        [*PITR, "sql", "--at", "latest", numbers], cwd=shop.folder, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "i\n"
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(WAIT_SECONDS) == 0

    assert [line.split()[0] for line in errors.splitlines()] == ["last", "first"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_full_disk_under_the_output_is_told(shop: Shop) -> None:
    """What cannot be written is an error with exit 3, and no traceback."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*PITR, "status", "--json"], cwd=shop.folder, env=environment(),
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip

    assert done.returncode == 3
    assert '"detail": "No space left on device."' in done.stderr
    assert "Traceback" not in done.stderr


def on_terminal(folder: Path, *words: str, **changes: str) -> str:
    """Run a command whose stdout and stderr are one terminal; return what appears there."""
    main, far = pty.openpty()
    process = subprocess.Popen(
        [*PITR, *words], cwd=folder, env=environment(TERM="xterm", **changes),
        stdin=far, stdout=far, stderr=far,
    )  # fmt: skip
    os.close(far)
    seen = b""
    while chunk := _read(main):
        seen += chunk
    os.close(main)
    process.wait(WAIT_SECONDS)
    return seen.decode().replace("\r\n", "\n")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # how a terminal says that the other end is closed
        return b""


def test_terminal_gets_colours_and_tables(shop: Shop) -> None:
    """On a terminal errors are coloured and rows aligned; control characters are escaped."""
    error = on_terminal(shop.folder, "restore", "-t", "orders", "--at", "now")
    statement = "SELECT 1 AS one, 'a' || char(27) || 'b' AS text"
    rows = on_terminal(shop.folder, "sql", "--at", "latest", statement)

    assert error.startswith("\x1b[31m\x1b[1merror:\x1b[0m target is not understood: 'now'\n")
    assert rows.endswith("one  text\n---  ------\n  1  a\\x1bb\n")


def test_no_color_is_honoured_on_a_terminal(shop: Shop) -> None:
    """NO_COLOR: the same text without colours."""
    words = ("restore", "-t", "orders", "--at", "now")
    seen = on_terminal(shop.folder, *words, NO_COLOR="1")

    assert "\x1b" not in seen
    assert seen.startswith("error: target is not understood: 'now'\n")
    assert "\x1b" not in on_terminal(shop.folder, "check", NO_COLOR="1")
    assert "\x1b" not in pitr(shop.folder, "check").out


def test_path_that_is_not_utf8_can_be_told(tmp_path: Path) -> None:
    """A file name of other bytes is shown escaped; nothing breaks over it."""
    done = pitr(tmp_path, "init", os.fsdecode(b"caf\xe9.db"), "--archive", "archive")

    assert done.code == 3
    assert told(done.err)[0] == f"error: {tmp_path}/caf\\udce9.db cannot be captured"


def test_zone_that_is_none_falls_back_to_utc(shop: Shop) -> None:
    """A wrong TZ spoils local targets, which it says, and no command besides."""
    assert "(UTC)" in succeed(shop.folder, "log", TZ="Mars/Olympus").out
    done = pitr(shop.folder, "sql", "--at", "2026-11-22 14:03", "SELECT 1", TZ="Mars/Olympus")
    assert told(done.err)[0] == "error: the time zone of this machine is not known"


def test_demo_ends_with_the_rows_brought_back(tmp_path: Path) -> None:
    """The whole story runs on a throw-away database, and leaves nothing behind."""
    changes = {"TMPDIR": str(tmp_path), "PITR_ARCHIVE": "elsewhere", "PITR_SOURCE": "none"}
    done = succeed(tmp_path, "demo", "--json", **changes)
    [table] = done.json["tables"]
    [change] = done.json["transaction"]["tables"]

    assert table["table"] == change["table"] == "orders"
    assert table["rows"] == change["deleted"] >= 20_000
    assert done.json["merge"]["inserted"] == change["deleted"]
    assert done.json["undo"]["deleted"] > 0
    assert done.err.count("$ pitr undo m-") == 2
    counted = dict(line.split("|") for line in done.err.splitlines() if line.count("|") == 1)
    assert int(counted["open"]) + int(counted["paid"]) >= change["deleted"]
    assert not list(tmp_path.iterdir())
