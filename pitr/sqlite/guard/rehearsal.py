"""Run SQL files on a copy of a past state, and tell what that did to every row.

The copy is written page by page into a file of its own. What was done to it is told as `log` tells
what a commit did: from the pages that differ afterwards. So the counts are net, and triggers,
foreign keys and OR REPLACE are in them. The copy cannot reach another file: ATTACH is denied.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import apsw
import xxhash

from pitr.durable import private
from pitr.errors import PitrError, UsageError
from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.file.pages import PageSource
from pitr.sqlite.guard.columns import columns_of, dropped_columns
from pitr.sqlite.guard.script import HAS_VARIABLES, ScriptStatement, shell_commands, statements_of
from pitr.sqlite.past.replay import allow_signals, allow_unknown_collations
from pitr.sqlite.rows.changes import Stepper
from pitr.sqlite.rows.watch import Watch
from pitr.sqlite.statement.faults import sqlite_says
from pitr.vocabulary.change import TableChange
from pitr.vocabulary.statement_finding import Severity, StatementFinding

_UNCOMMITTED = "the file ends inside a transaction, which is rolled back"


@dataclass(frozen=True, slots=True)
class RehearsalOutcome:
    """What texts did to a copy, and the statements of each that failed or were not committed.

    `seconds` is how long the texts ran.
    """

    findings: list[list[StatementFinding]]
    statements: int
    changes: list[TableChange]
    columns: dict[str, tuple[str, ...]]
    seconds: float


class CopiedState:
    """A state in a file of its own, and digests of the pages that were written there."""

    def __init__(self, source: PageSource, path: Path) -> None:
        """Write the copy, mode 0600. Raises OSError, and what reading the source raises."""
        self._source = source
        self._path = path
        self._digests = array("Q")
        with open(path, "xb", opener=private) as file:
            for number in range(1, source.page_count + 1):
                page = source.page(number)
                self._digests.append(xxhash.xxh3_64_intdigest(page))
                file.write(page)

    def run(self, text: str) -> tuple[list[StatementFinding], int]:
        """Run the statements of a text in one session; return findings, and how many were run.

        The first that fails ends it, and what is not committed then is rolled back.
        """
        found: list[StatementFinding] = []
        done = 0
        with closing(self._connect()) as connection:
            statement = None
            for statement in statements_of(text):
                done += 1
                failure = _failure(connection, statement)
                if failure is not None:
                    at = (statement.begin, statement.text)
                    found.append(StatementFinding(*at, "failed", Severity.ERROR, failure))
                    break
            else:
                if statement is not None and connection.in_transaction:
                    at = (statement.begin, statement.text)
                    found.append(
                        StatementFinding(*at, "uncommitted", Severity.WARNING, _UNCOMMITTED)
                    )
        return found, done

    def changes(self) -> tuple[list[TableChange], dict[str, tuple[str, ...]]]:
        """Return what was done to the tables since the copy was written, and dropped columns."""
        there = self._source
        with closing(_FilePages(self._path)) as here:
            changed = frozenset(self._changed(here))
            stepper = Stepper(Watch(None), Snapshot(here))
            deltas = stepper.step(Snapshot(here), Snapshot(there), changed, is_exact=False)
            columns = dropped_columns(columns_of(there), columns_of(here))
        return [delta.change for delta in deltas], columns

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE)
        allow_unknown_collations(connection)
        allow_signals(connection)
        connection.execute("PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON")
        connection.authorizer = _keep_inside
        return connection

    def _changed(self, here: _FilePages) -> Iterable[int]:
        """Yield the pages that may differ between the two states."""
        if here.page_size != self._source.page_size:
            return
        both = min(here.page_count, len(self._digests))
        for number in range(1, both + 1):
            if xxhash.xxh3_64_intdigest(here.page(number)) != self._digests[number - 1]:
                yield number
        yield from range(both + 1, max(here.page_count, len(self._digests)) + 1)


def rehearse(source: PageSource, texts: Sequence[str], path: Path) -> RehearsalOutcome:
    """Run texts, each in a session of its own, on a copy of a state that is written to `path`.

    What comes after a statement that fails is not run.
    Raises OSError, and what reading the source raises. The file stays for the caller to remove.
    """
    copied = CopiedState(source, path)
    began = time.monotonic()
    findings: list[list[StatementFinding]] = [[] for _ in texts]
    statements = 0
    for text, found in zip(texts, findings, strict=True):
        more, done = copied.run(text)
        found += more
        statements += done
        if any(finding.kind == "failed" for finding in found):
            break
    seconds = round(time.monotonic() - began, 3)
    return RehearsalOutcome(findings, statements, *copied.changes(), seconds)


def refuse_commands(text: str) -> None:
    """Raise UsageError for what a text has the sqlite3 shell run or read."""
    for begin, command in shell_commands(text):
        line = text.count("\n", 0, begin) + 1
        raise UsageError(
            f"this cannot be rehearsed, in line {line}: {command}",
            detail="What the sqlite3 shell runs by it is not in the file.",
            hint="Give the files that it reads by name, in their order; or run all of it under "
            "'pitr guard run'.",
        )


def _failure(connection: apsw.Connection, statement: ScriptStatement) -> str | None:
    """Run one statement to its end; return why that failed."""
    try:
        for _ in connection.execute(statement.text):
            pass
    except apsw.AuthError:
        return "it reaches another file, which a rehearsal does not let it do"
    except apsw.BindingsError:
        return HAS_VARIABLES
    except apsw.Error as error:
        return sqlite_says(error)
    except PitrError as error:  # of a callback: a collation that only the application knows
        return error.message
    return None


def _keep_inside(code: int, first: str | None, *_: str | None) -> int:
    """Deny what leads out of the copy; VACUUM attaches a file without a name to itself."""
    is_outside = code == apsw.SQLITE_ATTACH and first != ""
    return int(apsw.SQLITE_DENY if is_outside else apsw.SQLITE_OK)


class _FilePages:
    """The pages of a database file that nobody has open (a PageSource)."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        header = os.pread(self._descriptor, 18, 0)
        size = int.from_bytes(header[16:18], "big")
        self.page_size = 65536 if size == 1 else size
        self.page_count = os.fstat(self._descriptor).st_size // self.page_size

    def page(self, page_number: int) -> bytes:
        """Return a page's image; see PageSource."""
        if not 1 <= page_number <= self.page_count:
            raise ValueError(f"page {page_number} of {self.page_count}")
        return os.pread(self._descriptor, self.page_size, (page_number - 1) * self.page_size)

    def prefetch(self, page_numbers: Iterable[int]) -> None:
        """Do nothing: the file is at hand."""

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
