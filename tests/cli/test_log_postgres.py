"""`pitr log` on a PostgreSQL archive, as a user types it; the server is gone by then."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from pitr.archive.archive import create_or_adopt
from pitr.archive.local import LocalStore
from pitr.postgres.capture.capture import Capture
from pitr.postgres.catalog.catalog_reader import CatalogReader
from pitr.postgres.index.upkeep import complete_index
from pitr.postgres.live.connection import connect
from pitr.postgres.wal_store.archive import WalArchive
from tests.cli.commands import pitr, succeed
from tools.postgres_servers import Server

STATEMENTS = (
    "CREATE TABLE orders (id int PRIMARY KEY, item text)",
    "INSERT INTO orders SELECT g, 'lamp' FROM generate_series(1, 1000) g",
    "UPDATE orders SET item = 'chair' WHERE id < 10",
    "DELETE FROM orders WHERE id > 900",
    'CREATE TABLE "Odd.Name" AS SELECT 1 AS x',
    "TRUNCATE orders",
    "DROP TABLE orders",
)


@dataclass(frozen=True)
class Archived:
    """A folder with an archive and a pitr.toml that names it."""

    folder: Path

    def tables(self, *words: str) -> list[tuple[str, int, int, int]]:
        found = succeed(self.folder, "log", *words, "--json").json["transactions"]
        return [
            (table["table"], table["inserted"], table["updated"], table["deleted"])
            for transaction in found
            for table in transaction["tables"]
        ]


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Archived:
    folder = tmp_path_factory.mktemp("shop")
    store = LocalStore(folder / "archive")
    store.make()
    with Server(15, segment_megabytes=1) as server:
        system = server.value("SELECT system_identifier FROM pg_control_system()") % 2**64
        identity = create_or_adopt(
            store, engine="postgres", identity={"system_identifier": str(system)}
        )
        server.query("SELECT pg_create_physical_replication_slot('pitr', true)")
        reader = CatalogReader(store, lambda name: connect(server.url(), database=name))
        for statement in STATEMENTS:
            server.query(statement)
            reader.refresh()
        capture = Capture(
            store,
            identity,
            server.url(),
            slot="pitr",
            spool=folder / "spool",
            on_event=lambda _event: None,
        )
        capture.once()
        location = f'source = "{server.url()}"\narchive = "{folder}/archive"\n'
        (folder / "pitr.toml").write_text(f"[source.shop]\n{location}")
    complete_index(store, WalArchive(store))
    return Archived(folder)


def test_log_shows_what_happened_to_a_dropped_table(archived: Archived) -> None:
    """Counts as the statements reported them, and the end of the table."""
    found = succeed(archived.folder, "log", "-t", "orders", "--json").json["transactions"]
    notes = [
        [word for word in ("created", "truncated", "rewritten", "dropped") if table[word]]
        for transaction in found
        for table in transaction["tables"]
    ]

    assert archived.tables("-t", "orders") == [
        ("public.orders", 0, 0, 0),
        ("public.orders", 1000, 0, 0),
        ("public.orders", 0, 9, 0),
        ("public.orders", 0, 0, 100),
        ("public.orders", 0, 0, 0),
        ("public.orders", 0, 0, 0),
    ]
    assert notes == [["created"], [], [], [], ["truncated"], ["dropped"]]
    assert all(isinstance(t["xid"], int) and t["position"].startswith("lsn:") for t in found)


def test_log_from_and_to_targets_of_every_kind(archived: Archived) -> None:
    """--since excludes its transaction, --until includes it; before:xid: excludes it."""
    found = succeed(archived.folder, "log", "-t", "orders", "--json").json["transactions"]
    _, insert, update, delete, *_ = found
    words = ("-t", "orders", "--since", insert["position"], "--until", f"xid:{update['xid']}")

    assert archived.tables(*words) == [("public.orders", 0, 9, 0)]
    before = ("-t", "orders", "--since", update["time"], "--until", f"before:xid:{delete['xid']}")
    assert archived.tables(*before) == []
    assert archived.tables("-t", "orders", "--limit", "1", "--until", delete["time"]) == [
        ("public.orders", 0, 0, 100)
    ]


def test_log_works_from_the_archive_alone_with_names_in_full(
    archived: Archived, tmp_path: Path
) -> None:
    """On another machine, where nothing says which database is meant."""
    words = ("log", "--archive", str(archived.folder / "archive"), "--json", "-t", "orders")
    found = succeed(tmp_path, *words).json["transactions"]

    assert found[1]["tables"][0]["table"] == "postgres.public.orders"
    assert archived.tables("-t", '"Odd.Name"') == [('public."Odd.Name"', 1, 0, 0)]


def test_archive_of_one_engine_is_read_beside_a_source_of_the_other(
    archived: Archived, tmp_path: Path
) -> None:
    """A pitr.toml lies in the folder; --archive names what has nothing to do with it."""
    with closing(sqlite3.connect(tmp_path / "s.db")) as database:
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    succeed(tmp_path, "init", "s.db", "--archive", "archive")
    succeed(tmp_path, "capture", "--once")
    cluster = ("--archive", str(archived.folder / "archive"), "--json")
    file = ("--archive", str(tmp_path / "archive"), "--json")

    assert succeed(tmp_path, "log", *cluster).json["transactions"]
    assert succeed(tmp_path, "status", *cluster).json["archive_bytes"]
    words = ("restore", "-t", "t", "--at", "latest", "--to", str(tmp_path / "then.db"))
    assert succeed(archived.folder, *words, *file).json["tables"][0]["rows"] == 0


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (("-t", "nothing"), 2, "TableUnknown"),
        (("-t", "a.b.c.d"), 2, "UsageError"),
        (("--since", "commit:7"), 2, "UsageError"),
        (("--since", "xid:4000000000"), 4, "ArchiveLacks"),
        (("--until", "2001-01-01T00:00:00Z"), 4, "OutsideWindow"),
        (("--until", "2101-01-01T00:00:00Z"), 4, "OutsideWindow"),
        (("--since", "name:never-set"), 4, "ArchiveLacks"),
    ],
)
def test_log_refuses_with_the_right_exit_code(
    archived: Archived, words: tuple[str, ...], code: int, kind: str
) -> None:
    """Never a traceback, always a hint."""
    done = pitr(archived.folder, "log", *words, "--json")

    assert (done.code, done.error["kind"]) == (code, kind)
    assert done.error["hint"]


def test_log_as_text_has_a_line_for_each_table(archived: Archived) -> None:
    """Notes at the end, the newest last."""
    lines = succeed(archived.folder, "log", "-t", "orders").out.splitlines()

    assert lines[0].split()[0] == "position"
    assert lines[-1].split()[-1] == "dropped"
