"""The text of a CREATE TABLE for another schema of the same connection, without foreign keys.

SQLite stores a table's text as `CREATE TABLE` and what was typed from the name on, without a
schema; for `CREATE VIRTUAL TABLE` likewise. For a table of the same columns and constraints
elsewhere the name gets a schema; the foreign keys have to go, because their parents are not there
and SQLite then refuses every write. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from pitr.sqlite.statement.tokens import Token, TokenKind, tokens_of


def restated(sql: str, schema: str) -> str:
    """Return the statement that creates the table in `schema`, foreign keys left out."""
    tokens = list(tokens_of(sql))
    name = tokens[3 if tokens[1].is_word("VIRTUAL") else 2]
    pieces = [sql[: name.begin], f"{schema}.{sql[name.begin : name.end]}"]
    done = name.end
    for begin, end, instead in _foreign_keys(tokens):
        pieces += [sql[done:begin], instead]
        done = end
    return "".join(pieces) + sql[done:]


def _foreign_keys(tokens: Sequence[Token]) -> list[tuple[int, int, str]]:
    """Return the half-open places of foreign keys in the text, and what is to stand there."""
    found = []
    at = 0
    while at < len(tokens):
        if tokens[at].is_word("FOREIGN") and tokens[at + 1].is_word("KEY"):
            columns_end = _behind_parentheses(tokens, at + 2)
            end = _behind_reference(tokens, columns_end)
            # A constraint of a table stands between commas: something must be there.
            found.append((tokens[at].begin, tokens[end - 1].end, "CHECK (TRUE)"))
            at = end
        elif tokens[at].is_word("REFERENCES"):
            end = _behind_reference(tokens, at)
            found.append((tokens[at].begin, tokens[end - 1].end, ""))
            at = end
        else:
            at += 1
    return found


def _behind_reference(tokens: Sequence[Token], at: int) -> int:
    """Return the place behind `REFERENCES parent (columns) ON DELETE … DEFERRABLE …`."""
    at += 2
    if at < len(tokens) and tokens[at].is_sign("("):
        at = _behind_parentheses(tokens, at)
    while at < len(tokens):
        token = tokens[at]
        if token.is_word("ON") and tokens[at + 1].is_word("DELETE", "UPDATE"):
            at += 4 if tokens[at + 2].is_word("SET", "NO") else 3
        elif token.is_word("MATCH"):
            at += 2
        elif token.is_word("NOT") and tokens[at + 1].is_word("DEFERRABLE"):
            at += 1
        elif token.is_word("DEFERRABLE"):
            at += 3 if tokens[at + 1].is_word("INITIALLY") else 1
        else:
            break
    return at


def _behind_parentheses(tokens: Sequence[Token], at: int) -> int:
    """Return the place behind the parenthesis that closes the one at `at`."""
    depth = 0
    for place in range(at, len(tokens)):
        depth += tokens[place].is_sign("(")
        depth -= tokens[place].is_sign(")")
        if not depth:
            return place + 1
    return len(tokens)


def index_parts(sql: str) -> tuple[tuple[str, ...], str]:
    """Return the indexed expressions of a CREATE INDEX, and the condition behind WHERE, or "".

    Directions are left out, collations stay with their expressions.
    """
    tokens = list(tokens_of(sql))
    on = next(at for at, token in enumerate(tokens) if token.is_word("ON"))
    begin = next(at for at in range(on + 2, len(tokens)) if tokens[at].is_sign("("))
    end = _behind_parentheses(tokens, begin)
    parts = [_without_direction(sql, part) for part in _split(tokens[begin + 1 : end - 1])]
    condition = sql[tokens[end].end :].strip() if end < len(tokens) else ""
    return tuple(parts), condition


def _split(tokens: Sequence[Token]) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += token.is_sign("(")
        depth -= token.is_sign(")")
        if token.is_sign(",") and not depth:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _without_direction(sql: str, tokens: list[Token]) -> str:
    last = tokens[-1]
    if len(tokens) > 1 and last.kind is TokenKind.WORD and last.is_word("ASC", "DESC"):
        tokens = tokens[:-1]
    return sql[tokens[0].begin : tokens[-1].end]


def restated_index(sql: str, schema: str) -> str:
    """Return the CREATE INDEX statement with its name in `schema`."""
    tokens = list(tokens_of(sql))
    name = tokens[next(at for at, token in enumerate(tokens) if token.is_word("INDEX")) + 1]
    return f"{sql[: name.begin]}{schema}.{sql[name.begin :]}"
