"""What people write: targets, lengths of time, sizes, sources, archives, pitr.toml, SQL.

The input: one byte for which, then the text.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from pitr.cli.options import quantity
from pitr.config import load
from pitr.errors import PitrError
from pitr.postgres.statement.reading import read_statement
from pitr.source_text import database_of, parse_archive, parse_source
from pitr.sqlite.statement.tokens import fault_of, statement_tokens
from pitr.target_text import parse_target
from pitr.vocabulary.quantity import parse_duration_us

_NOW_US = 1_764_338_400_000_000
_TARGETS = (
    "10m",
    "2 hours 30 minutes ago",
    "2026-11-22T14:03:00.123456+01:00",
    "2026-11-22 14:03 Europe/Paris",
    "yesterday 14:03",
    "before:xid:731",
    "commit:4711",
    "lsn:0/16B3748",
    "name:release-7",
    "latest",
    "02/03/2026",
)
_SOURCES = ("shop.db", "sqlite:///srv/shop%20x.db", "postgresql://me@host:5432/db?x=y", "service=a")
_CONFIG = """[source.shop]
source = "shop.db"
archive = "s3://bucket/prefix"
flush_interval = "1s"
"""
_STATEMENTS = (
    "SELECT a.x, count(*) FROM s.\"T\" a JOIN b USING (id) WHERE x LIKE '%y' GROUP BY 1",
    "CREATE UNIQUE INDEX i ON t(a COLLATE nocase DESC, b + 1) WHERE c > 0",
    "CREATE VIRTUAL TABLE f USING fts5(a, b, content='t', tokenize = 'porter')",
)


def seeds() -> Iterator[bytes]:
    """Yield texts as the documents show them."""
    for number, texts in enumerate((_TARGETS, ("2h30m",), _SOURCES, _SOURCES, (_CONFIG,))):
        yield from (bytes([number]) + text.encode() for text in texts)
    for number in (5, 6):
        yield from (bytes([number]) + text.encode() for text in _STATEMENTS)


def fuzz(data: bytes) -> None:
    """Read the text."""
    if not data:
        return
    number = data[0] % len(_READERS)
    try:
        if number == 4:
            _config(data[1:])
        else:
            _READERS[number](data[1:].decode("utf-8", "surrogateescape"))
    except PitrError:
        pass


def _config(data: bytes) -> None:
    path = Path(_folder().name) / "pitr.toml"
    path.write_bytes(data)
    config = load(path, environ={}, cwd=path.parent)
    for name in config.sources:
        try:
            config.choose(name)
        except PitrError:
            continue


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="pitr-fuzz-")


def _source(text: str) -> None:
    database_of(parse_source(text, folder=Path("/srv")).location)


def _tokens(text: str) -> None:
    tokens = statement_tokens(text)
    fault_of(tokens, text)


_READERS: tuple[Callable[[str], object], ...] = (
    lambda text: parse_target(text, now_us=_NOW_US, zone="Europe/Paris"),
    lambda text: quantity("--keep", text, parse_duration_us, "30d"),
    _source,
    lambda text: parse_archive(text, folder=Path("/srv")),
    lambda text: None,
    read_statement,
    _tokens,
)
