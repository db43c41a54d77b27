"""verify: read every archived object again, and say what is damaged, lost and recoverable."""

from __future__ import annotations

import click

from pitr.cli.options import json_option, settings_of, source_options
from pitr.cli.progress import Reporter
from pitr.cli.render import bytes_text, count_text, emit, emit_json, table_text
from pitr.operations.verify import Verified, VerifyOutcome, verify_and_record
from pitr.vocabulary.event import Event, Level

_LEFTOVERS_MAX = 5


@click.command()
@source_options
@json_option
def verify(config: str | None, source: str | None, archive: str | None, *, as_json: bool) -> None:
    """Read every archived object again and check it.

    Checksums, names and neighbours; on PostgreSQL each WAL record's CRC, every chunk of every base,
    the index against the WAL, and what each base leads to. Ends with 1 when something is damaged
    or missing, naming it and what is lost with it; all else stays recoverable. The result is noted
    in the archive, and `pitr status` shows it.
    """
    done = verify_and_record(settings_of(config, source, archive))
    _warn(done, Reporter(as_json=as_json))
    if as_json:
        emit_json(_json(done.outcome))
    else:
        _emit(done.outcome)
    if not done.outcome.ok:
        click.get_current_context().exit(1)


def _warn(done: Verified, reporter: Reporter) -> None:
    if done.unrecorded is not None:
        reporter.report(Event(Level.WARNING, "the result was not recorded", done.unrecorded))


def _json(report: VerifyOutcome) -> dict[str, object]:
    return {
        "ok": report.ok,
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
        "drill": [],
    }


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
