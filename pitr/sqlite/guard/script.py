"""SQL files as the sqlite3 shell reads them, cut into statements by SQLite's own rule."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import apsw

from pitr.sqlite.statement.tokens import Token, tokens_of, unquoted

_DOT_COMMAND = re.compile(r"^\.[a-z][^\n]*", re.MULTILINE)
HAS_VARIABLES = "it has variables, which have to be filled in before"
_VERBS = ("DELETE", "UPDATE", "INSERT", "REPLACE", "SELECT", "VALUES")


@dataclass(frozen=True)
class ScriptStatement:
    """One statement: where it begins in its file, in characters, its text and its tokens."""

    begin: int
    text: str
    tokens: Sequence[Token]

    @property
    def first(self) -> str:
        """Return its first word, in capitals."""
        return self.tokens[0].text.upper()

    @cached_property
    def outer(self) -> list[Token]:
        """Return its tokens outside of parentheses."""
        found, depth = [], 0
        for token in self.tokens:
            depth -= token.is_sign(")")
            if depth == 0:
                found.append(token)
            depth += token.is_sign("(")
        return found

    @cached_property
    def verb(self) -> str:
        """Return the word that says what it does, also behind WITH."""
        if self.first != "WITH":
            return self.first
        return next((t.text.upper() for t in self.outer if t.is_word(*_VERBS)), "WITH")

    @property
    def has_where(self) -> bool:
        """Return whether it names the rows that it is about."""
        return any(token.is_word("WHERE") for token in self.outer)

    @property
    def replaces(self) -> bool:
        """Return whether it deletes rows that are in its way: REPLACE, or OR REPLACE."""
        words = [token.text.upper() for token in self.outer[:6]]
        return self.verb == "REPLACE" or ("OR", "REPLACE") in pairwise(words)

    @property
    def renames(self) -> tuple[str, str] | None:
        """Return the old and the new name of a table that it renames."""
        words = [t for t in self.tokens if not t.is_sign(".")]
        if len(words) >= 3 and words[-2].is_word("TO") and words[-3].is_word("RENAME"):
            return unquoted(words[-4]), unquoted(words[-1])
        return None


def statements_of(text: str) -> Iterator[ScriptStatement]:
    """Yield the statements of a text; commands of the shell are passed over."""
    text = _DOT_COMMAND.sub(lambda match: " " * len(match[0]), text)
    tokens: list[Token] = []
    for token in tokens_of(text):
        if token.is_sign(";") and not tokens:
            continue
        tokens.append(token)
        if token.is_sign(";") and apsw.complete(text[tokens[0].begin : token.end]):
            yield _statement(text, tokens[:-1])
            tokens = []
    if tokens:
        yield _statement(text, tokens)


def shell_commands(text: str) -> Iterator[tuple[int, str]]:
    """Yield where the commands of the shell that run something begin, and their texts."""
    for match in _DOT_COMMAND.finditer(text):
        if match[0].split()[0] in (".read", ".import", ".restore", ".load", ".shell", ".system"):
            yield match.start(), match[0].rstrip()


def _statement(text: str, tokens: list[Token]) -> ScriptStatement:
    begin, end = tokens[0].begin, tokens[-1].end
    return ScriptStatement(begin, text[begin:end], tokens)
