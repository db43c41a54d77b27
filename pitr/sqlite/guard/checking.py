"""The findings of a SQL text for SQLite: what its authorizer is told when statements are prepared.

The schema is made anew in memory, without a row. Definitions run there, so that what follows finds
the tables it expects; every other statement is only prepared, which tells the tables that it, its
triggers and the foreign keys would write. Nothing is attached and no file is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

import apsw

from pitr.errors import UsageError
from pitr.sqlite.guard.script import HAS_VARIABLES, ScriptStatement, shell_commands, statements_of
from pitr.sqlite.past.tables import folded
from pitr.sqlite.statement.faults import sqlite_says
from pitr.sqlite.statement.tokens import unquoted
from pitr.vocabulary.statement_finding import Severity, StatementFinding

_NO_SQL = re.compile(r"syntax error|unrecognized token|incomplete input")
_DEFINITIONS = ("CREATE", "ALTER", "DROP")
_PASSED_OVER = frozenset(
    (*("BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"),
     *("ANALYZE", "REINDEX", "EXPLAIN", "PRAGMA", "DETACH"))
)  # fmt: skip
_WRITES = {
    apsw.SQLITE_DELETE: "delete",
    apsw.SQLITE_UPDATE: "update",
    apsw.SQLITE_INSERT: "insert",
    apsw.SQLITE_DROP_TABLE: "drop",
    apsw.SQLITE_DROP_VTABLE: "drop",
}


@dataclass(frozen=True, slots=True)
class _Write:
    """One write that the authorizer was asked about; `trigger` is the one that does it."""

    kind: str
    table: str
    trigger: str | None


@dataclass
class _Asked:
    """What the authorizer was told of one statement."""

    writes: list[_Write] = field(default_factory=list)
    reads: set[str] = field(default_factory=set)

    def __call__(
        self, code: int, first: str | None, second: str | None, _: str | None, inner: str | None
    ) -> int:
        if code == apsw.SQLITE_ATTACH:
            return int(apsw.SQLITE_DENY)
        if code == apsw.SQLITE_READ and first:
            self.reads.add(folded(first))
        kind = _WRITES.get(code)
        name = first or ""
        if kind and not folded(name).startswith("sqlite_"):
            write = _Write(kind, name, inner)
            if write not in self.writes:
                self.writes.append(write)
        return int(apsw.SQLITE_OK)


def check(text: str, schema: Iterable[str] | None) -> list[StatementFinding]:
    """Return the findings of a text in the order of its statements.

    `schema` are the statements of the database's tables, indexes, views and triggers, tables first;
    None: nothing is known of the database, and only the words of a statement tell its table. Raises
    UsageError for what is no SQL of SQLite's.
    """
    with closing(apsw.Connection(":memory:")) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        for definition in schema or ():
            _try(connection, definition)
        checking = _Checking(connection, text, knows_schema=schema is not None)
        for statement in statements_of(text):
            checking.add(statement)
        for begin, command in shell_commands(text):
            message = "what the sqlite3 shell runs by this is not seen"
            checking.found.append(
                StatementFinding(begin, command, "opaque", Severity.WARNING, message)
            )
        return sorted(checking.found, key=lambda finding: finding.begin)


def _refuse_no_sql(text: str, statement: ScriptStatement, fault: str) -> None:
    """Raise UsageError for what is no SQL in any database: nobody shall think it harmless."""
    if _NO_SQL.search(fault):
        line = text.count("\n", 0, statement.begin) + 1
        raise UsageError(
            f"this is no SQL that SQLite understands, in line {line}",
            detail=fault,
            hint="Templates have to be filled in before.",
        )


def _try(connection: apsw.Connection, statement: str) -> str | None:
    """Run a definition; return why it could not be run."""
    try:
        connection.execute(statement).fetchall()
    except apsw.BindingsError:
        return HAS_VARIABLES
    except apsw.Error as error:
        return sqlite_says(error)
    return None


class _Checking:
    """The findings so far; the tables that the text itself made, and what was put into them."""

    def __init__(self, connection: apsw.Connection, text: str, *, knows_schema: bool) -> None:
        self._text = text
        self._knows_schema = knows_schema
        self.found: list[StatementFinding] = []
        self._connection = connection
        self._made: set[str] = set()
        self._copied: dict[str, set[str]] = {}

    def add(self, statement: ScriptStatement) -> None:
        """Take in one statement."""
        at = (statement.begin, statement.text)
        if statement.first == "ATTACH":
            message = "what is done to an attached database is not seen"
            self.found.append(StatementFinding(*at, "opaque", Severity.WARNING, message))
        elif statement.first == "VACUUM":
            self.found.append(
                StatementFinding(*at, "rewrite", Severity.NOTE, "writes every page anew")
            )
        elif statement.first == "PRAGMA" and "writable_schema" in statement.text.lower():
            message = "after this the schema can be written by hand, which is not seen"
            self.found.append(StatementFinding(*at, "opaque", Severity.WARNING, message))
        elif statement.first not in _PASSED_OVER:
            asked, fault = self._ask(statement)
            by_words = None if self._knows_schema or asked.writes else _by_words(statement)
            if by_words is not None and folded(by_words.table or "") not in self._made:
                self.found.append(by_words)
                fault = None
            if fault is not None:
                _refuse_no_sql(self._text, statement, fault)
                message = f"SQLite does not understand it here: {fault}"
                self.found.append(StatementFinding(*at, "opaque", Severity.WARNING, message))
            self.found += self._judge(statement, asked)
            self._note(statement, asked)

    def _ask(self, statement: ScriptStatement) -> tuple[_Asked, str | None]:
        """Prepare a statement, or run a definition in memory; return what the authorizer heard."""
        asked = _Asked()
        runs = statement.first in _DEFINITIONS
        self._connection.authorizer = asked
        try:
            text = statement.text if runs else f"EXPLAIN {statement.text}"
            return asked, _try(self._connection, text)
        finally:
            self._connection.authorizer = None

    def _judge(self, statement: ScriptStatement, asked: _Asked) -> Iterator[StatementFinding]:
        at = (statement.begin, statement.text)
        if statement.first == "ALTER":
            yield from self._alter(statement)
            return
        if statement.first == "CREATE":
            return
        is_whole = statement.verb == "DROP" or not statement.has_where
        is_insert = statement.verb in ("INSERT", "REPLACE")
        severity = Severity.ERROR if is_whole and not is_insert else Severity.WARNING
        main: str | None = None
        for write in asked.writes:
            if folded(write.table) in self._made or self._is_view(write.table):
                main = main or folded(write.table)
                continue
            if main is None:
                main = folded(write.table)
            is_own = folded(write.table) == main and write.trigger is None
            if is_own:
                found = _own(statement, write, severity)
                kind, weight, message = found if found else ("", severity, "")
            else:
                kind = "delete" if write.kind == "drop" else write.kind
                way = f"the trigger {write.trigger}" if write.trigger else _FOREIGN_KEYS
                weight, message = severity, f"reached by {way}"
            if kind and kind != "insert":
                yield StatementFinding(*at, kind, weight, message, write.table)

    def _alter(self, statement: ScriptStatement) -> Iterator[StatementFinding]:
        words = [token for token in statement.tokens if not token.is_sign(".")]
        drops = [n for n, token in enumerate(words) if n >= 3 and token.is_word("DROP")]
        if drops:
            table, column = unquoted(words[drops[0] - 1]), unquoted(words[-1])
            if folded(table) not in self._made:
                message = f"drops the column {column}"
                at = (statement.begin, statement.text)
                yield StatementFinding(*at, "drop_column", Severity.ERROR, message, table)

    def _note(self, statement: ScriptStatement, asked: _Asked) -> None:
        """Note which tables the text makes, what it copies into them, and what they become."""
        words = [token for token in statement.tokens if not token.is_sign(".")]
        is_table = [token.text.upper() for token in words[1:3] if token.is_word("TABLE")]
        if statement.first == "CREATE" and is_table and "EXISTS" not in statement.text.upper():
            at = next(n for n, token in enumerate(words) if token.is_word("TABLE"))
            name = folded(unquoted(words[at + 1]))
            self._made.add(name)
            self._copied[name] = asked.reads
        for write in asked.writes:
            if write.kind == "insert" and folded(write.table) in self._made:
                self._copied.setdefault(folded(write.table), set()).update(asked.reads)
        renamed = statement.renames if statement.first == "ALTER" else None
        if renamed is None:
            return
        old, new = folded(renamed[0]), folded(renamed[1])
        if old in self._made:
            self._made.add(new)
            if new in self._copied.get(old, ()):
                self.found = [_remade(one, new, old) for one in self.found]

    def _is_view(self, name: str) -> bool:
        known = "SELECT 1 FROM sqlite_schema WHERE type = 'view' AND lower(name) = lower(?)"
        return self._connection.execute(known, (name,)).fetchone() is not None


_FOREIGN_KEYS = "foreign keys, where foreign_keys is on"


def _own(
    statement: ScriptStatement, write: _Write, severity: Severity
) -> tuple[str, Severity, str] | None:
    """Return kind, weight and message of what a statement does to its own table."""
    if write.kind == "drop":
        return "drop_table", severity, "drops the table with all of its rows"
    if statement.verb == "DROP":
        return None  # the rows go with the table
    if write.kind == "insert":
        if statement.replaces:
            return "overwrite", Severity.WARNING, "deletes rows that are in its way: OR REPLACE"
        return None
    if statement.verb in ("INSERT", "REPLACE"):
        return "overwrite", Severity.WARNING, "overwrites rows that are there: ON CONFLICT"
    which = "rows that its WHERE finds" if statement.has_where else "every row: it has no WHERE"
    return write.kind, severity, f"{write.kind}s {which}"


def _by_words(statement: ScriptStatement) -> StatementFinding | None:
    """Return the finding of a statement on a table that nothing is known of."""
    verbs = {"DELETE": "FROM", "UPDATE": "UPDATE", "DROP": "TABLE"}
    before = verbs.get(statement.verb)
    outer = [token for token in statement.outer if not token.is_word("IF", "EXISTS", "OR")]
    places = [n for n, token in enumerate(outer) if before and token.is_word(before)]
    if not places or places[0] + 1 >= len(outer):
        return None
    is_qualified = places[0] + 3 < len(outer) and outer[places[0] + 2].is_sign(".")
    table = unquoted(outer[places[0] + (3 if is_qualified else 1)])
    write = _Write(statement.verb.lower(), table, None)
    is_whole = statement.verb == "DROP" or not statement.has_where
    found = _own(statement, write, Severity.ERROR if is_whole else Severity.WARNING)
    return found and StatementFinding(statement.begin, statement.text, *found, table)


def _remade(finding: StatementFinding, table: str, source: str) -> StatementFinding:
    """Return the finding of a table that was dropped only to be made anew out of a copy of it."""
    if finding.table is None or folded(finding.table) != table or finding.kind != "drop_table":
        return finding
    message = f"made anew out of {source}: rows and columns that were not copied are lost"
    return replace(finding, kind="rewrite", severity=Severity.WARNING, message=message)
