"""Reading the fields of a payload one after the other."""

from __future__ import annotations

import struct

from pitr.errors import CorruptWal
from pitr.postgres.wal.record import Record, RelationFile

# PostgreSQL counts microseconds from 2000-01-01, this project from 1970-01-01.
EPOCH_SHIFT_US = 946_684_800_000_000


class Fields:
    """A place in the main data of a record. Every method raises CorruptWal when they end early."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._at = 0

    @property
    def left(self) -> int:
        """Return how many bytes are left."""
        return len(self._record.main) - self._at

    def take(self, layout: str) -> tuple[int, ...]:
        """Return the next fields, little-endian and without padding, as struct names them."""
        packed = f"<{layout.lstrip('<')}"
        size = struct.calcsize(packed)
        self._need(size)
        found = struct.unpack_from(packed, self._record.main, self._at)
        self._at += size
        return found

    def one(self, layout: str) -> int:
        """Return one field."""
        return self.take(layout)[0]

    def time_us(self) -> int:
        """Return a TimestampTz in microseconds since 1970."""
        return self.one("q") + EPOCH_SHIFT_US

    def count(self) -> int:
        """Return a number of things that follow, which cannot be more than there are bytes."""
        number = self.one("i")
        if not 0 <= number <= self.left:
            raise self.malformed(f"A count in it is {number}, {self.left} bytes follow.")
        return number

    def numbers(self, count: int) -> tuple[int, ...]:
        """Return so many 32-bit numbers."""
        self._need(count * 4)
        return self.take(f"{count}I")

    def files(self, count: int) -> tuple[RelationFile, ...]:
        """Return so many relation files."""
        self._need(count * 12)
        return tuple(RelationFile(*self.numbers(3)) for _ in range(count))

    def data(self, size: int) -> bytes:
        """Return so many bytes."""
        self._need(size)
        found = self._record.main[self._at : self._at + size]
        self._at += size
        return found

    def text(self) -> str:
        """Return a text that ends with a zero byte, which is passed too."""
        end = self._record.main.find(0, self._at)
        if end < 0:
            raise self.malformed("A text in it does not end.")
        found = self.data(end - self._at)
        self._at += 1
        return decode_text(found)

    def align(self) -> None:
        """Pass the padding before a field that is aligned to 8 bytes."""
        self._at = min((self._at + 7) & -8, len(self._record.main))

    def malformed(self, detail: str) -> CorruptWal:
        """Return the error that says what is wrong with this record."""
        lsn = self._record.lsn
        return CorruptWal(
            f"the WAL record at {lsn >> 32:X}/{lsn & 0xFFFFFFFF:X} is malformed", detail=detail
        )

    def _need(self, size: int) -> None:
        if not 0 <= size <= self.left:
            raise self.malformed(f"{size} bytes are wanted where {self.left} are left.")


def decode_text(data: bytes) -> str:
    """Return a name as text; bytes that are no UTF-8 are shown escaped."""
    return data.decode("utf-8", errors="backslashreplace")
