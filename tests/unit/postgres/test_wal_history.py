"""History files are read as PostgreSQL reads them, and nothing else is taken for one."""

from __future__ import annotations

import pytest

from pitr.errors import CorruptWal
from pitr.postgres.wal.history import HistoryEntry, format_history, parse_history
from pitr.vocabulary.position import Lsn

# As PostgreSQL 15 wrote it after two promotions.
WRITTEN = b"1\t0/3000148\tno recovery target specified\n\n2\t0/50000A0\tbefore 2026-11-28 13:00\n"


def test_history_of_two_promotions_is_read() -> None:
    """Timeline, switch and reason of each ancestor, oldest first."""
    found = parse_history(3, b"# a comment\n" + WRITTEN)

    assert found == (
        HistoryEntry(1, Lsn(0x3000148), "no recovery target specified"),
        HistoryEntry(2, Lsn(0x50000A0), "before 2026-11-28 13:00"),
    )
    assert parse_history(3, format_history(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        b"1\n",
        b"1\t0/xyz\treason\n",
        b"3\t0/1000000\treason\n",
        b"2\t0/1000000\tx\n1\t0/2000000\tx\n",
        b"1\t0/2000000\tx\n2\t0/1000000\tx\n",
        b"\x00\xff\x00",
    ],
)
def test_what_is_no_history_is_refused(text: bytes) -> None:
    """Exit 5, naming the file."""
    with pytest.raises(CorruptWal, match=r"00000003\.history"):
        parse_history(3, text)
