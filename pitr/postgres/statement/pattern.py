"""What a user names with -t: `[database.]schema.table`, or a table alone; `*` and `?` are wild.

As in psql and pg_dump: what is not quoted is folded to lower case, and only there wildcards count;
"Double quotes" keep everything, and "" inside them is one quote.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pitr.errors import UsageError

_PART = re.compile(r'((?:"(?:[^"]|"")*"|[^".])+)(\.|$)')
_PIECE = re.compile(r'"((?:[^"]|"")*)"|([^"])')


@dataclass(frozen=True, slots=True)
class TablePattern:
    """One name or pattern; `database` and `schema` are None where the text has none."""

    text: str
    database: re.Pattern[str] | None
    schema: re.Pattern[str] | None
    table: re.Pattern[str]

    @property
    def is_wild(self) -> bool:
        """Return whether the text may mean several tables: it has * or ? outside of quotes."""
        return any(char in "*?" for _, char in _PIECE.findall(self.text))

    @classmethod
    def parse(cls, text: str) -> TablePattern:
        """Read a pattern. Raises UsageError."""
        parts = []
        at = 0
        while at < len(text) and (match := _PART.match(text, at)):
            parts.append(_compile(match[1]))
            at = match.end()
            if match[2] == "." and at == len(text):
                break
        if at < len(text) or not 1 <= len(parts) <= 3 or text.endswith("."):
            raise UsageError(
                f"table name is not understood: {text!r}",
                hint="Write it as table, schema.table or database.schema.table; put names with "
                'dots or capitals into double quotes: public."Order.Items".',
            )
        database, schema, table = [None] * (3 - len(parts)) + parts
        assert table is not None
        return cls(text, database, schema, table)

    def names(self, schema: str, table: str) -> bool:
        """Return whether a table is meant, whatever its database is."""
        fits = self.schema is None or self.schema.fullmatch(schema) is not None
        return fits and self.table.fullmatch(table) is not None

    def matches(self, database: str, schema: str, table: str, *, default: str | None) -> bool:
        """Return whether a table is meant; `default` is the database that no pattern names."""
        if self.database is None:
            if default is not None and database != default:
                return False
        elif not self.database.fullmatch(database):
            return False
        if self.schema is None:
            is_own = schema in _OWN_SCHEMAS or schema.startswith("pg_toast")
            return not is_own and self.table.fullmatch(table) is not None
        return bool(self.schema.fullmatch(schema) and self.table.fullmatch(table))


# PostgreSQL's own: only meant when they are named.
_OWN_SCHEMAS = ("pg_catalog", "information_schema")


def _compile(part: str) -> re.Pattern[str]:
    pattern = ""
    for match in _PIECE.finditer(part):
        quoted, plain = match[1], match[2]
        if plain is None:
            pattern += re.escape(quoted.replace('""', '"'))
        else:
            pattern += {"*": ".*", "?": "."}.get(plain, re.escape(plain.lower()))
    return re.compile(pattern, re.DOTALL)


def is_own_schema(schema: str) -> bool:
    """Return whether a schema is PostgreSQL's own."""
    return schema in _OWN_SCHEMAS or schema.startswith("pg_toast")
