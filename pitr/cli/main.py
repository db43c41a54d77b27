"""The entry point: the command tree and the error boundary."""

from __future__ import annotations

import io
import os
import sys
import traceback
from typing import NoReturn

import click

from pitr import __version__
from pitr.cli.options import EXIT_CODES, Group, LazyCommands
from pitr.cli.render import emit_error, note
from pitr.errors import Interrupted, PitrError, PreconditionFailed, UsageError

COMMANDS = LazyCommands(
    {
        "init": "pitr.cli.source:init",
        "check": "pitr.cli.source:check",
        "backup": "pitr.cli.backup_command:backup",
        "capture": "pitr.cli.archive_commands:capture",
        "wal-push": "pitr.cli.wal_push:wal_push",
        "detach": "pitr.cli.archive_commands:detach",
        "status": "pitr.cli.archive_commands:status",
        "mark": "pitr.cli.archive_commands:mark",
        "log": "pitr.cli.past:log",
        "when": "pitr.cli.past:when",
        "sql": "pitr.cli.past:sql",
        "restore": "pitr.cli.restore_command:restore",
        "revert": "pitr.cli.revert_command:revert",
        "recoveries": "pitr.cli.recoveries:recoveries",
        "diff": "pitr.cli.diff_command:diff",
        "plan": "pitr.cli.merge_commands:plan",
        "merge": "pitr.cli.merge_commands:merge",
        "undo": "pitr.cli.merge_commands:undo",
        "guard": "pitr.cli.guard_command:guard",
        "verify": "pitr.cli.verify_command:verify",
        "prune": "pitr.cli.prune_command:prune",
        "key": "pitr.cli.key_commands:key",
        "config": "pitr.cli.source:config",
        "debug": "pitr.cli.debug:debug",
        "demo": "pitr.cli.demo:demo",
    }
)


@click.group(cls=Group, commands=COMMANDS, epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="pitr")
def cli() -> None:
    """Get exactly the lost rows back.

    pitr captures every change of a database all along, brings chosen tables back as they were
    at a moment, into a sidecar beside the live database, and shows what differs. Nothing is
    installed in production.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code of the outcome."""
    words = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path need not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    as_json = "--json" in (words[: words.index("--")] if "--" in words else words)
    try:
        code = _run(words)
    except BrokenPipeError:
        # The reader of our output went away, as `head` does: no fault of ours, nothing to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except click.exceptions.NoArgsIsHelpError as error:
        note(error.format_message())
        code = UsageError.exit_code
    except BaseException as error:
        told = _told(error)
        emit_error(told, as_json=as_json)
        code = told.exit_code
    # `python -m pitr` would end by SIGINT, whatever is returned, if a Ctrl-C had gone through the
    # exec() of a text, as when a module with dataclasses is imported late. Another text makes
    # Python forget that (run_eval_code_obj in Python/pythonrun.c, 3.11 to 3.13).
    exec("")
    sys.exit(code)


def _run(words: list[str]) -> int:
    """Run the command. Not by click's own `main`, which has its own ideas of closed pipes."""
    try:
        with cli.make_context("pitr", words) as context:
            cli.invoke(context)
    except click.exceptions.Exit as leave:
        sys.stdout.flush()
        return leave.exit_code
    sys.stdout.flush()
    return 0


def _told(error: BaseException) -> PitrError:
    """Return what to tell the user, whatever happened."""
    match error:
        case PitrError():
            return error
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else "pitr"
            message = error.format_message().rstrip(".")
            return UsageError(message[:1].lower() + message[1:], hint=f"See '{path} --help'.")
        case click.ClickException():
            return UsageError(error.format_message())
        case KeyboardInterrupt() | click.Abort():
            return Interrupted("interrupted")
        case OSError():
            name = f": {error.filename}" if error.filename else ""
            return PreconditionFailed(
                f"the operating system refused{name}",
                detail=f"{error.strerror or error}.",
                hint="Mend that, then run the command again.",
            )
    return PitrError(
        "this is a bug in pitr",
        detail="".join(traceback.format_exception(error)).rstrip(),
        hint="Please report it with the lines above.",
    )
