"""The definitions in what pg_dump writes as text. No I/O.

pg_dump puts a comment above each (src/bin/pg_dump/pg_backup_archiver.c, _printTocEntry):

    --
    -- Name: orders; Type: TABLE; Schema: public; Owner: -
    --

A name that holds such lines would only cut its own definition in two, and the server refuses that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_HEADER = re.compile(
    r"^--\n-- Name: (?P<name>.*?); Type: (?P<kind>[A-Z ]+); Schema: (?P<schema>.*?); Owner: .*\n"
    r"--\n",
    re.MULTILINE,
)
_TAIL = "\n--\n-- PostgreSQL database dump complete\n--"
# What pg_dump says again and again, and what holds anyway.
_IDLE = re.compile(r"^SET default_(?:tablespace = ''|table_access_method = heap);\n?", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class DumpedDefinition:
    """One definition of a dump: its name and kind as pg_dump says them, and its statements."""

    name: str
    kind: str
    schema: str
    text: str


def dumped_definitions(dump: str) -> Iterator[DumpedDefinition]:
    """Yield the definitions of a dump, in its order, which is one that works."""
    body = dump.rpartition(_TAIL)[0] or dump
    headers = list(_HEADER.finditer(body))
    ends = [header.start() for header in headers[1:]] + [len(body)]
    for header, end in zip(headers, ends, strict=True):
        text = _IDLE.sub("", body[header.end() : end]).strip()
        if text:
            yield DumpedDefinition(header["name"], header["kind"], header["schema"], text)
