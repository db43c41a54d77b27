"""Cut SQL text into SQLite's tokens, as far as needed to judge it before SQLite reads it.

Source: SQLite `src/tokenize.c`. Pure: text in, values out.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pitr.errors import UsageError


class TokenKind(enum.Enum):
    """What a token is; comments and blanks are left out."""

    WORD = "word"  # a keyword or a plain identifier
    QUOTED = "quoted"  # an identifier in "…", `…` or […]
    STRING = "string"
    BLOB = "blob"
    NUMBER = "number"
    VARIABLE = "variable"  # a bind parameter
    SIGN = "sign"  # one character of punctuation
    UNCLOSED = "unclosed"  # the opening of a string, quoted name or comment without its end


@dataclass(frozen=True, slots=True)
class Token:
    """One token and its half-open place in the text, in characters counted from 0."""

    kind: TokenKind
    text: str
    begin: int
    end: int

    def is_word(self, *words: str) -> bool:
        """Return whether this is one of the given keywords (written in capitals)."""
        return self.kind is TokenKind.WORD and self.text.upper() in words

    def is_sign(self, sign: str) -> bool:
        """Return whether this is the given punctuation character."""
        return self.kind is TokenKind.SIGN and self.text == sign


_TOKEN = re.compile(
    r"""
    (?P<blank>    [ \t\n\f\r]+ | --[^\n]* | /\*.*?\*/ )
  | (?P<blob>     [xX]'[^']*' )
  | (?P<string>   '(?:[^']|'')*' )
  | (?P<quoted>   "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\] )
  | (?P<number>   0[xX][0-9a-fA-F_]+
                | (?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9]+)? )
  | (?P<word>     [A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]* )
  | (?P<variable> \?[0-9]* | [@:$\#][A-Za-z0-9_$\x80-\U0010ffff]+ )
  | (?P<unclosed> /\* | ['"`\[] )
  | (?P<sign>     . )
    """,
    re.VERBOSE | re.DOTALL,
)


def tokens_of(text: str) -> Iterator[Token]:
    """Yield the tokens of the text in order; an unclosed one is followed by what is behind it."""
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "blank":
            yield Token(TokenKind(match.lastgroup), match[0], match.start(), match.end())


def unquoted(token: Token) -> str:
    """Return the name or string that a token stands for, without its quotes."""
    text = token.text
    if token.kind not in (TokenKind.QUOTED, TokenKind.STRING):
        return text
    inner = text[1:-1]
    return inner if text[0] == "[" else inner.replace(text[0] * 2, text[0])


def quoted(name: str) -> str:
    """Return the name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def fault_of(tokens: Sequence[Token], text: str) -> str | None:
    """Return what makes the text unfit to be read as one piece of SQL, None when nothing does."""
    if "\0" in text:
        return f"A NUL character stands at character {text.index(chr(0)) + 1}."
    for token in tokens:
        if token.kind is TokenKind.UNCLOSED:
            return f"The {token.text} at character {token.begin + 1} is never closed."
        if token.kind is TokenKind.VARIABLE:
            return (
                f"The bind parameter {token.text} at character {token.begin + 1} has no value here."
            )
    return None


def statement_tokens(text: str) -> list[Token]:
    """Return the tokens of the one statement in the text, without its end mark.

    Raises UsageError when the text is empty, holds more than one statement or is cut short.
    """
    tokens = list(tokens_of(text))
    fault = fault_of(tokens, text)
    end = next((at for at, token in enumerate(tokens) if token.is_sign(";")), len(tokens))
    if fault is None and any(not token.is_sign(";") for token in tokens[end:]):
        fault = f"A second statement begins after the ; at character {tokens[end].begin + 1}."
    if fault is None and end == 0:
        fault = "The text is empty."
    if fault is not None:
        raise UsageError(
            "the statement cannot be run",
            detail=fault,
            hint="Give one statement, with its values written out.",
        )
    return tokens[:end]
