"""guard check: the findings of SQL files, as text, JSON and SARIF."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from pitr import __version__
from pitr.cli.guard_limits import limit_options, limits_of, losses_text
from pitr.cli.options import json_option, settings_of, source_options
from pitr.cli.past import echo_target
from pitr.cli.progress import Reporter
from pitr.cli.render import count_text, emit, emit_json, target_json
from pitr.errors import UsageError
from pitr.operations.guard_check import ENGINES, check_statements
from pitr.operations.guard_losses import GuardLimits, TableLoss
from pitr.operations.guard_rehearsal import Rehearsal, rehearse, severity_of
from pitr.vocabulary.statement_finding import Severity, SqlText, StatementFinding, brings_back

_WORDS = {severity.name.lower(): severity for severity in Severity}
_NEVER = "never"
_REHEARSED = "rehearsed"
_STATEMENT_CHARACTERS_MAX = 72


@dataclass(frozen=True, slots=True)
class _Located:
    """A finding with its file and its line, counted from 1."""

    path: str
    line: int
    finding: StatementFinding

    @property
    def severity(self) -> str:
        return self.finding.severity.name.lower()


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option(
    "--fail-on",
    type=click.Choice([*_WORDS, _NEVER]),
    default="error",
    show_default=True,
    help="End with 1 when a finding weighs as much or more.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "sarif"]),
    default="text",
    help="How to print the findings.",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    help="Look at the SQL alone, as this engine understands it; no source is asked.",
)
@click.option(
    "--rehearse",
    "is_rehearsed",
    is_flag=True,
    help="Also run the files on a sidecar at now, and count what they really do to rows.",
)
@click.option(
    "--role",
    metavar="NAME",
    help="Rehearse as this role of PostgreSQL, not as the one that the source is asked as.",
)
@limit_options
@source_options
@json_option
def check(
    files: tuple[str, ...],
    fail_on: str,
    form: str,
    engine: str | None,
    role: str | None,
    max_deleted: int | None,
    forbid: str | None,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    is_rehearsed: bool,
    as_json: bool,
) -> None:
    """Say what a migration would destroy, without running it.

    Every statement that deletes, overwrites, drops or rewrites is a finding, with or without WHERE:
    its file and line, the table, how it weighs, and what would bring the data back. What cannot be
    seen (DO bodies, functions, other files) is told as opaque. FILE may be '-' for stdin.

    PostgreSQL: by its own parser; cascades and functions by the live catalog, which is only read.
    SQLite: by its authorizer, on an empty copy of the schema in memory.

    With --rehearse the archive is brought up to now, and the files run one after the other on what
    it holds then: the tables that they touch, in a sidecar that goes away again. Told are the rows
    inserted, updated and deleted, cascades and triggers included, and the statement that fails.
    Nothing is written to the source. --max-deleted and --forbid judge what was done to rows.
    """
    limits = _limits(engine, role, max_deleted, forbid, is_rehearsed=is_rehearsed)
    texts = [SqlText(name, _read(name)) for name in files]
    settings = settings_of(config, source, archive)
    by_file = check_statements(settings, texts, engine=engine)
    rehearsal = None
    if limits is not None:
        report = Reporter(as_json=as_json).report
        rehearsal = rehearse(settings, texts, limits, report, echo_target, role=role)
        for findings, more in zip(by_file, rehearsal.found.findings, strict=True):
            findings += more
    found = [
        _Located(text.name, text.sql.count("\n", 0, finding.begin) + 1, finding)
        for text, findings in zip(texts, by_file, strict=True)
        for finding in findings
    ]
    if as_json or form == "json":
        document: dict[str, object] = {"findings": [_document(one) for one in found]}
        if rehearsal is not None:
            document["rehearsal"] = _rehearsal_document(rehearsal)
        emit_json(document)
    elif form == "sarif":
        emit(json.dumps(_sarif(found, files, rehearsal), indent=2, ensure_ascii=False))
    else:
        _emit(found)
        if rehearsal is not None:
            _emit_rehearsal(rehearsal)
    if _is_failure(found, rehearsal, fail_on):
        click.get_current_context().exit(1)


def _limits(
    engine: str | None,
    role: str | None,
    max_deleted: int | None,
    forbid: str | None,
    *,
    is_rehearsed: bool,
) -> GuardLimits | None:
    """Return the limits of a rehearsal, None without one. Raises UsageError."""
    if not is_rehearsed:
        if (role, max_deleted, forbid) != (None, None, None):
            raise UsageError(
                "--max-deleted, --forbid and --role are about what is really done to rows",
                hint="Add --rehearse, or use --fail-on for what the SQL says.",
            )
        return None
    if engine is not None:
        raise UsageError(
            "--engine looks at the SQL alone, and a rehearsal needs the source",
            hint="Leave out one of --engine and --rehearse.",
        )
    return limits_of(max_deleted, forbid)


def _is_failure(found: Sequence[_Located], rehearsal: Rehearsal | None, fail_on: str) -> bool:
    if rehearsal is not None and rehearsal.passed:
        return True
    weights = [one.finding.severity for one in found]
    if rehearsal is not None:
        weights += filter(None, map(severity_of, rehearsal.found.tables))
    worst = max(weights, default=None)
    return fail_on != _NEVER and worst is not None and worst >= _WORDS[fail_on]


def _read(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        # Databases' own programs pass over the mark that editors of Windows put before UTF-8.
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {name}", detail=f"{error.strerror}.") from None
    except UnicodeDecodeError:
        raise UsageError(
            f"cannot read {name}", detail="It is not UTF-8.", hint="Convert it with iconv."
        ) from None
    if "\0" in text:
        raise UsageError(
            f"cannot read {name}",
            detail="It has a zero byte, where SQL ends for a database.",
            hint="Is it a text? In UTF-16 it has to be converted with iconv.",
        )
    return text.replace("\r\n", "\n")


def _document(one: _Located) -> dict[str, object]:
    finding = one.finding
    return {
        "file": one.path,
        "line": one.line,
        "kind": finding.kind,
        "table": finding.table,
        "severity": one.severity,
        "message": finding.message,
        "brings_back": brings_back(finding),
        "statement": finding.statement,
    }


def _emit(found: Sequence[_Located]) -> None:
    for one in found:
        finding = one.finding
        table = f" {finding.table}:" if finding.table else ""
        emit(f"{one.path}:{one.line}: {one.severity}:{table} {finding.message} [{finding.kind}]")
        emit(f"    {_shortened(finding.statement)}")
        emit(f"    {brings_back(finding)}")
    counts = Counter(one.severity for one in found)
    parts = [count_text(counts[word], word) for word in reversed(_WORDS) if counts[word]]
    emit(", ".join(parts) if parts else "no statement destroys anything")


def _emit_rehearsal(rehearsal: Rehearsal) -> None:
    found = rehearsal.found
    counted = count_text(found.statements, "statement")
    emit(f"\nrehearsed at {found.target.position}: {counted} in {found.script_seconds:.2f} s")
    emit("\n" + losses_text(found.tables) + "\n")
    for sentence in rehearsal.passed:
        emit(f"limit passed: {sentence}")
    for sentence in found.notes:
        emit(f"note: {sentence}")
    emit(f"the sidecar is gone, the source untouched; {rehearsal.seconds:.1f} s in all")


def _weight(loss: TableLoss) -> str | None:
    weight = severity_of(loss)
    return None if weight is None else weight.name.lower()


def _rehearsal_document(rehearsal: Rehearsal) -> dict[str, object]:
    found = rehearsal.found
    return {
        "target": target_json(found.target),
        "statements": found.statements,
        "tables": [{**asdict(loss), "severity": _weight(loss)} for loss in found.tables],
        "limits_passed": list(rehearsal.passed),
        "notes": list(found.notes),
        "script_seconds": found.script_seconds,
        "seconds": rehearsal.seconds,
    }


def _shortened(statement: str) -> str:
    line = " ".join(statement.split())
    if len(line) <= _STATEMENT_CHARACTERS_MAX:
        return line
    return f"{line[:_STATEMENT_CHARACTERS_MAX]}…"


def _sarif(
    found: Sequence[_Located], files: Sequence[str], rehearsal: Rehearsal | None
) -> dict[str, object]:
    """Return the findings as SARIF 2.1.0, which code hosts show beside the lines.

    What a rehearsal found of a table stands beside the first statement that is about it, or at the
    head of the first file.
    """
    results = [
        _sarif_result(one.finding.kind, one.severity, _sentence(one.finding), one.path, one.line)
        for one in found
    ]
    properties = {}
    if rehearsal is not None:
        properties["properties"] = {"rehearsal": _rehearsal_document(rehearsal)}
        for loss in rehearsal.found.tables:
            weight = _weight(loss)
            if weight is not None:
                near = next((one for one in found if one.finding.table == loss.table), None)
                place = (near.path, near.line) if near else (files[0], 1)
                results.append(_sarif_result(_REHEARSED, weight, _told(loss), *place))
    kinds = sorted({str(result["ruleId"]) for result in results})
    driver = {
        "name": "pitr guard check",
        "version": __version__,
        "rules": [{"id": kind, "name": kind} for kind in kinds],
    }
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results, **properties}],
    }


def _sarif_result(kind: str, level: str, text: str, path: str, line: int) -> dict[str, object]:
    place = {"artifactLocation": {"uri": path}, "region": {"startLine": line}}
    return {
        "ruleId": kind,
        "level": level,
        "message": {"text": text},
        "locations": [{"physicalLocation": place}],
    }


def _told(loss: TableLoss) -> str:
    """Return what was done to a table in a rehearsal as a sentence."""
    words = [word for word in ("truncated", "rewritten", "dropped") if getattr(loss, word)]
    words += [f"column {name} dropped" for name in loss.columns_dropped]
    counts = (("inserted", loss.inserted), ("updated", loss.updated), ("deleted", loss.deleted))
    words += [f"{count_text(count, 'row')} {done}" for done, count in counts if count]
    return f"{loss.table}: in the rehearsal {', '.join(words)}."


def _sentence(finding: StatementFinding) -> str:
    table = f"{finding.table}: " if finding.table else ""
    return f"{table}{finding.message}. To bring it back: {brings_back(finding)}."
