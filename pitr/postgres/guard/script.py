"""SQL files as psql reads them: its own commands and the data of COPY are taken out of the text.

Pure: text in, text of the same length out, so that places in it stay what they were.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# A command of psql stands at the beginning of a line; inside a body or a text it is very rare.
_COMMAND = re.compile(r"^\\[A-Za-z!?][^\n]*", re.MULTILINE)
_COPY_DATA = re.compile(
    r"^[ \t]*COPY\b[^;]*?\bFROM\s+STDIN\b[^;]*;[ \t]*\n(?P<data>.*?^\\\.[ \t]*$)",
    re.MULTILINE | re.DOTALL | re.IGNORECASE,
)
# What runs SQL or programs that are not in this file.
_RUNS = re.compile(r"\\(i|ir|include|include_relative|gexec|copy|!|o|g)\b|\\!")


# What changes nothing but how psql prints.
_SILENT = re.compile(
    r"\\(set|unset|echo|qecho|warn|timing|pset|encoding|conninfo|errverbose|[aCftTxHlzp?]"
    r"|d\S*)(\s[^`|]*)?$"
)


@dataclass(frozen=True, slots=True)
class PsqlCommand:
    """A command of psql that does what the file does not show, and where it begins."""

    begin: int
    text: str


def plain_sql(text: str) -> tuple[str, list[PsqlCommand]]:
    """Return the SQL alone, everything else blank, and the commands that run something."""
    text = _without_data(text)
    commands = [
        PsqlCommand(match.start(), match[0].rstrip())
        for match in _COMMAND.finditer(text)
        if _RUNS.match(match[0])
    ]
    return _COMMAND.sub(lambda match: _blank(match[0]), text), commands


def telling_commands(text: str) -> list[PsqlCommand]:
    """Return the commands of psql but those that only change how it prints."""
    text = _without_data(text)
    found = [PsqlCommand(match.start(), match[0].rstrip()) for match in _COMMAND.finditer(text)]
    return [command for command in found if not _SILENT.match(command.text)]


def copied_rows(text: str, begin: int) -> str:
    """Return the rows that follow a COPY FROM STDIN which begins there, as its data."""
    for match in _COPY_DATA.finditer(text):
        if match.start() <= begin < match.start("data"):
            return match["data"].rpartition("\\.")[0]
    return ""


def _without_data(text: str) -> str:
    for match in _COPY_DATA.finditer(text):
        begin, end = match.span("data")
        text = text[:begin] + _blank(text[begin:end]) + text[end:]
    return text


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)
