"""Foresee which pages a query reads from end to end, so that they come before it asks for them."""

from __future__ import annotations

from contextlib import suppress
from itertools import chain

import apsw

from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.past.replay import past_pages
from pitr.sqlite.statement.readonly import READING_PRAGMAS, ReadingAuthorizer, reading_only
from pitr.sqlite.statement.tokens import statement_tokens

_MAIN = 0  # the number of the schema in which the past state lies


def announce_scans(past: apsw.Connection, text: str) -> None:
    """Announce the b-trees that a query scans to the pages behind a past state.

    A hint: for anything but one query that can be prepared it does nothing but raise UsageError
    where the statement cannot be told from the next one.
    """
    if statement_tokens(text)[0].is_word("SELECT", "WITH"):
        pages = past_pages(past)
        snapshot = Snapshot(pages.source)
        pages.expect(chain.from_iterable(map(snapshot.leaves, _scanned_roots(past, text))))


def _scanned_roots(past: apsw.Connection, text: str) -> list[int]:
    """Return the roots of the b-trees that SQLite's program goes through from front to back.

    See "The SQLite Bytecode Engine": a cursor that is opened, rewound and moved on.
    """
    program: list[tuple[str, int, int, int]] = []
    with suppress(apsw.Error), reading_only(past, ReadingAuthorizer(READING_PRAGMAS)):
        for _at, opcode, first, second, third, *_ in past.execute(f"EXPLAIN {text}"):
            program.append((str(opcode), int(first), int(second), int(third)))
    opened = {
        cursor: root
        for opcode, cursor, root, schema in program
        if opcode == "OpenRead" and schema == _MAIN
    }
    moved = {cursor for opcode, cursor, _, _ in program if opcode in ("Next", "Count")}
    rewound = [cursor for opcode, cursor, _, _ in program if opcode in ("Rewind", "Count")]
    return [opened[cursor] for cursor in rewound if cursor in moved and cursor in opened]
