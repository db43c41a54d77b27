"""Turn results into text and JSON: stdout carries the result, stderr everything else."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from pitr.errors import PitrError, UsageError
from pitr.target_text import format_age, format_local, format_time, machine_zone_name
from pitr.vocabulary.target import ResolvedTarget, TransactionAt

SCHEMA = 1
_EXACT_INTEGER_MAX = 2**53


def emit_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document whose first key is the schema version."""
    click.echo(json.dumps({"schema": SCHEMA, **document}, indent=2, ensure_ascii=False))


def emit(text: str = "") -> None:
    """Print a line of the result."""
    click.echo(text)


def note(text: str) -> None:
    """Print a line of progress or advice, never part of the result."""
    click.echo(text, err=True)


def styled(text: str, **style: Any) -> str:
    """Return a text in colours, unless NO_COLOR is set; off a terminal click takes them away."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


def emit_error(error: PitrError, *, as_json: bool) -> None:
    """Print an error on stderr: message, detail, hint."""
    if as_json:
        body = {
            "kind": type(error).__name__,
            "exit_code": error.exit_code,
            "message": error.message,
            "detail": error.detail,
            "hint": error.advice,
        }
        note(json.dumps({"schema": SCHEMA, "error": body}, ensure_ascii=False))
        return
    note(f"{styled('error:', fg='red', bold=True)} {error.message}")
    if error.detail:
        note(f"detail: {error.detail}")
    if error.advice:
        note(f"hint: {error.advice}")


def json_value(value: object) -> object:
    """Return a database value as JSON can carry it without loss.

    Blobs become `\\x…`, integers beyond 2^53 and the infinities become strings.
    """
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, int) and abs(value) > _EXACT_INTEGER_MAX:
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def text_value(value: object) -> str:
    """Return a database value for a person: NULL is empty, blobs are hexadecimal."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    return str(value)


def table_text(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return aligned columns; numbers to the right. Control characters are shown escaped."""
    body = [list(row) for row in rows]
    cells = [[_one_line(text_value(value)) for value in row] for row in body]
    widths = [
        max([len(header), *(len(row[at]) for row in cells)]) for at, header in enumerate(headers)
    ]
    right = [all(_is_figure(row[at]) for row in body) for at in range(len(headers))]
    lines = [_line(headers, widths, right), "  ".join("-" * width for width in widths)]
    lines += [_line(row, widths, right) for row in cells]
    return "\n".join(lines)


def _is_figure(value: object) -> bool:
    return value in (None, "", "-") or isinstance(value, int | float)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    placed = (
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    )
    return "  ".join(placed).rstrip()


def _one_line(text: str) -> str:
    """Escape what would move the cursor: names and values are a stranger's text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV lines (RFC 4180, line ends as \\n)."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([text_value(value) for value in row] for row in rows)
    return buffer.getvalue()


def emit_rows(columns: Sequence[str], rows: Iterable[Sequence[object]], *, as_json: bool) -> None:
    """Print a query's result: JSON, a table on a terminal, CSV with a header elsewhere."""
    if as_json:
        listed = [[json_value(value) for value in row] for row in rows]
        emit_json({"columns": list(columns), "rows": listed})
    elif sys.stdout.isatty():
        emit(table_text(columns, rows))
    else:
        click.echo(csv_text([columns]), nl=False)
        for row in rows:
            click.echo(csv_text([row]), nl=False)


def time_header(name: str = "time") -> str:
    """Return the head of a column of times: they are those of this machine's zone."""
    return f"{name} ({_zone()})"


def time_cell(time_us: int) -> str:
    """Return a time of this machine's clock to the millisecond: `2026-11-22 14:03:00.123`.

    Rounded up, so that as a target it includes the transaction that it is the time of.
    """
    return format_local(-(-time_us // 1000) * 1000)[: len("2026-11-22 14:03:00.123")]


def _zone() -> str:
    try:
        return machine_zone_name()
    except UsageError:  # TZ names no zone; then format_local uses this one
        return "UTC"


def emit_target_echo(target: ResolvedTarget, *, now_us: int) -> None:
    """Print on stderr what a target came to, before any work is done with it."""
    if target.time_us is not None:
        note(f"target          {_moment(target.time_us, now_us)}")
    note(f"last included   {_transaction_line(target.last_included, now_us)}")
    note(f"first excluded  {_transaction_line(target.first_excluded, now_us)}")


def _transaction_line(transaction: TransactionAt | None, now_us: int) -> str:
    if transaction is None:
        return "none is archived yet"
    return f"{transaction.position}  {_moment(transaction.time_us, now_us)}"


def _moment(time_us: int, now_us: int) -> str:
    age = format_age(now_us - time_us)
    return f"{format_time(time_us)}  {time_cell(time_us)} {_zone()}  {age} ago"


def target_json(target: ResolvedTarget) -> dict[str, object]:
    """Return a resolved target under the keys that scripts rely on."""
    moment = target.time_us
    if moment is None and target.last_included:
        moment = target.last_included.time_us
    return {
        "utc": None if moment is None else format_time(moment),
        "position": target.position,
        "last_included": _transaction_json(target.last_included),
        "first_excluded": _transaction_json(target.first_excluded),
    }


def _transaction_json(transaction: TransactionAt | None) -> dict[str, str] | None:
    if transaction is None:
        return None
    return {"position": transaction.position, "time": format_time(transaction.time_us)}


def count_text(count: int, noun: str) -> str:
    """Return a number with its noun: `1 row`, `2 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def bytes_text(count: int) -> str:
    """Return a size for a person: `412 B`, `3.1 MB` (10^6)."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
