"""Which engine a command is about, and the function that does its verb there.

A verb stands in `pitr/operations/<verb>.py`, with the values that it takes and returns, and does
nothing itself: `wired` finds the function of the same name in `pitr/operations/<engine>/<verb>.py`
and imports it then, so that a command on a SQLite file never loads psycopg, nor one on a PostgreSQL
cluster apsw. `tests/test_wiring.py` holds the signatures of both engines against the verb's.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import ParamSpec, TypeVar, cast

from pitr.archive.archive import open_archive
from pitr.config import Settings
from pitr.errors import PreconditionFailed
from pitr.operations.opening import open_archive_store

P = ParamSpec("P")
R = TypeVar("R")

_SHOWN = {"sqlite": "SQLite", "postgres": "PostgreSQL"}


def engine_of_source(settings: Settings) -> str:
    """Return the engine of the source, for what is done to it. Raises NotConfigured without one."""
    return settings.needed_source().engine


def engine_of_archive(settings: Settings) -> str:
    """Return the engine of what the archive holds, for what is read from it.

    The archive is asked when it was named by itself: then the source, if there is one, may be
    another. Raises NotConfigured when there is no archive, StoreUnusable.
    """
    if settings.source is not None and settings.is_archive_of_source:
        return settings.source.engine
    return open_archive(open_archive_store(settings)).engine


def wired(verb: Callable[P, R], engine: str) -> Callable[P, R]:
    """Return the function that does a verb on an engine; it takes and returns what the verb does.

    Raises PreconditionFailed when the engine does not have the verb.
    """
    package, _, module = verb.__module__.rpartition(".")
    place = f"{package}.{engine}.{module}"
    found = getattr(import_module(place), verb.__name__, None) if _exists(place) else None
    if found is None:
        raise PreconditionFailed(
            f"{_SHOWN.get(engine, engine)} sources do not have '{_named(verb)}' in this version",
            hint="'pitr --help' lists the commands; a later version may have it for this engine.",
        )
    return cast("Callable[P, R]", found)


def _named(verb: Callable[..., object]) -> str:
    """Return a verb as the user types it: the first word of its module, if it has it to itself."""
    word = (import_module(verb.__module__).__doc__ or "").partition(":")[0]
    return verb.__name__ if "," in word else word


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # no such package above it: an engine that we do not know
        return False
