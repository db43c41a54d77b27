"""What `guard check` finds in SQL: statements that delete, overwrite, drop or rewrite, or may."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Severity(enum.IntEnum):
    """How a finding weighs, the least first.

    NOTE: nothing is lost by it. WARNING: rows are lost or may be. ERROR: all rows or a column are.
    """

    NOTE = 1
    WARNING = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class SqlText:
    """The SQL of one file, and the file's name."""

    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class StatementFinding:
    """One thing that a statement does to one table, or that cannot be seen (`table` None).

    `begin` is where the statement begins in its text, in characters, `statement` its text. `kind`
    is a word for scripts: delete, update, overwrite, merge, truncate, drop_table, drop_column …;
    of a rehearsal also failed, not_rehearsed, uncommitted.
    """

    begin: int
    statement: str
    kind: str
    severity: Severity
    message: str
    table: str | None = None


_ROWS = "'pitr revert TRANSACTION -t {table}' and 'pitr merge' bring the rows back"
_SIDECAR = "'pitr restore -t {table} --at name:MARK' has them in a sidecar"
_BACK = {
    "drop_table": "'pitr revert TRANSACTION -t {table}' has its rows in a sidecar",
    "drop_column": f"its values: {_SIDECAR}",
    "alter_type": f"the old values: {_SIDECAR}",
    "drop_schema": f"each table: {_SIDECAR}",
    "drop_database": f"each table: {_SIDECAR}",
    "drop_owned": f"each table: {_SIDECAR}",
    "rewrite": "nothing is lost by it",
    "detach": "the rows stay in the partition",
    "failed": "mend it first: nothing that comes after it was rehearsed",
    "not_rehearsed": "run it under 'pitr guard run', which counts what it really does",
    "uncommitted": "nothing is lost: what it did is rolled back at the end of the file",
    "opaque": "run it under 'pitr guard run', which counts what it really does",
}


def brings_back(finding: StatementFinding) -> str:
    """Return what would bring the data back, as words for the user."""
    return _BACK.get(finding.kind, _ROWS).format(table=finding.table or "TABLE")
