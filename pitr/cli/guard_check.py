"""guard check: the findings of SQL files, as text, JSON and SARIF."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from pitr import __version__
from pitr.cli.options import json_option, settings_of, source_options
from pitr.cli.render import count_text, emit, emit_json
from pitr.errors import UsageError
from pitr.operations.guard_check import ENGINES, check_statements
from pitr.vocabulary.statement_finding import Severity, StatementFinding, brings_back

_WORDS = {severity.name.lower(): severity for severity in Severity}
_NEVER = "never"
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
@source_options
@json_option
def check(
    files: tuple[str, ...],
    fail_on: str,
    form: str,
    engine: str | None,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    as_json: bool,
) -> None:
    """Say what a migration would destroy, without running it.

    Every statement that deletes, overwrites, drops or rewrites is a finding, with or without WHERE:
    its file and line, the table, how it weighs, and what would bring the data back. What cannot be
    seen (DO bodies, functions, other files) is told as opaque. FILE may be '-' for stdin.

    PostgreSQL: by its own parser; cascades and functions by the live catalog, which is only read.
    SQLite: by its authorizer, on an empty copy of the schema in memory.
    """
    texts = [_read(name) for name in files]
    settings = settings_of(config, source, archive)
    found = [
        _Located(name, text.count("\n", 0, finding.begin) + 1, finding)
        for name, text, findings in zip(
            files, texts, check_statements(settings, texts, engine=engine), strict=True
        )
        for finding in findings
    ]
    if as_json or form == "json":
        emit_json({"findings": [_document(one) for one in found]})
    elif form == "sarif":
        emit(json.dumps(_sarif(found), indent=2, ensure_ascii=False))
    else:
        _emit(found)
    worst = max((one.finding.severity for one in found), default=None)
    if fail_on != _NEVER and worst is not None and worst >= _WORDS[fail_on]:
        click.get_current_context().exit(1)


def _read(name: str) -> str:
    try:
        if name == "-":
            return sys.stdin.read()
        return Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {name}", detail=f"{error.strerror}.") from None
    except UnicodeDecodeError:
        raise UsageError(
            f"cannot read {name}", detail="It is not UTF-8.", hint="Convert it with iconv."
        ) from None


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


def _shortened(statement: str) -> str:
    line = " ".join(statement.split())
    if len(line) <= _STATEMENT_CHARACTERS_MAX:
        return line
    return f"{line[:_STATEMENT_CHARACTERS_MAX]}…"


def _sarif(found: Sequence[_Located]) -> dict[str, object]:
    """Return the findings as SARIF 2.1.0, which code hosts show beside the lines."""
    kinds = sorted({one.finding.kind for one in found})
    results = [
        {
            "ruleId": one.finding.kind,
            "level": one.severity,
            "message": {"text": _sentence(one.finding)},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": one.path},
                        "region": {"startLine": one.line},
                    }
                }
            ],
        }
        for one in found
    ]
    rules = [{"id": kind, "name": kind} for kind in kinds]
    driver = {"name": "pitr guard check", "version": __version__, "rules": rules}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }


def _sentence(finding: StatementFinding) -> str:
    table = f"{finding.table}: " if finding.table else ""
    return f"{table}{finding.message}. To bring it back: {brings_back(finding)}."
