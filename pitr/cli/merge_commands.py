"""plan, merge, undo: what would be written, writing it, and taking it back."""

from __future__ import annotations

import json
import shlex
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from pitr.cli.options import json_option, quantity, settings_of, source_options
from pitr.cli.render import SCHEMA, emit, emit_json, json_value, note, table_text, text_value
from pitr.cli.settled import report_settled
from pitr.config import Settings
from pitr.errors import ConfirmationNeeded, Corrupt, Interrupted, PreconditionFailed, UsageError
from pitr.operations.merge import LOCK_SECONDS, MergeResult, MergeWish
from pitr.operations.merge import merge as merge_recovery
from pitr.operations.plan import PlanWish, plan_recovery
from pitr.operations.undo import UndoWish
from pitr.operations.undo import undo as undo_merge
from pitr.target_text import format_time
from pitr.vocabulary.event import Event
from pitr.vocabulary.plan import (
    Blocker,
    MergeMarks,
    MergeOptions,
    MergeStep,
    Plan,
    SavedPlan,
    blocker_document,
    plan_document,
    read_saved_plan,
    table_document,
)
from pitr.vocabulary.quantity import parse_duration_us
from pitr.vocabulary.row_class import TREATMENTS, Action, ConflictPolicy

F = TypeVar("F", bound=Callable[..., Any])
_KEYS_SHOWN = 5


# --- options -------------------------------------------------------------------------------------


def _how_options(function: F) -> F:
    """Add the options that say how a recovery is merged."""
    for option in reversed(
        (
            click.option(
                "-t", "--table", "tables", multiple=True, metavar="TABLE", help="A table of the "
                "recovery, or several by * and ?; repeatable. All of them without it.",
            ),
            click.option(
                "--on-conflict",
                type=click.Choice([policy.value for policy in ConflictPolicy]),
                help="What to do with rows in conflict: write nothing at all (abort, the default), "
                "leave those rows aside (skip), or put the old values in (overwrite).",
            ),
            click.option(
                "--update", is_flag=True, help="Also set back rows that differ, damaged or not."
            ),
            click.option(
                "--delete-extra", is_flag=True, help="Also delete rows that the damage put in."
            ),
            click.option(
                "--with-parents", is_flag=True, help="Also bring back missing rows that foreign "
                "keys name, out of the archive.",
            ),
            click.option(
                "--with-children", is_flag=True, help="Also bring back rows that went by ON DELETE "
                "CASCADE, or forgot their parent.",
            ),
            click.option(
                "--create-missing", is_flag=True, help="Make tables that are gone, as they were."
            ),
            click.option(
                "--set", "set_columns", multiple=True, metavar="COLUMN=SQL", help="The value of a "
                "column that was added since, over the columns of the row; repeatable.",
            ),
            click.option(
                "--max-rows", type=click.IntRange(min=0), metavar="N", help="Write nothing when it "
                "would be more rows than this.",
            ),
        )
    ):  # fmt: skip
        function = option(function)
    return function


def _writing_options(function: F) -> F:
    """Add the options of every command that writes to the live database."""
    for option in (
        click.option(
            "--lock-timeout",
            default=f"{LOCK_SECONDS:.0f}s",
            show_default=True,
            metavar="DURATION",
            help="How long to wait for other writers.",
        ),
        click.option(
            "--statement-timeout",
            metavar="DURATION",
            help="How long each statement may take (PostgreSQL). No limit without it.",
        ),
        click.option("--yes", is_flag=True, help="Write without asking."),
    ):
        function = option(function)
    return function


def merge_options(chosen: dict[str, Any]) -> MergeOptions:
    """Return the options of a merge from those of the command line. Raises UsageError."""
    return MergeOptions(
        on_conflict=ConflictPolicy(chosen["on_conflict"] or ConflictPolicy.ABORT),
        update=chosen["update"],
        delete_extra=chosen["delete_extra"],
        with_parents=chosen["with_parents"],
        with_children=chosen["with_children"],
        create_missing=chosen["create_missing"],
        set_columns=tuple(map(_set_column, chosen["set_columns"])),
        max_rows=chosen["max_rows"],
    )


