"""The entry point: the command tree and the error boundary."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any, NoReturn

import click

from pitr import __version__
from pitr.cli import archive_commands, demo, past, recoveries, source
from pitr.cli.options import Group
from pitr.cli.render import emit_error, note
from pitr.errors import Interrupted, PitrError, UsageError


@click.group(cls=Group)
@click.version_option(__version__, prog_name="pitr")
def cli() -> None:
    """Get exactly the lost rows back.

    pitr captures every change of a database all along, brings chosen tables back as they were
    at a moment, into a sidecar beside the live database, and shows what differs. Nothing is
    installed in production.
    """


for command in (
    source.init, source.check, archive_commands.backup, archive_commands.capture,
    archive_commands.detach, archive_commands.status, archive_commands.mark, past.log, past.when,
    past.sql, past.restore, recoveries.recoveries, archive_commands.verify, source.config,
    archive_commands.debug, demo.demo,
):  # fmt: skip
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code of the outcome."""
    words = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in words[: words.index("--")] if "--" in words else "--json" in words
    sys.exit(_run(words, as_json=as_json))


def _run(words: list[str], *, as_json: bool) -> int:
    try:
        outcome: Any = cli.main(args=words, prog_name="pitr", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.UsageError as error:
        emit_error(_usage(error), as_json=as_json)
        return UsageError.exit_code
    except click.ClickException as error:
        emit_error(UsageError(error.format_message()), as_json=as_json)
        return UsageError.exit_code
    except (KeyboardInterrupt, click.Abort):
        emit_error(Interrupted("interrupted"), as_json=as_json)
        return Interrupted.exit_code
    except PitrError as error:
        emit_error(error, as_json=as_json)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output went away, as `head` does: no fault of ours, nothing to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        note(traceback.format_exc().rstrip())
        note("this is a bug in pitr: please report it with the lines above")
        return PitrError.exit_code
    return outcome if isinstance(outcome, int) else 0


def _usage(error: click.UsageError) -> UsageError:
    path = error.ctx.command_path if error.ctx else "pitr"
    message = error.format_message().rstrip(".")
    return UsageError(message[:1].lower() + message[1:], hint=f"See '{path} --help'.")
