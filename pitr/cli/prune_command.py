"""prune: show what a policy drops, and drop it."""

from __future__ import annotations

import click

from pitr.cli.options import json_option, quantity, settings_of, source_options
from pitr.cli.render import (
    bytes_text,
    count_text,
    emit,
    emit_json,
    note,
    table_text,
    time_cell,
)
from pitr.errors import UsageError
from pitr.operations.prune import PruneOutcome, PruneWish
from pitr.operations.prune import prune as prune_archive
from pitr.target_text import format_time
from pitr.vocabulary.quantity import parse_duration_us


@click.command()
@click.option("--keep", metavar="DURATION", help="Every target of so long stays: 30d, 12h.")
@click.option(
    "--keep-bases",
    type=click.IntRange(min=1),
    metavar="N",
    help="All that the newest N bases lead to stays.",
)
@click.option(
    "--keep-marks/--drop-marks",
    default=True,
    help="Older states that marks name stay too (so without either), or go with their marks.",
)
@click.option("--yes", "is_confirmed", is_flag=True, help="Drop it, not only show it.")
@source_options
@json_option
def prune(
    keep: str | None,
    keep_bases: int | None,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    keep_marks: bool,
    is_confirmed: bool,
    as_json: bool,
) -> None:
    """Drop what the policy no longer needs; see it first.

    Never what a kept target needs.

    Without --yes it only shows what would go. With --keep and --keep-bases together what either
    keeps is kept. May run beside a capture, a backup and readers; killed anywhere, it has lost
    nothing that is kept, and the next one removes what it left.
    """
    wish = PruneWish(
        keep_us=None if keep is None else quantity("--keep", keep, parse_duration_us, "30d"),
        keep_bases=keep_bases,
        keep_marks=keep_marks,
    )
    if wish.keep_us is None and wish.keep_bases is None:
        raise UsageError(
            "no policy is given",
            hint="Say what is to be kept: '--keep 30d', '--keep-bases 4', or both.",
        )
    settings = settings_of(config, source, archive)
    outcome = prune_archive(settings, wish, is_confirmed=is_confirmed)
    if as_json:
        emit_json(_document(outcome))
    else:
        _show(outcome)


def _document(outcome: PruneOutcome) -> dict[str, object]:
    return {
        "done": outcome.done,
        "keep_from": format_time(outcome.from_us) if outcome.from_us else None,
        "position": outcome.position,
        "kept_marks": list(outcome.kept_marks),
        "dropped_marks": list(outcome.dropped_marks),
        "dropped": [
            {"kind": item.kind, "objects": item.objects, "bytes": item.bytes}
            for item in outcome.dropped
        ],
        "objects": sum(item.objects for item in outcome.dropped),
        "bytes": sum(item.bytes for item in outcome.dropped),
        "written_bytes": outcome.written_bytes,
        "notes": list(outcome.notes),
    }


def _show(outcome: PruneOutcome) -> None:
    if outcome.from_us:
        emit(f"kept     every target from {time_cell(outcome.from_us)} on")
    else:
        emit("kept     everything: there are no more bases than that")
    if outcome.position:
        emit(f"first    {outcome.position}")
    if outcome.kept_marks:
        emit(f"marks    kept: {', '.join(outcome.kept_marks)}")
    if outcome.dropped_marks:
        emit(f"marks    {_went(outcome)}: {', '.join(outcome.dropped_marks)}")
    objects = sum(item.objects for item in outcome.dropped)
    freed = bytes_text(sum(item.bytes for item in outcome.dropped))
    emit(f"{_went(outcome).ljust(8)} {count_text(objects, 'object')}, {freed}")
    if outcome.dropped:
        rows = [[item.kind, str(item.objects), bytes_text(item.bytes)] for item in outcome.dropped]
        emit(table_text(["of", "objects", "bytes"], rows))
    if outcome.written_bytes:
        emit(f"written  {bytes_text(outcome.written_bytes)}: what later states need of them")
    for text in outcome.notes:
        note(f"note: {text}")
    if objects and not outcome.done:
        note("nothing was done; the same with --yes does it")


def _went(outcome: PruneOutcome) -> str:
    return "dropped" if outcome.done else "to drop"
