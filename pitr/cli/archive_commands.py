"""capture, detach, status, mark: the commands about the archive."""

from __future__ import annotations

from dataclasses import asdict

import click

from pitr.archive.verification import VerificationRecord
from pitr.cli.options import json_option, settings_of, source_options
from pitr.cli.progress import Reporter
from pitr.cli.prometheus import prometheus_text
from pitr.cli.render import (
    bytes_text,
    count_text,
    emit,
    emit_json,
    table_text,
    time_cell,
    time_header,
)
from pitr.cli.signals import stopped_by_signals
from pitr.errors import ConfirmationNeeded, UsageError
from pitr.operations import capture as capturing
from pitr.operations.detach import detach as detach_source
from pitr.operations.status import SlotState, Status
from pitr.operations.status import status as read_status
from pitr.target_text import format_age, format_local, format_time


@click.command()
@click.option("--once", is_flag=True, help="Archive all that is committed now, and exit.")
@click.option("--poll", metavar="TIME", help="How often to look for commits (250ms).")
@source_options
@json_option
def capture(
    poll: str | None,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    once: bool,
    as_json: bool,
) -> None:
    """Follow the source, archiving every commit, until stopped.

    SIGTERM and SIGINT stop it; what is committed by then is archived. Nothing is written into
    the source: no table, no trigger, no setting. One capture runs per archive.
    On SQLite the first run takes the base itself; on PostgreSQL 'pitr backup' does.
    """
    settings = settings_of(config, source, archive, poll=poll)
    reporter = Reporter(as_json=as_json)
    if once:
        capturing.capture_once(settings, reporter.report)
        found = read_status(settings)
        last = found.positions[1] if found.positions else None
        if as_json:
            emit_json({"position": last})
        else:
            emit(f"archived up to {last}" if last else "nothing to archive yet")
        return
    with stopped_by_signals(reporter.report) as stop:
        capturing.capture(settings, stop, reporter.report)
    if as_json:
        emit_json({"stopped": True})


@click.command()
@click.option("--yes", is_flag=True, help="Do it without asking.")
@source_options
@json_option
def detach(
    config: str | None, source: str | None, archive: str | None, *, yes: bool, as_json: bool
) -> None:
    """Stop capturing for good; the archive is kept.

    On PostgreSQL the replication slot is dropped, so that the server keeps no more WAL for pitr;
    a capture that begins later begins with a gap. On SQLite a capture leaves nothing in the
    source, so there is nothing to take away: this only makes sure that no capture is running.
    """
    settings = settings_of(config, source, archive)
    if not yes:
        raise ConfirmationNeeded(
            "detach was not confirmed; nothing was done",
            hint="Run 'pitr detach --yes'.",
        )
    done = detach_source(settings)
    if as_json:
        archive = settings.needed_archive()
        emit_json({"detached": True, "archive": archive, "removed": done.removed})
    else:
        left = f"dropped: {done.removed}" if done.removed else "nothing is left in the source"
        emit(f"no capture runs, {left}; kept: {settings.archive}")


@click.command()
@click.argument("name")
@source_options
@json_option
def mark(
    name: str, config: str | None, source: str | None, archive: str | None, *, as_json: bool
) -> None:
    """Name the present state, for targets such as 'name:NAME'.

    When the command returns, the state is proven to be archived.
    """
    reporter = Reporter(as_json=as_json)
    made = capturing.mark(settings_of(config, source, archive), name, reporter.report)
    if as_json:
        time_text = format_time(made.time_us)
        emit_json({"name": made.name, "position": made.position, "time": time_text})
    else:
        emit(f"marked {made.position} as name:{made.name}")


@click.command()
@click.option("--prometheus", is_flag=True, help="Print Prometheus text exposition format.")
@source_options
@json_option
def status(
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    prometheus: bool,
    as_json: bool,
) -> None:
    """Show the recoverable window, lag, gaps, sizes, last error."""
    if prometheus and as_json:
        raise UsageError(
            "status takes either --prometheus or --json", hint="Leave one of them out."
        )
    settings = settings_of(config, source, archive)
    found = read_status(settings)
    if as_json:
        emit_json(_status_json(found))
    elif prometheus:
        emit(prometheus_text(found, settings.name or "archive"))
    else:
        _emit_status(found)


