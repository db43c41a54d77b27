"""guard: a command between two marks with a report of what it cost; SQL looked at beforehand."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

import click

from pitr.cli.guard_check import check
from pitr.cli.guard_limits import limit_options, limits_of, losses_text
from pitr.cli.guarded_command import runner
from pitr.cli.merge_commands import emit_result, merge_now, result_document
from pitr.cli.options import Group, json_option, settings_of, source_options
from pitr.cli.past import echo_target
from pitr.cli.progress import Reporter
from pitr.cli.render import count_text, emit, emit_json, note
from pitr.config import Settings
from pitr.errors import ArchiveLacks, PitrError, PreconditionFailed
from pitr.operations.guard_losses import GuardRepair
from pitr.operations.guard_run import GuardOutcome, guard_run
from pitr.operations.merge import MergeResult, MergeWish
from pitr.operations.restore import RestoreRequest, restore
from pitr.operations.revert import RevertRequest, revert
from pitr.vocabulary.plan import MergeOptions

_COMMAND_FAILED, _LIMIT_PASSED = 20, 1


@click.group(cls=Group)
def guard() -> None:
    """Guard a migration: know what it destroys.

    Before it runs or after it, and how to bring the rows back.
    """


guard.add_command(check)


@guard.command("run", context_settings={"allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@limit_options
@click.option(
    "--auto-repair", is_flag=True, help="When a limit is passed, bring back what was lost."
)
@click.option(
    "--window",
    "by_window",
    is_flag=True,
    help="Take all that was committed between the marks for the command's doing.",
)
@source_options
@json_option
def run(
    command: tuple[str, ...],
    max_deleted: int | None,
    forbid: str | None,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    auto_repair: bool,
    by_window: bool,
    as_json: bool,
) -> None:
    """Run a command between two marks, and report the rows it cost.

    First the archive is proven current: else this ends with 3 and nothing was run. The command has
    the terminal and gets the signals as if it ran alone. Then it is told what its transactions
    inserted, updated, deleted, truncated, dropped and rewrote, and the one line that repairs it.
    Works around anything: psql, Alembic, Django, Flyway, a shell script.

    On PostgreSQL its transactions are told from others by a stamp that PGOPTIONS puts on their
    commits (synchronous_commit=remote_apply); where that cannot be, and on SQLite, by the window
    between the marks.
    """
    run_it = runner(command)
    limits = limits_of(max_deleted, forbid)
    settings = settings_of(config, source, archive)
    report = Reporter(as_json=as_json).report
    found = guard_run(settings, limits, run_it, report, by_window=by_window)
    places = _places(config, source, archive)
    repaired = _repaired(settings, found, auto_repair=auto_repair, as_json=as_json)
    if as_json:
        emit_json(_document(found, repaired, places))
    else:
        _emit(found, repaired, places)
    if found.fault is not None:
        note(f"warning: {_unproven(found.fault)}")
    code = _exit_code(found)
    if code:
        click.get_current_context().exit(code)


def _places(config: str | None, source: str | None, archive: str | None) -> tuple[str, ...]:
    """Return the options that lead another command to the same source and archive."""
    given = (("--config", config), ("--source", source), ("--archive", archive))
    return tuple(word for name, value in given if value is not None for word in (name, value))


def _exit_code(found: GuardOutcome) -> int:
    if found.passed:
        return _LIMIT_PASSED
    if found.end.code:
        return _COMMAND_FAILED
    return 0 if found.fault is None else ArchiveLacks.exit_code


# --- repairing -----------------------------------------------------------------------------------


def _repaired(
    settings: Settings, found: GuardOutcome, *, auto_repair: bool, as_json: bool
) -> MergeResult | PitrError | None:
    """Bring back what was lost when a limit was passed and somebody agrees.

    Returns why that failed, when it did; None when it was not tried.
    """
    if not found.passed or found.repair is None:
        return None
    if not auto_repair:
        if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return None
        _emit_tables(found)
        for sentence in found.passed:
            note(f"limit passed: {sentence}")
        if not click.confirm(f"Run 'pitr {shlex.join(found.repair.words)}' and merge?", err=True):
            return None
    elif found.doubt is not None:
        return PreconditionFailed(
            "work of others may be among it",
            detail=found.doubt,
            hint="With --window all between the marks is taken for the command's.",
        )
    try:
        return _repair(settings, found.repair)
    except PitrError as error:
        return error


def _repair(settings: Settings, repair: GuardRepair) -> MergeResult:
    if repair.transaction is not None:
        wanted = RevertRequest(transaction=repair.transaction, tables=repair.tables, compare=False)
        recovery = revert(settings, wanted, on_target=echo_target).restored.recovery
    else:
        request = RestoreRequest(
            tables=repair.tables, target=repair.at, until=repair.until, compare=False
        )
        recovery = restore(settings, request, on_target=echo_target).recovery
    options = MergeOptions(create_missing=True)
    wish = MergeWish(recovery_id=recovery.id, options=options, is_agreed=True)
    result = merge_now(settings, wish, yes=True)
    there = tuple(table for table in repair.tables if table not in repair.dropped)
    if not (result.plan.blocking and repair.dropped and there):
        return result
    # A table that cannot be made again keeps its rows in the sidecar; the others go back.
    note(f"not repaired: {', '.join(repair.dropped)}, which the sidecar of {recovery.id} has")
    return merge_now(settings, replace(wish, tables=there), yes=True)


# --- telling -------------------------------------------------------------------------------------


def _unproven(fault: PitrError) -> str:
    detail = f" {fault.detail}" if fault.detail else ""
    return f"what the command did is not proven to be archived: {fault.message}.{detail}"


def _repair_line(repair: GuardRepair | None, places: Sequence[str]) -> str | None:
    return None if repair is None else shlex.join(["pitr", *repair.words, *places])


def _document(
    found: GuardOutcome, repaired: MergeResult | PitrError | None, places: Sequence[str]
) -> dict[str, object]:
    fault = found.fault or (repaired if isinstance(repaired, PitrError) else None)
    return {
        "before": f"name:{found.before.name}",
        "after": None if found.after is None else f"name:{found.after.name}",
        "exit_code": found.end.code,
        "signal": found.end.signal,
        "tables": [asdict(loss) for loss in found.tables],
        "repair": _repair_line(found.repair, places),
        "attributed_by": found.by,
        "doubt": found.doubt,
        "other_transactions": len(found.others),
        "limits_passed": list(found.passed),
        "repaired": result_document(repaired) if isinstance(repaired, MergeResult) else None,
        "fault": None if fault is None else fault.message,
    }


def _emit(
    found: GuardOutcome, repaired: MergeResult | PitrError | None, places: Sequence[str]
) -> None:
    emit()
    ended = f"exit code {found.end.code}" + (f", {found.end.signal}" if found.end.signal else "")
    emit(f"command   {ended}")
    emit(f"before    name:{found.before.name}")
    if found.after is None:
        emit("after     not archived: what the command did to the tables is not known")
        emit(f"to go back  pitr restore -t TABLE --at name:{found.before.name}")
        return
    emit(f"after     name:{found.after.name}")
    _emit_tables(found)
    for sentence in found.passed:
        emit(f"limit passed: {sentence}")
    line = _repair_line(found.repair, places)
    if line is not None:
        emit(f"to bring it back:  {line}")
    if isinstance(repaired, MergeResult):
        emit("\nrepaired:")
        emit_result(repaired, as_json=False)
    elif repaired is not None:
        note(f"not repaired: {repaired.sentence}")
        if repaired.advice:
            note(f"hint: {repaired.advice}")


def _emit_tables(found: GuardOutcome) -> None:
    emit("\n" + losses_text(found.tables) + ("\n" if found.tables else ""))
    if found.tables and found.doubt is not None:
        emit(f"counted: all that was committed between the marks. {found.doubt}")
    if found.others:
        counted = count_text(len(found.others), "transaction")
        emit(f"not counted: {counted} of others between the marks")
