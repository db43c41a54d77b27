"""diff: the rows that differ between a recovery and live, as a table, JSON, SQL or CSV.

Every form is written as the rows come, so that none needs memory for a long one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence

import click

from pitr.cli.options import json_option, settings_of, source_options
from pitr.cli.past import tables_option
from pitr.cli.render import SCHEMA, csv_text, json_value, note, target_json
from pitr.operations.diff import Diff, DiffRequest, DiffTable, open_diff
from pitr.sqlite.statement.literal import literal
from pitr.sqlite.statement.tokens import quoted
from pitr.target_text import format_local, format_time
from pitr.vocabulary.diff_row import DiffRow, Row, Value
from pitr.vocabulary.row_class import TREATMENTS, Action, RowClass

_VALUE_CHARACTERS_MAX = 60
_CELLS_MAX = 12
_TERMINAL_ROWS = 50  # of each table, unless --limit says otherwise
_SHOWN_CLASSES = [row_class.value for row_class in RowClass if row_class != RowClass.UNRELATED]
_GONE = (RowClass.LOST, RowClass.DELETED_SINCE, RowClass.ALREADY_BACK)
_PUT_IN = (RowClass.BOGUS_INSERT, RowClass.BOGUS_TOUCHED)
Write = Callable[[str], object]


@click.command()
@click.argument("recovery_id", required=False, metavar="[ID]")
@tables_option
@click.option(
    "--class",
    "classes",
    multiple=True,
    type=click.Choice(_SHOWN_CLASSES),
    help="Only rows of this class; repeatable.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    help="At most so many rows of each table; on a terminal 50.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "sql", "csv"]),
    default="table",
    show_default=True,
    help="How to print the rows.",
)
@click.option("--exit-code", is_flag=True, help="End with 1 when there are differences.")
@source_options
@json_option
def diff(
    recovery_id: str | None,
    tables: tuple[str, ...],
    classes: tuple[str, ...],
    limit: int | None,
    form: str,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    exit_code: bool,
    as_json: bool,
) -> None:
    """Show what became of a recovery's rows in the live database.

    ID is a recovery; the newest is meant without it. Rows come in the order of their keys, each
    with its class. Nothing is written.
    """
    if limit is None and form == "table" and sys.stdout.isatty():
        limit = _TERMINAL_ROWS
    request = DiffRequest(
        recovery_id=recovery_id,
        tables=tables,
        classes=frozenset(map(RowClass, classes)),
        limit=limit,
    )
    with open_diff(settings_of(config, source, archive), request) as found:
        _FORMS["json" if as_json else form](found, sys.stdout.write)
        for warning in found.warnings:
            note(f"warning: {warning}")
        if exit_code and _differs(found, request):
            click.get_current_context().exit(1)


def _differs(found: Diff, request: DiffRequest) -> bool:
    asked = request.classes or set(RowClass) - {RowClass.ALREADY_BACK}
    return any(row_class in asked for table in found.tables for row_class in table.counts)


# --- JSON ----------------------------------------------------------------------------------------


def _write_json(found: Diff, write: Write) -> None:
    """Write one document, a line for each row."""
    head = {
        "schema": SCHEMA,
        "recovery": found.recovery.id,
        "target": target_json(found.recovery.resolved),
        "until": target_json(found.recovery.until) if found.recovery.until else None,
        "live_position": found.live_position,
        "warnings": list(found.warnings),
    }
    write(f'{_json(head)[:-1]}, "tables": [')
    for number, table in enumerate(found.tables):
        write(f'{"," if number else ""}\n  {_json(_about(table))[:-1]}, "rows": [')
        for at, row in enumerate(table.rows):
            write(f"{',' if at else ''}\n    {_json(_row_json(table, row))}")
        write("]}")
    write("]}\n")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _about(table: DiffTable) -> dict[str, object]:
    drift = table.drift
    return {
        "table": table.table,
        "key": list(table.key),
        "counts": {str(row_class): count for row_class, count in table.counts.items()},
        "lost_by": [
            {
                "transaction": one.position,
                "time": format_time(one.time_us) if one.time_us is not None else None,
                "rows": one.rows,
            }
            for one in table.lost_by
        ],
        "drift": {
            "added": list(drift.added),
            "dropped": list(drift.dropped),
            "renamed": [{"before": old, "live": new} for old, new in drift.renamed],
            "type_changed": [
                {"column": name, "before": old, "live": new}
                for name, old, new in drift.type_changed
            ],
            "missing": drift.missing,
            "recreated": drift.recreated,
            "readded": list(drift.readded),
        },
        "warnings": list(table.warnings),
    }


def _row_json(table: DiffTable, row: DiffRow) -> dict[str, object]:
    verdict = row.verdict
    return {
        "key": dict(zip(table.key, map(json_value, row.key), strict=True)) if table.key else None,
        "class": str(row.row_class),
        "before": _state_json(table, row, row.before),
        "after": _state_json(table, row, row.after),
        "live": _state_json(table, row, row.live),
        "repair": [table.columns[at] for at in verdict.repair_columns],
        "touched": [table.columns[at] for at in verdict.touched_columns],
    }


def _state_json(table: DiffTable, row: DiffRow, state: Row | None) -> dict[str, object] | None:
    if state is None:
        return None
    names = (*table.key, *table.columns)
    return dict(zip(names, map(json_value, (*row.key, *state)), strict=True))


# --- text ----------------------------------------------------------------------------------------


def _write_table(found: Diff, write: Write) -> None:
    for number, table in enumerate(found.tables):
        if number:
            write("\n")
        write(f"{_coloured(table.table, bold=True)}  {_totals(table)}\n")
        shown = 0
        for row in table.rows:
            shown += 1
            write(f"  {_row_line(table, row)}\n")
        left = table.chosen - shown
        if left and shown:
            write(f"  … and {left} more rows\n")
        for one in table.lost_by:
            where = one.position or "an unknown transaction"
            when = format_local(one.time_us) if one.time_us is not None else ""
            write(f"  {one.rows} lost by {where}  {when}".rstrip() + "\n")
        for warning in table.warnings:
            note(f"warning: {warning}")


def _totals(table: DiffTable) -> str:
    if not table.counts:
        return "nothing differs"
    return ", ".join(f"{count} {row_class}" for row_class, count in table.counts.items())


_COLOURS = {
    Action.INSERT: "green",
    Action.UPDATE: "yellow",
    Action.CONFLICT: "red",
    Action.SKIP: "cyan",
}


def _row_line(table: DiffTable, row: DiffRow) -> str:
    colour = _COLOURS.get(TREATMENTS[row.row_class].action)
    key = " ".join(f"{name}={_shown(v)}" for name, v in zip(table.key, row.key, strict=True))
    word = _coloured(row.row_class.ljust(13), colour)
    return "  ".join(part for part in (word, key, _cells(table, row)) if part)


def _cells(table: DiffTable, row: DiffRow) -> str:
    """Return the cells that matter: what changed as `before -> live`, else the whole row."""
    changed = row.verdict.update_columns
    if changed and row.before is not None and row.live is not None:
        cells = [
            f"{table.columns[at]}: {_coloured(_shown(row.before[at]), 'green')}"
            f" -> {_coloured(_shown(row.live[at]), 'red')}"
            for at in changed
        ]
    else:
        state = row.live if row.row_class in _PUT_IN else row.before
        cells = [
            f"{name}={_shown(value)}"
            for name, value in zip(table.columns, state or (), strict=False)
        ]
    more = ["…"] if len(cells) > _CELLS_MAX else []
    return "  ".join(cells[:_CELLS_MAX] + more)


def _shown(value: Value) -> str:
    """Return a value so that its type can be seen, in one line and not too long."""
    text = literal(value)
    if isinstance(value, str):
        plain = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode() for c in value
        )
        text = f"'{plain}'"
    if len(text) > _VALUE_CHARACTERS_MAX:
        text = f"{text[:_VALUE_CHARACTERS_MAX]}…"
    return text


def _coloured(text: str, colour: str | None = None, *, bold: bool = False) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return click.style(text, fg=colour, bold=bold or None)


# --- SQL -----------------------------------------------------------------------------------------


def _write_sql(found: Diff, write: Write) -> None:
    """Write the statements that would bring rows back; what has to be decided is commented out."""
    recovery = found.recovery
    write(_comment(f"recovery {recovery.id}: rows as of {recovery.resolved.position}"))
    write(_comment("These are the differences for review; 'pitr merge' checks far more."))
    write("BEGIN IMMEDIATE;\n")
    for table in found.tables:
        write("\n" + _comment(f"table {table.table}: {_totals(table)}"))
        for warning in table.warnings:
            write(_comment(f"warning: {warning}"))
        for row in table.rows:
            write(_row_sql(table, row))
    write("\nCOMMIT;\n")


def _row_sql(table: DiffTable, row: DiffRow) -> str:
    key = ", ".join(f"{name} {_shown(v)}" for name, v in zip(table.key, row.key, strict=True))
    treatment = TREATMENTS[row.row_class]
    head = _comment(f"{row.row_class} {key}".rstrip() + f": {treatment.meaning}")
    statement = _statement(table, row)
    if statement is None:
        return head
    certain = treatment.action in (Action.INSERT, Action.UPDATE)
    return head + (f"{statement}\n" if certain else _comment(statement))


def _statement(table: DiffTable, row: DiffRow) -> str | None:
    name = quoted(table.table)
    if row.row_class == RowClass.LOST and row.before is not None:
        values = dict(zip((*table.key, *table.columns), (*row.key, *row.before), strict=True))
        names = ", ".join(map(quoted, values))
        return f"INSERT INTO {name} ({names}) VALUES ({', '.join(map(literal, values.values()))});"
    if row.row_class in _PUT_IN and row.live is not None:
        return f"DELETE FROM {name} WHERE {_condition(table, row, range(len(table.columns)))};"
    changed = row.verdict.update_columns
    if not changed or row.before is None or row.live is None:
        return None
    assignments = ", ".join(
        f"{quoted(table.columns[at])} = {literal(row.before[at])}" for at in changed
    )
    return f"UPDATE {name} SET {assignments} WHERE {_condition(table, row, changed)};"


def _condition(table: DiffTable, row: DiffRow, columns: Sequence[int]) -> str:
    """Return the condition that the live row is still as it was seen in these columns."""
    tests = [
        f"{quoted(name)} = {literal(value)}" for name, value in zip(table.key, row.key, strict=True)
    ]
    live = row.live or ()
    tests += [f"{quoted(table.columns[at])} IS {literal(live[at])}" for at in columns]
    return " AND ".join(tests)


def _comment(text: str) -> str:
    """Return the text as comment lines: names of a stranger may have line ends."""
    return "".join(f"-- {line}\n" for line in text.split("\n"))


# --- CSV -----------------------------------------------------------------------------------------


def _write_csv(found: Diff, write: Write) -> None:
    """Write a line for each cell that matters."""
    write(csv_text([["table", "class", "key", "column", "before", "after", "live"]]))
    for table in found.tables:
        for row in table.rows:
            write(csv_text(_csv_lines(table, row)))


def _csv_lines(table: DiffTable, row: DiffRow) -> Iterator[list[Value]]:
    values = [json_value(value) for value in row.key]
    key = row.key[0] if len(row.key) == 1 else _json(values) if values else None
    places = row.verdict.update_columns or range(len(table.columns))
    states = (row.before, row.after, row.live)
    for at in places:
        cells = [state[at] if state is not None else None for state in states]
        yield [table.table, str(row.row_class), key, table.columns[at], *cells]
    if not table.columns:
        yield [table.table, str(row.row_class), key, None, None, None, None]


_FORMS = {"table": _write_table, "json": _write_json, "sql": _write_sql, "csv": _write_csv}