def _status_json(found: Status) -> dict[str, object]:
    window = found.window
    return {
        "window": {
            "from": format_time(window.from_us) if window else None,
            "to": format_time(window.to_us) if window else None,
        },
        "lag_seconds": round(found.lag_us / 1_000_000, 3),
        "capturing": found.capturing,
        "holder": found.holder,
        "granularity": found.granularity,
        "gaps": [
            {
                "kind": gap.kind,
                "from": format_time(gap.from_us),
                "to": format_time(gap.to_us),
                "position": gap.position,
                "begin": gap.begin,
            }
            for gap in found.gaps
        ],
        "archive_bytes": found.archive_bytes,
        "bases": [
            {"id": base.id, "time": format_time(base.time_us), "bytes": base.bytes}
            for base in found.bases
        ],
        "marks": [
            {"name": item.name, "position": item.position, "time": format_time(item.time_us)}
            for item in found.marks
        ],
        "positions": list(found.positions) if found.positions else None,
        "spooled_bytes": found.spooled_bytes,
        "last_error": found.last_error,
        "lag_bytes": found.lag_bytes,
        "timelines": [
            {
                "timeline": item.timeline,
                "begin": item.begin,
                "first": item.first,
                "last": item.last,
                "from": None if item.from_us is None else format_time(item.from_us),
            }
            for item in found.timelines
        ],
        "slot": asdict(found.slot) if found.slot else None,
        "verified": _proof_json(found.verified),
        "drilled": _proof_json(found.drilled),
    }


def _proof_json(record: VerificationRecord | None) -> dict[str, object] | None:
    if record is None:
        return None
    return {
        "time": format_time(record.finished_us),
        "ok": record.ok,
        "damaged": record.damaged,
        "seconds": record.seconds,
        "first_row_seconds": record.first_row_seconds,
        "tables": list(record.tables),
    }


def _emit_status(found: Status) -> None:
    if found.window and found.positions:
        emit(f"window     {format_local(found.window.from_us)}")
        emit(f"       to  {format_local(found.window.to_us)}")
        emit(f"positions  {found.positions[0]} to {found.positions[1]}")
    else:
        wanted = "no base yet: run 'pitr backup'" if found.timelines else "nothing is archived yet"
        emit(f"window     {wanted}")
    if found.granularity == "poll":
        emit("captures   states: all commits between two polls count as one (rollback journal)")
    elif found.granularity:
        emit("captures   every commit by itself")
    running = f"yes, as {found.holder}" if found.capturing else "no"
    emit(f"capturing  {running}")
    lag = format_age(found.lag_us) if found.lag_us else "none"
    emit(f"lag        {lag}" + (f", {bytes_text(found.lag_bytes)}" if found.lag_bytes else ""))
    if found.slot:
        emit(f"slot       {_slot_text(found.slot)}")
    emit(f"archive    {bytes_text(found.archive_bytes)}, {count_text(len(found.bases), 'base')}")
    emit(f"verified   {_proof_text(found.verified, 'damaged or missing')}")
    if found.drilled:
        emit(f"drill      {_proof_text(found.drilled, 'not as it was')}")
    if found.spooled_bytes:
        emit(f"spooled    {bytes_text(found.spooled_bytes)} wait for the store")
    if found.last_error:
        emit(f"last error {found.last_error}")
    if found.gaps:
        rows = [
            [gap.kind, time_cell(gap.from_us), time_cell(gap.to_us), gap.begin or "", gap.position]
            for gap in found.gaps
        ]
        headers = ["gap", time_header("from"), "to", "after", "known again at"]
        emit("\n" + table_text(headers, rows))
    if len(found.timelines) > 1 or any(item.first is None for item in found.timelines):
        lines = [
            [str(item.timeline), item.begin, item.first or "needs a base: pitr backup", item.last]
            for item in found.timelines
        ]
        emit("\n" + table_text(["timeline", "begins", "recoverable from", "to"], lines))
    if found.marks:
        marks = [[item.name, item.position, time_cell(item.time_us)] for item in found.marks]
        emit("\n" + table_text(["mark", "position", time_header()], marks))


def _proof_text(record: VerificationRecord | None, fault: str) -> str:
    if record is None:
        return "never: run 'pitr verify'"
    result = "ok" if record.ok else f"not ok, {record.damaged} {fault}"
    return f"{format_local(record.finished_us)}, {result}"


def _slot_text(slot: SlotState) -> str:
    if slot.status == "absent":
        return f"{slot.name} is not there: no WAL is kept on the server for the archive"
    use = "in use" if slot.active else "not in use"
    safe = f", {bytes_text(slot.safe_bytes)} until WAL is lost" if slot.safe_bytes else ""
    return f"{slot.name} {slot.status}, {use}, {bytes_text(slot.kept_bytes)} kept{safe}"
