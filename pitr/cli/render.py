"""Turn results into text and JSON: stdout carries the result, stderr everything else."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from pitr.errors import PitrError
from pitr.target_text import format_age, format_local, format_time
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


def emit_error(error: PitrError, *, as_json: bool) -> None:
    """Print an error on stderr: message, detail, hint."""
    if as_json:
        body = {
            "kind": type(error).__name__,
            "exit_code": error.exit_code,
            "message": error.message,
            "detail": error.detail,
            "hint": error.hint,
        }
        note(json.dumps({"schema": SCHEMA, "error": body}, ensure_ascii=False))
        return
    note(f"{click.style('error:', fg='red', bold=True)} {error.message}")
    if error.detail:
        note(f"detail: {error.detail}")
    if error.hint:
        note(f"hint: {error.hint}")


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
    right = [
        bool(body) and all(isinstance(row[at], int | float) or row[at] is None for row in body)
        for at in range(len(headers))
    ]
    lines = [_line(headers, widths, right), "  ".join("-" * width for width in widths)]
    lines += [_line(row, widths, right) for row in cells]
    return "\n".join(lines)


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


def emit_target_echo(target: ResolvedTarget, *, now_us: int) -> None:
    """Print on stderr what a target came to, before any work is done with it."""
    if target.time_us is not None:
        asked = f"{format_time(target.time_us)}  local {format_local(target.time_us)}"
        note(f"target         {asked}  ({format_age(now_us - target.time_us)} ago)")
    note(f"last included  {_transaction_line(target.last_included, now_us)}")
    note(f"first excluded {_transaction_line(target.first_excluded, now_us)}")


def _transaction_line(transaction: TransactionAt | None, now_us: int) -> str:
    if transaction is None:
        return "none archived yet"
    age = format_age(now_us - transaction.time_us)
    when = f"{format_time(transaction.time_us)}  local {format_local(transaction.time_us)}"
    return f"{transaction.position}  {when}  ({age} ago)"


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


def bytes_text(count: int) -> str:
    """Return a size for a person: `412 B`, `3.1 MB` (10^6)."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
