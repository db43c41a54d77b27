"""The read-only VFS: a past state answers SQL like the file it was, and tells its faults."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import apsw
import pytest

from pitr.errors import CorruptDatabase, CorruptObject, ObjectMissing, UsageError
from pitr.sqlite.past.replay import PastPages, connect, open_past, past_pages, past_uri
from tests.sqlite.past_files import APPLICATION, FilePages, opened, write_database

FILL = (
    "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
    " INSERT INTO t SELECT i, i % 97, 'row ' || i FROM n"
)
ASK = "SELECT count(*), sum(a), sum(length(b)), max(b) FROM t"


def small_file(folder: Path, *, rows: int = 2000, page_size: int = 4096, wal: bool = False) -> Path:
    mode = ["PRAGMA journal_mode = WAL"] if wal else []
    return write_database(
        folder / "source.db",
        [
            f"PRAGMA page_size = {page_size}",
            *mode,
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)",
            FILL.format(rows=rows),
            "CREATE INDEX by_a ON t (a)",
            "INSERT INTO t VALUES (0, -1, hex(zeroblob(40000)))",
        ],
    )


@pytest.mark.parametrize("page_size", [512, 1024, 4096, 65536])
@pytest.mark.parametrize("wal", [False, True])
def test_past_of_any_page_size_answers_like_the_file(
    tmp_path: Path, page_size: int, wal: bool
) -> None:
    """Every page size opens, also with a header that says WAL, and no file is touched for it."""
    path = small_file(tmp_path, page_size=page_size, wal=wal)
    with opened(path) as native:
        expected = native.execute(ASK).fetchall()
    before = sorted(file.name for file in tmp_path.iterdir())

    with open_past(FilePages(path)) as past:
        assert past.execute(ASK).fetchall() == expected
        assert past.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    assert sorted(file.name for file in tmp_path.iterdir()) == before


def test_read_of_any_span_returns_the_bytes_of_the_file(tmp_path: Path) -> None:
    """Part of a page, several pages, a span over the end: always what the file would give."""
    path = small_file(tmp_path, page_size=512)
    data = path.read_bytes()
    pages = PastPages(FilePages(path))
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    spans = [(100, 0), (512, 0), (1024, 512), (600, len(data) - 300), (16, len(data) + 512)]
    spans += [(rng.randrange(1, 3000), rng.randrange(len(data) + 2000)) for _ in range(200)]

    for amount, offset in spans:
        assert pages.xRead(amount, offset) == data[offset : offset + amount]
    assert pages.xFileSize() == len(data)


def test_pages_are_fetched_once_while_cached(tmp_path: Path) -> None:
    """A second scan asks the source for nothing, although SQLite's own cache is small."""
    source = FilePages(small_file(tmp_path, rows=60_000, page_size=1024))
    with open_past(source) as past:
        past.pragma("cache_size", 10)
        past.execute(ASK).fetchall()
        asked = len(source.read)
        past.execute(ASK).fetchall()

        assert asked == len(set(source.read))
        assert len(source.read) == asked


def test_range_by_key_reads_few_pages(tmp_path: Path) -> None:
    """A hundred rows by key cost at most ten pages, the schema included."""
    source = FilePages(small_file(tmp_path, rows=100_000))
    with open_past(source) as past:
        rows = past.execute("SELECT * FROM t WHERE id BETWEEN 50000 AND 50099").fetchall()

    assert len(rows) == 100
    assert len(set(source.read)) <= 10


