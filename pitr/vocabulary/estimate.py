"""What running a plan would cost, as far as it can be told beforehand: rows, bytes, locks."""

from __future__ import annotations

from dataclasses import dataclass

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableLock:
    """A lock that others meet until COMMIT, in the words of the database.

    `table` is None for the whole database. Of `rows`, at most so many are locked by `row_mode`;
    None for both where no row is, or not known how many. Rows that are put in are not counted:
    nobody else sees them yet.
    """

    table: str | None
    mode: str
    rows: int | None = None
    row_mode: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a plan writes: `rows`, and `bytes` into tables and indexes.

    `log_bytes` is what that is in the WAL or the rollback journal, `log_bytes_max` when every page
    that is touched goes there whole. Bytes are estimates, good to about a factor of two; what
    triggers write is not in them.
    """

    rows: int
    bytes: int
    log_bytes: int
    log_bytes_max: int
    locks: tuple[TableLock, ...]

    def sentences(self) -> list[str]:
        """Return what a person is told, a line each."""
        written = (
            f"{self.rows} rows, about {_size(self.bytes)} with indexes; {_size(self.log_bytes)} to"
            f" {_size(self.log_bytes_max)} of WAL"
        )
        return [f"writes {written}", *(f"locks {_lock(one)}" for one in self.locks)]

    def document(self) -> dict[str, object]:
        """Return the estimate under the keys that scripts rely on."""
        return {
            "rows": self.rows,
            "bytes": self.bytes,
            "wal_bytes": self.log_bytes,
            "wal_bytes_max": self.log_bytes_max,
            "locks": [
                {
                    "table": one.table,
                    "mode": one.mode,
                    "rows": one.rows,
                    "row_mode": one.row_mode,
                }
                for one in self.locks
            ],
        }


def _lock(one: TableLock) -> str:
    text = f"{one.table or 'the database'}: {one.mode}"
    if one.row_mode is None:
        return text
    return f"{text}, {'rows' if one.rows is None else f'{one.rows} rows'} {one.row_mode}"


def _size(count: int) -> str:
    amount, unit = float(count), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    digits = 0 if unit == 0 or amount >= 10 else 1
    return f"{amount:.{digits}f} {_UNITS[unit]}"
