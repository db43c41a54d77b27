"""verify: read every archived object again, and say what is damaged, lost and recoverable."""

from __future__ import annotations

from dataclasses import asdict

import click

from pitr.cli.options import json_option, quantity, settings_of, source_options
from pitr.cli.progress import Reporter
from pitr.cli.render import bytes_text, count_text, emit, emit_json, table_text
from pitr.errors import UsageError
from pitr.operations.drill import DrillOutcome, DrillWish, drill_and_record, new_seed
from pitr.operations.verify import VerifyOutcome, verify_and_record
from pitr.vocabulary.event import Event, Level
from pitr.vocabulary.quantity import parse_size_bytes

_LEFTOVERS_MAX = 5


@click.command()
@click.option("--drill", "is_drill", is_flag=True, help="Restore tables as well, and compare them.")
@click.option(
    "-t", "--table", "tables", metavar="TABLE", multiple=True, help="Drill this table; repeatable."
)
@click.option("--seed", type=click.IntRange(0), help="Choose the drill's target by this number.")
@click.option(
    "--whole-up-to",
    metavar="SIZE",
    help="Recover the whole database to compare with, up to this size (what space there is).",
)
@source_options
@json_option
def verify(
    tables: tuple[str, ...],
    seed: int | None,
    whole_up_to: str | None,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    is_drill: bool,
    as_json: bool,
) -> None:
    """Read every archived object again and check it.

    Checksums, names and neighbours; on PostgreSQL each WAL record's CRC, every chunk of every base,
    the index against the WAL, and what each base leads to. Ends with 1 when something is damaged
    or missing, naming it and what is lost with it; all else stays recoverable. The result is noted
    in the archive, and `pitr status` shows it.

    With --drill tables are restored to a random moment too, and compared with what another way
    gives: PostgreSQL's own recovery of everything; on SQLite the whole database of that commit, and
    the live one. Where everything does not fit, checks of the sidecar itself have to do (amcheck).
    Without -t each drill takes the next three tables. Ends with 1 when one is not as it was.
    """
    if not is_drill and (tables or seed is not None or whole_up_to):
        raise UsageError("-t, --seed and --whole-up-to are for a drill", hint="Add --drill.")
    settings = settings_of(config, source, archive)
    reporter = Reporter(as_json=as_json)
    wish = DrillWish(
        tables=tables,
        seed=new_seed() if seed is None else seed,
        whole_bytes_max=None if whole_up_to is None else _bytes_max(whole_up_to),
    )
    done = verify_and_record(settings)
    _warn(done.unrecorded, reporter)
    if not as_json:
        _emit(done.outcome)
    drilled = None
    if is_drill:
        drilled, unrecorded = drill_and_record(settings, wish, reporter.report)
        _warn(unrecorded, reporter)
        if not as_json:
            _emit_drill(drilled)
    if as_json:
        emit_json(_json(done.outcome, drilled))
    if not (done.outcome.ok and (drilled is None or drilled.ok)):
        click.get_current_context().exit(1)


def _bytes_max(text: str) -> int:
    return 0 if text == "0" else quantity("--whole-up-to", text, parse_size_bytes, "50GB")


def _warn(unrecorded: str | None, reporter: Reporter) -> None:
    if unrecorded is not None:
        reporter.report(Event(Level.WARNING, "the result was not recorded", unrecorded))


def _json(report: VerifyOutcome, drilled: DrillOutcome | None) -> dict[str, object]:
    return {
        "ok": report.ok and (drilled is None or drilled.ok),
        "objects": report.objects,
        "bytes": report.bytes,
        "damaged": [
            {"object": item.key, "reason": item.reason, "lost": list(item.lost)}
            for item in report.damaged
        ],
        "holes": [{"first": first, "last": last} for first, last in report.holes],
        "gaps": [{"first": first, "last": last} for first, last in report.gaps],
        "last_good": report.last_good,
        "recoverable": [
            {"base": item.base, "timeline": item.timeline, "from": item.first, "to": item.last}
            for item in report.reachable
        ],
        "leftovers": list(report.leftovers),
        "drill": [asdict(table) for table in drilled.tables] if drilled else [],
        "seed": drilled.seed if drilled else None,
    }


def _emit_drill(drilled: DrillOutcome) -> None:
    rows = [
        [
            item.table,
            item.target,
            "" if item.rows is None else str(item.rows),
            "" if item.seconds is None else f"{item.seconds:.2f}",
            item.method,
            "as it was" if item.equal else "NOT as it was",
        ]
        for item in drilled.tables
    ]
    headers = ["table", "target", "rows", "s to first row", "compared with", "result"]
    emit(f"\ndrill, seed {drilled.seed}\n" + table_text(headers, rows))
    for item in drilled.tables:
        if item.detail is not None:
            emit(f"{item.table}: {item.detail}")
    emit("the drill passed" if drilled.ok else "the drill failed")


def _emit(report: VerifyOutcome) -> None:
    emit(f"{count_text(report.objects, 'object')}, {bytes_text(report.bytes)} read")
    for item in report.damaged:
        emit(f"damaged: {item.key}: {item.reason}")
        for loss in item.lost:
            emit(f"    lost: {loss}")
    for first, last in report.holes:
        emit(f"missing: {first} to {last}")
    for first, last in report.gaps:
        emit(f"never captured: {first} to {last}")
    if report.leftovers:
        more = len(report.leftovers) - _LEFTOVERS_MAX
        shown = ", ".join(report.leftovers[:_LEFTOVERS_MAX])
        emit(f"left over, needed by nothing: {shown}" + (f" and {more} more" if more > 0 else ""))
    if report.reachable:
        rows = [
            [
                item.base,
                "" if item.timeline is None else str(item.timeline),
                item.first or "its WAL is not all there",
                item.last or "",
            ]
            for item in report.reachable
        ]
        emit("\n" + table_text(["base", "timeline", "recoverable from", "to"], rows) + "\n")
    emit("ok" if report.ok else f"not ok; good up to {report.last_good or 'nothing'}")