@pytest.mark.parametrize(
    "fault",
    [
        CorruptObject("log/1", "Its checksum is wrong."),
        ObjectMissing("log/1", location="here"),
        KeyboardInterrupt(),
    ],
    ids=["corrupt", "missing", "interrupt"],
)
def test_fault_of_the_source_comes_out_of_the_statement(
    tmp_path: Path, fault: BaseException
) -> None:
    """The source's own error surfaces, not SQLite's rewording; the connection stays usable."""
    source = FilePages(small_file(tmp_path, rows=20_000))
    with open_past(source) as past:
        rows = past.execute("SELECT id FROM t NOT INDEXED")
        next(rows)
        source.fails[source.page_count // 2] = fault
        with pytest.raises(type(fault)) as caught:
            rows.fetchall()
        source.fails.clear()

        assert caught.value is fault
        assert past.execute("SELECT count(*) FROM t NOT INDEXED").get == 20_001


def test_fault_in_the_first_page_comes_out_of_opening(tmp_path: Path) -> None:
    """A damaged first page is reported as what it is."""
    source = FilePages(small_file(tmp_path))
    source.fails[1] = CorruptObject("log/1", "Its checksum is wrong.")

    with pytest.raises(CorruptObject), open_past(source):
        pass


def test_pages_that_are_no_database_are_refused(tmp_path: Path) -> None:
    """Encrypted or foreign bytes are reported as corrupt, not as an SQLite error."""
    path = small_file(tmp_path)
    source = FilePages(path)
    path.write_bytes(bytes(range(256)) * 64)
    source._bytes = path.read_bytes()

    with pytest.raises(CorruptDatabase), open_past(source):
        pass


def test_past_cannot_be_written(tmp_path: Path) -> None:
    """Neither its own connection nor one that may write elsewhere can change it."""
    with open_past(FilePages(small_file(tmp_path))) as past:
        with pytest.raises(apsw.ReadOnlyError):
            past.execute("DELETE FROM t")
        other = connect(past_uri(past), writable_others=True)
        with pytest.raises(apsw.ReadOnlyError):
            other.execute("DELETE FROM t")
        other.close()


def test_closed_past_is_forgotten(tmp_path: Path) -> None:
    """After the end no name leads to the pages any more."""
    with open_past(FilePages(small_file(tmp_path))) as past:
        uri = past_uri(past)
        assert past_pages(past)

    with pytest.raises(apsw.CantOpenError):
        connect(uri, writable_others=False)


def test_two_pasts_stay_apart(tmp_path: Path) -> None:
    """Two states open at once each show their own rows."""
    path = small_file(tmp_path, rows=10)
    earlier = FilePages(path)
    write_database(path, ["DELETE FROM t WHERE id > 5"])
    with open_past(earlier) as before, open_past(FilePages(path)) as after:
        assert before.execute("SELECT count(*) FROM t").get == 11
        assert after.execute("SELECT count(*) FROM t").get == 6


def test_sort_larger_than_memory_uses_temporary_files(tmp_path: Path) -> None:
    """What SQLite spills goes to ordinary temporary files, not to the past."""
    with open_past(FilePages(small_file(tmp_path, rows=30_000))) as past:
        past.pragma("temp_store", 1)
        past.pragma("cache_size", 5)
        rows = past.execute("SELECT b || b || b AS x FROM t ORDER BY x DESC").fetchall()

    assert [row[0] for row in rows] == sorted((row[0] for row in rows), reverse=True)


def test_collation_of_the_application_is_read_past_but_not_compared_by(tmp_path: Path) -> None:
    """Rows come out; a search by the unknown order is refused, for it would miss rows."""
    path = write_database(
        tmp_path / "source.db",
        [
            "CREATE TABLE t (name TEXT COLLATE backwards PRIMARY KEY, v) WITHOUT ROWID",
            "INSERT INTO t VALUES ('ab', 1), ('ba', 2), ('zzz', 3), ('aaz', 4)",
        ],
        APPLICATION,
    )
    with open_past(FilePages(path)) as past:
        assert past.execute("SELECT sum(v) FROM t").get == 10
        with pytest.raises(UsageError, match="collation backwards"):
            past.execute("SELECT v FROM t WHERE name = 'ab'").fetchall()
        assert past.execute("SELECT v FROM t WHERE name = 'ab' COLLATE BINARY").get == 1


def test_endless_statement_ends_with_ctrl_c(tmp_path: Path) -> None:
    """A statement that asks for no page at all still lets the signal through."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with open_past(FilePages(small_file(tmp_path))) as past:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(KeyboardInterrupt):
                past.execute(
                    "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n)"
                    " SELECT count(*) FROM n"
                ).fetchall()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