def _set_column(text: str) -> tuple[str, str]:
    column, sign, expression = text.partition("=")
    if not (column.strip() and sign and expression.strip()):
        raise UsageError(
            f"--set {text} is not understood",
            hint="Give a column and an SQL expression: --set status=\"'open'\"",
        )
    return column.strip(), expression.strip()


def _seconds(option: str, text: str) -> float:
    return quantity(option, text, parse_duration_us, "10s") / 1_000_000


def _limits(lock_timeout: str, statement_timeout: str | None) -> dict[str, float]:
    """Return what a wish says of waiting. Raises UsageError."""
    found = {"lock_seconds": _seconds("--lock-timeout", lock_timeout)}
    if statement_timeout is not None:
        found["statement_seconds"] = _seconds("--statement-timeout", statement_timeout)
    return found


def _report(event: Event) -> None:
    note(f"{event.message}: {event.detail}" if event.detail else event.message)


# --- commands ------------------------------------------------------------------------------------


@click.command()
@click.argument("recovery_id", required=False, metavar="[ID]")
@_how_options
@click.option("-o", "--output", metavar="FILE", help="Write the plan to a file, as JSON or SQL.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "sql"]),
    help="How to show the plan: text on the screen, JSON in a file, unless asked otherwise.",
)
@source_options
@json_option
def plan(
    recovery_id: str | None,
    tables: tuple[str, ...],
    output: str | None,
    form: str | None,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    as_json: bool,
    **how: Any,
) -> None:
    """Show what merging a recovery would do.

    Counts, conflicts, warnings and SQL. ID is a recovery; the newest is meant without it. Nothing
    is written. A plan saved with -o can be looked at, and run with 'pitr merge --plan FILE' as
    long as nothing has moved.
    """
    settings = settings_of(config, source, archive)
    report_settled(settings)
    wish = PlanWish(recovery_id=recovery_id, tables=tables, options=merge_options(how))
    found = plan_recovery(settings, wish)
    form = "json" if as_json else form or ("json" if output else "text")
    text = {"text": _plan_text, "json": _plan_json, "sql": _plan_sql}[form](found)
    if output is None:
        emit(text.rstrip("\n"))
        return
    try:
        Path(output).write_text(text)
    except OSError as error:
        raise PreconditionFailed(f"cannot write {output}", detail=f"{error.strerror}.") from None
    note(f"wrote {output}")


