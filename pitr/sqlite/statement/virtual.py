"""What the text of a CREATE VIRTUAL TABLE says about where the rows of the table rest.

A virtual table of SQLite's own modules keeps its content in shadow tables, in another table, or
nowhere (a contentless full-text index). Pure: text in, values out. Sources: SQLite documentation,
"FTS5", "FTS3 and FTS4", "The SQLite R*Tree Module", "The Geopoly Interface".
"""

from __future__ import annotations

from dataclasses import dataclass

from pitr.sqlite.statement.tokens import Token, TokenKind, tokens_of, unquoted

_FTS5_SHADOWS = ("_config", "_content", "_data", "_docsize", "_idx")
_FTS34_SHADOWS = ("_content", "_docsize", "_segdir", "_segments", "_stat")
_RTREE_SHADOWS = ("_node", "_parent", "_rowid")
SHADOW_SUFFIXES = {
    "fts5": _FTS5_SHADOWS,
    "fts4": _FTS34_SHADOWS,
    "fts3": _FTS34_SHADOWS,
    "rtree": _RTREE_SHADOWS,
    "rtree_i32": _RTREE_SHADOWS,
    "geopoly": _RTREE_SHADOWS,
}


@dataclass(frozen=True, slots=True)
class VirtualText:
    """The parts of a CREATE VIRTUAL TABLE that decide how its rows can be brought back.

    `content` is the table that holds the text of a full-text index: None when it is the index's
    own shadow table, "" when the text is kept nowhere. `language_column` is FTS4's hidden column.
    """

    module: str
    content: str | None = None
    language_column: str | None = None

    @property
    def is_full_text(self) -> bool:
        """Return whether it is a full-text index."""
        return self.module.startswith("fts")

    @property
    def key_column(self) -> str | None:
        """Return the hidden column that names a row; None when it is among the columns."""
        if self.module.startswith("rtree"):
            return None
        return "docid" if self.module in ("fts3", "fts4") else "rowid"

    @property
    def row_shadows(self) -> tuple[str, ...]:
        """Return the suffixes of the shadow tables that are read when all rows are."""
        if self.is_full_text:
            return ("_content",) if self.content is None else ()
        return ("_node", "_rowid")


def read_virtual(sql: str) -> VirtualText | None:
    """Return what the text of a schema entry says, None when it is no virtual table."""
    tokens = list(tokens_of(sql))
    if not (len(tokens) > 2 and tokens[1].is_word("VIRTUAL")):
        return None
    using = next(at for at, token in enumerate(tokens) if token.is_word("USING"))
    module = unquoted(tokens[using + 1]).lower()
    options = _options(tokens[using + 3 : -1]) if module in ("fts4", "fts5") else {}
    return VirtualText(
        module=module,
        content=options.get("content"),
        language_column=options.get("languageid") if module == "fts4" else None,
    )


def _options(arguments: list[Token]) -> dict[str, str]:
    """Return the `name = value` arguments of a full-text table; a value left out is empty."""
    options = {}
    for at, token in enumerate(arguments[:-1]):
        begins = at == 0 or arguments[at - 1].is_sign(",")
        if begins and token.kind is TokenKind.WORD and arguments[at + 1].is_sign("="):
            value = arguments[at + 2 : at + 3]
            named = value and not value[0].is_sign(",")
            options[token.text.lower()] = unquoted(value[0]) if named else ""
    return options
