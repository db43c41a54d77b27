"""Scans foreseen: what a query reads from front to back is announced, in its order, and no more."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from pitr.errors import UsageError
from pitr.sqlite.file.btree import Snapshot
from pitr.sqlite.past.replay import open_past
from pitr.sqlite.past.scans import announce_scans
from tests.sqlite.past_files import FilePages, write_database

_ROWS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 9000)"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_database(
        tmp_path_factory.mktemp("scans") / "source.db",
        [
            "PRAGMA page_size = 1024",
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)",
            "CREATE TABLE u (id INTEGER PRIMARY KEY, a)",
            f"{_ROWS} INSERT INTO t SELECT i, i % 97, 'row ' || i FROM n",
            f"{_ROWS} INSERT INTO u SELECT i, i FROM n",
            "CREATE INDEX by_a ON t (a)",
            "CREATE VIEW v AS SELECT a FROM u",
        ],
    )


class OrderedPages(FilePages):
    """Pages of a file; notes the order in which they are announced."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.announced: list[int] = []

    def prefetch(self, page_numbers: Iterable[int]) -> None:
        pages = list(page_numbers)
        self.announced += pages
        super().prefetch(pages)


def announced(file: Path, text: str) -> tuple[list[int], list[int]]:
    """Return the pages announced for a query, and those that it then read."""
    source = OrderedPages(file)
    with open_past(source) as past:
        announce_scans(past, text)
        source.read.clear()
        past.execute(text).fetchall()
    return source.announced, source.read


def leaves(file: Path, name: str) -> list[int]:
    source = FilePages(file)
    with open_past(source) as past:
        root = past.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).get
    return list(Snapshot(source).leaves(root))


@pytest.mark.parametrize(
    ("text", "scanned"),
    [
        ("SELECT sum(length(b)) FROM t", ["t"]),
        ("SELECT count(*) FROM t NOT INDEXED", ["t"]),
        ("SELECT max(x.b) FROM t AS x WHERE x.b LIKE '%9'", ["t"]),
        ("SELECT sum(a) FROM v", ["u"]),
        ("SELECT a FROM u UNION ALL SELECT length(b) FROM t", ["u", "t"]),
        ("SELECT count(*) FROM u CROSS JOIN t ON t.id = u.a", ["u"]),
        ("SELECT a FROM t ORDER BY a", ["by_a"]),
    ],
)
def test_scanned_trees_are_announced_in_the_order_of_reading(
    file: Path, text: str, scanned: list[str]
) -> None:
    """Tables and indexes that are read from front to back are announced leaf by leaf."""
    expected = [page for name in scanned for page in leaves(file, name)]

    pages, read = announced(file, text)

    interior = set(pages) - set(expected)
    assert [page for page in pages if page not in interior] == expected
    assert len(interior) < 10  # of the lowest level but one
    assert set(expected) <= set(read)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM t WHERE id = 5000",
        "SELECT * FROM t WHERE id BETWEEN 5000 AND 5100",
        "SELECT b FROM t WHERE a = 5",
        "SELECT max(id) FROM t",
        "VALUES (1)",
        "PRAGMA page_count",
        "SELECT * FROM pragma_table_info('t')",
    ],
)
def test_query_that_searches_announces_nothing(file: Path, text: str) -> None:
    """Pages that a query may never need are not fetched for it."""
    assert announced(file, text)[0] == []


@pytest.mark.parametrize("text", ["SELECT * FROM nowhere", "SELECT", "EXPLAIN SELECT * FROM t"])
def test_statement_that_cannot_be_foreseen_is_left_to_who_runs_it(file: Path, text: str) -> None:
    """The error of a wrong statement comes from running it."""
    source = FilePages(file)
    with open_past(source) as past:
        announce_scans(past, text)
    assert not source.prefetched


def test_second_statement_is_never_run_by_looking_at_the_first(file: Path, tmp_path: Path) -> None:
    """What is asked about is one statement; anything behind it is refused."""
    other = tmp_path / "other.db"
    with open_past(FilePages(file)) as past, pytest.raises(UsageError):
        announce_scans(past, f"SELECT 1; ATTACH '{other}' AS other")
    assert not other.exists()


def test_scan_that_ends_early_announces_a_few_pages(file: Path) -> None:
    """The pages come in runs, each when the one before is read: few when few rows are wanted."""
    assert len(announced(file, "SELECT b FROM t LIMIT 3")[0]) < 60 < len(leaves(file, "t"))


def test_damaged_tree_is_told_by_the_query_alone(file: Path, tmp_path: Path) -> None:
    """Foreseeing never fails: who reads the damaged page is told."""
    data = bytearray(file.read_bytes())
    source = FilePages(file)
    with open_past(source) as past:
        root = past.execute("SELECT rootpage FROM sqlite_schema WHERE name = 't'").get
    data[(root - 1) * 1024] = 77
    path = tmp_path / "damaged.db"
    path.write_bytes(data)

    with open_past(FilePages(path)) as past:
        announce_scans(past, "SELECT b FROM t")
        assert past.execute("SELECT count(*) FROM u").get == 9000
