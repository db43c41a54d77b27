"""init, check, config: the commands about a source before anything is captured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from pitr.cli.options import Group, json_option, settings_of, source_options
from pitr.cli.render import emit, emit_json, note, styled, table_text
from pitr.errors import SourceUnusable
from pitr.operations.check import check as check_settings
from pitr.operations.init import init as init_archive
from pitr.vocabulary.finding import Finding, Level


@click.command()
@click.argument("source_text", metavar="SOURCE")
@click.option("--archive", required=True, metavar="LOCATION", help="Where captured changes rest.")
@click.option("--name", metavar="NAME", help="The source's name in pitr.toml.")
@click.option(
    "--key-file", metavar="FILE", help="Encrypt the archive with this key; made when missing."
)
@click.option(
    "--passphrase-file", metavar="FILE", help="Encrypt the archive with the passphrase in FILE."
)
@json_option
def init(
    source_text: str,
    archive: str,
    name: str | None,
    key_file: str | None,
    passphrase_file: str | None,
    *,
    as_json: bool,
) -> None:
    """Name a source and its archive in pitr.toml.

    The file is written into the current folder. SOURCE is a SQLite file, sqlite:///PATH, or a
    PostgreSQL server: postgresql://ROLE@HOST/DATABASE or service=NAME; its password is left to
    ~/.pgpass or PGPASSWORD. LOCATION is a folder, file://, s3://BUCKET/PREFIX, gs:// or az://.
    An archive of the same source that is there already is adopted.

    With a key file or a passphrase (also PITR_PASSPHRASE) everything is encrypted before it
    reaches the archive. Keep a copy of the key elsewhere: without it the archive is lost.
    """
    outcome = init_archive(
        source_text,
        archive,
        name=name,
        folder=Path.cwd(),
        environ=os.environ,
        keys={"key_file": key_file, "passphrase_file": passphrase_file},
    )
    warnings = [finding for finding in outcome.findings if finding.level is Level.WARNING]
    if as_json:
        emit_json(
            {
                "name": outcome.name,
                "source": outcome.source,
                "archive": outcome.location,
                "archive_id": outcome.identity.archive_id,
                "adopted": outcome.adopted,
                "config": str(outcome.config),
                "key_file": str(outcome.key_file) if outcome.key_file else None,
                "warnings": [_finding_json(finding) for finding in warnings],
            }
        )
        return
    emit(f"source   {outcome.source}")
    emit(f"archive  {outcome.location}{' (adopted)' if outcome.adopted else ''}")
    emit(f"written  {outcome.config} [source.{outcome.name}]")
    if outcome.key_file:
        emit(f"key      {outcome.key_file}")
        note("keep a copy of the key elsewhere: without it nothing of the archive can be read")
    for finding in warnings:
        note(f"warning: {finding.subject}: {finding.detail} {finding.remedy}")
    first = "'pitr backup' takes the first base, " if outcome.identity.engine == "postgres" else ""
    note(f"next: {first}'pitr capture' follows the source; 'pitr check' says what to expect")


def _finding_json(finding: Finding) -> dict[str, str]:
    return {
        "level": finding.level.value,
        "subject": finding.subject,
        "detail": finding.detail,
        "remedy": finding.remedy,
    }


@click.command()
@click.option(
    "--pg-bindir", metavar="FOLDER", help="Where PostgreSQL's server programs are, for sidecars."
)
@source_options
@json_option
def check(
    pg_bindir: str | None,
    config: str | None,
    source: str | None,
    archive: str | None,
    *,
    as_json: bool,
) -> None:
    """Say whether the source can be captured, and what mends it.

    Looks at the database and at the archive. Each failing point comes with its remedy.
    """
    findings = check_settings(settings_of(config, source, archive, pg_bindir=pg_bindir))
    failed = [finding for finding in findings if finding.level is Level.FAIL]
    if as_json:
        emit_json({"ok": not failed, "findings": [_finding_json(item) for item in findings]})
    else:
        _emit_findings(findings)
    if failed:
        click.get_current_context().exit(SourceUnusable.exit_code)


def _emit_findings(findings: Sequence[Finding]) -> None:
    colours = {Level.OK: "green", Level.WARNING: "yellow", Level.FAIL: "red"}
    for finding in findings:
        word = styled(finding.level.value.ljust(7), fg=colours[finding.level])
        emit(f"{word}  {finding.subject}: {finding.detail}")
        if finding.remedy and finding.level is not Level.OK:
            emit(f"         {finding.remedy}")


@click.group(cls=Group)
def config() -> None:
    """Show where every setting comes from."""


@config.command("show")
@source_options
@json_option
def config_show(
    config: str | None, source: str | None, archive: str | None, *, as_json: bool
) -> None:
    """Show every setting with its value and where it came from."""
    shown = settings_of(config, source, archive).shown
    if as_json:
        settings = [{"key": s.key, "value": s.value, "origin": s.origin} for s in shown]
        emit_json({"settings": settings})
    else:
        rows = [[setting.key, setting.value, setting.origin] for setting in shown]
        emit(table_text(["key", "value", "from"], rows))