@click.command()
@click.argument("recovery_id", required=False, metavar="[ID]")
@click.option("--plan", "plan_file", metavar="FILE", help="Run this saved plan, and no other.")
@_how_options
@_writing_options
@source_options
@json_option
def merge(
    recovery_id: str | None,
    plan_file: str | None,
    tables: tuple[str, ...],
    lock_timeout: str,
    statement_timeout: str | None,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    yes: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Bring the rows of a recovery back, in one transaction.

    ID is a recovery; the newest is meant without it. Shows what it would do, asks, and writes all
    of it or nothing. 'pitr undo' takes it back.
    """
    settings = settings_of(config, source, archive)
    report_settled(settings)
    if plan_file and (recovery_id or tables or any(how.values())):
        raise UsageError(
            "a saved plan says by itself what is merged and how",
            hint=f"Run 'pitr merge --plan {shlex.quote(plan_file)}' without other options.",
        )
    wish = MergeWish(
        recovery_id=recovery_id,
        tables=tables,
        options=merge_options(how),
        saved=_read_plan(plan_file) if plan_file else None,
        is_agreed=yes,
        report=_report,
        **_limits(lock_timeout, statement_timeout),
    )
    emit_result(merge_now(settings, wish, yes=yes), as_json=as_json)


def merge_now(settings: Settings, wish: MergeWish, *, yes: bool) -> MergeResult:
    """Merge a recovery, asking first unless `yes`, and return what came of it."""
    return merge_recovery(settings, wish, confirm=_confirming("merge", yes=yes), on_step=_on_step)


@click.command()
@click.argument("merge_id", metavar="MERGE")
@click.option(
    "--on-conflict",
    type=click.Choice([ConflictPolicy.ABORT.value, ConflictPolicy.SKIP.value]),
    default=ConflictPolicy.ABORT.value,
    show_default=True,
    help="What to do when rows were changed since: nothing at all, or leave those rows aside.",
)
@_writing_options
@source_options
@json_option
def undo(
    merge_id: str,
    on_conflict: str,
    lock_timeout: str,
    statement_timeout: str | None,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Take a merge back, in one transaction, under the same rules.

    Rows that were changed after the merge are conflicts and never overwritten.
    """
    settings = settings_of(config, source, archive)
    report_settled(settings)
    wish = UndoWish(
        merge_id=merge_id,
        on_conflict=ConflictPolicy(on_conflict),
        is_agreed=yes,
        report=_report,
        **_limits(lock_timeout, statement_timeout),
    )
    confirm = _confirming("undo", yes=yes)
    emit_result(undo_merge(settings, wish, confirm=confirm, on_step=_on_step), as_json=as_json)


def _read_plan(path: str) -> SavedPlan:
    try:
        return read_saved_plan(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}", detail=f"{error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise Corrupt(
            f"{path} is no plan", detail=f"{error}.", hint="Make one with 'pitr plan -o FILE'."
        ) from None


def _on_step(step: MergeStep) -> None:
    if step is not MergeStep.NOTED and sys.stderr.isatty():
        note(f"… {step}")


# --- asking --------------------------------------------------------------------------------------


def require_agreement(verb: str, *, yes: bool) -> None:
    """Raise ConfirmationNeeded when nobody has agreed and nobody can be asked."""
    if yes or (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    raise ConfirmationNeeded(
        f"{verb} was not confirmed; nothing was written",
        detail="There is no terminal to ask on.",
        hint=f"Run: {shlex.join(['pitr', *sys.argv[1:], '--yes'])}",
    )


def _confirming(verb: str, *, yes: bool) -> Callable[[Plan], None]:
    """Return what shows a plan and lets nothing pass that was not agreed to."""

    def confirm(found: Plan) -> None:
        for line in _head_lines(found):
            note(line)
        require_agreement(verb, yes=yes)
        if not yes and not click.confirm(f"{verb.capitalize()} now?", err=True):
            raise Interrupted(f"{verb} was not confirmed; nothing was written")

    return confirm


def _head_lines(found: Plan) -> list[str]:
    counted = found.actions
    parts = [f"{counted[a]} rows to {a}" for a in (Action.INSERT, Action.UPDATE, Action.DELETE)]
    skipped = counted[Action.SKIP]
    lines = [
        f"host      {socket.gethostname()}",
        f"database  {found.source}",
        f"target    {found.target}",
        f"rows      {', '.join(parts)}, {skipped} left aside",
    ]
    if found.definitions:
        lines.append(
            f"makes     what is gone, by {len(found.definitions)} statements that 'plan' shows"
        )
    if found.options.on_conflict is ConflictPolicy.SKIP and skipped:
        lines.append("warning: rows are left aside, so this is not all of the target or nothing")
    return lines + [f"warning: {warning}" for warning in found.warnings]


# --- the plan ------------------------------------------------------------------------------------


def _plan_text(found: Plan) -> str:
    parts = [
        f"plan of {found.recovery}",
        f"database     {found.source}",
        f"target       {found.target}",
        f"fingerprint  {found.fingerprint}",
        "",
        table_text(["table", "class", "rows", "what it means"], _count_rows(found)),
        "",
        table_text(["table", "insert", "update", "delete", "left aside"], _action_rows(found)),
    ]
    if found.definitions:
        lines = [line for text in found.definitions for line in text.splitlines() if line]
        parts += ["", "makes:", *(f"  {line}" for line in lines)]
    if found.estimate is not None and found.has_work:
        parts += ["", *found.estimate.sentences()]
    parts += _blocker_lines(found.blockers)
    parts += [f"warning: {warning}" for warning in found.warnings]
    if found.blocking:
        parts.append("\nThis cannot be merged as it is: see the conflicts above.")
    elif not found.has_work:
        parts.append("\nThere is nothing to do.")
    return "\n".join(parts) + "\n"


def _count_rows(found: Plan) -> list[list[object]]:
    return [
        [table.table, row_class, count, TREATMENTS[row_class].meaning]
        for table in found.tables
        for row_class, count in table.counts.items()
    ]


def _action_rows(found: Plan) -> list[list[object]]:
    actions = (Action.INSERT, Action.UPDATE, Action.DELETE, Action.SKIP)
    return [[t.table, *(t.actions.get(action, 0) for action in actions)] for t in found.tables]


def _blocker_lines(blockers: Sequence[Blocker]) -> list[str]:
    if not blockers:
        return []
    lines = ["", "conflicts:"]
    for one in blockers:
        lines.append(f"  {one.kind} ({one.resolution}): {one.rows} rows of {one.table}")
        lines.append(f"    {one.detail}")
        held_by = one.held_by or ((),) * len(one.keys)
        for key, holder in list(zip(one.keys, held_by, strict=True))[:_KEYS_SHOWN]:
            beside = f"  held by {_key_text(one.key_columns, holder)}" if holder else ""
            lines.append(f"    {_key_text(one.key_columns, key)}{beside}")
        if one.rows > _KEYS_SHOWN and one.keys:
            lines.append("    …")
    return [*lines, ""]


def _key_text(names: Sequence[str], key: Sequence[object]) -> str:
    pairs = zip(names, key, strict=True)
    return ", ".join(f"{name} = {text_value(value)}" for name, value in pairs)


def _plan_json(found: Plan) -> str:
    document = {"schema": SCHEMA, **plan_document(found, time_text=format_time)}
    return json.dumps(_json_ready(document), indent=2, ensure_ascii=False) + "\n"


def _json_ready(value: object) -> object:
    """Return a document whose values JSON can carry without loss."""
    if isinstance(value, dict):
        return {name: _json_ready(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(one) for one in value]
    return json_value(value)


def _plan_sql(found: Plan) -> str:
    if found.script is not None:
        return found.script
    detail = "It has conflicts." if found.blocking else "It has too many rows to be written out."
    raise UsageError(
        "the plan cannot be shown as SQL",
        detail=detail,
        hint="Run 'pitr plan' to see it; 'pitr merge' runs it.",
    )


# --- the outcome ---------------------------------------------------------------------------------


def emit_result(found: MergeResult, *, as_json: bool) -> None:
    """Print what a merge or an undo came to, and end with 1 when something was in the way."""
    if as_json:
        emit_json(result_document(found))
    else:
        _emit_result_text(found)
    if found.plan.blocking:
        click.get_current_context().exit(1)


def _undo_line(merge_id: str | None) -> str | None:
    return None if merge_id is None else f"pitr undo {merge_id} --yes"


def result_document(found: MergeResult) -> dict[str, object]:
    """Return a merge or an undo under the keys that scripts rely on."""
    return {
        "merge": found.merge,
        "recovery": found.plan.recovery,
        "inserted": found.inserted,
        "updated": found.updated,
        "deleted": found.deleted,
        "skipped": found.skipped,
        "undo": _undo_line(found.merge),
        "counts": {str(name): count for name, count in found.plan.counts.items()},
        "tables": [table_document(one, time_text=format_time) for one in found.plan.tables],
        "conflicts": [_json_ready(blocker_document(one)) for one in found.plan.blockers],
        "warnings": [*found.plan.warnings, *found.warnings],
        "locked_seconds": found.locked_seconds,
        "marks": None if found.marks is None else asdict(found.marks),
    }


def _emit_result_text(found: MergeResult) -> None:
    for line in _blocker_lines(found.plan.blockers):
        emit(line)
    if found.plan.blocking:
        emit("nothing was written: rows are in conflict; --on-conflict skip leaves them aside")
        return
    if found.merge is None:
        emit("nothing to do")
        return
    emit(f"merge     {found.merge}")
    counted = f"{found.inserted} inserted, {found.updated} updated, {found.deleted} deleted"
    emit(f"rows      {counted}, {found.skipped} left aside")
    emit(f"locked    {found.locked_seconds:.3f} s")
    emit(f"undo      {_undo_line(found.merge)}")
    for line in _mark_lines(found.marks):
        emit(line)
    for warning in found.warnings:
        note(f"warning: {warning}")


def _mark_lines(marks: MergeMarks | None) -> list[str]:
    if marks is None or marks == MergeMarks():  # a warning says why
        return []
    if marks.before is None:
        return [f"marks     none: {marks.note}"]
    lines = [f"before    name:{marks.before}", f"after     name:{marks.after}"]
    return [*lines, f"note      {marks.note}"] if marks.note else lines
