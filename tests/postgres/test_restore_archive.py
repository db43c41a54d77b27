"""`pitr restore` of PostgreSQL from an archive: init, backup, mark, restore, as a user types it."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.archive.local import LocalStore
from pitr.config import load
from pitr.operations.postgres.comparing import open_recovery
from pitr.postgres.diff.candidates import Limits
from pitr.postgres.diff.classified import classify
from pitr.postgres.diff.states import comparing
from pitr.postgres.wal_store.archive import WalArchive
from pitr.vocabulary.position import Lsn
from tests.cli.commands import pitr, succeed, told
from tests.postgres.fixtures import ServerMaker
from tests.postgres.site import ROWS, Site, new_site


@pytest.fixture
def site(make_server: ServerMaker, tmp_path: Path) -> Iterator[Site]:
    """Make a source with a base backup in its archive."""
    server = make_server(settings={"wal_keep_size": "1GB"}, segment_megabytes=1)
    with new_site(server, tmp_path) as made:
        yield made


def test_table_comes_back_from_the_archive_alone(site: Site) -> None:
    """Before the DELETE all rows are there; a second base is used when it is nearer."""
    site.server.query(ROWS)
    first = site.delete()
    succeed(site.folder, "mark", "first")
    found = site.restored(f"before:xid:{first}")
    assert found["tables"][0]["rows"] == 200  # type: ignore[index]

    site.back_up()
    site.server.query(ROWS)
    second = site.delete()
    site.server.query("DROP TABLE orders")
    succeed(site.folder, "mark", "gone")
    site.server.stop()
    assert site.restored(f"before:xid:{second}")["tables"][0]["rows"] == 200  # type: ignore[index]
    assert site.restored(f"xid:{second}")["tables"][0]["rows"] == 0  # type: ignore[index]
    asked = succeed(site.folder, "recoveries", "sql", "SELECT count(*) FROM orders", "--json")
    assert asked.json["rows"] == [[0]]
    done = pitr(site.folder, "restore", "-t", "orders", "--at", "name:gone")
    assert (done.code, "no table orders" in done.err) == (2, True)


def test_what_other_tables_wrote_is_not_read(site: Site) -> None:
    """Of the WAL of another table only the index is read, and what lies in the last segments."""
    site.server.query(ROWS)
    xid = site.delete()
    site.server.query("CREATE TABLE last AS SELECT 1 AS i")
    succeed(site.folder, "mark", "quiet")
    site.complete_index()
    before = site.restored("name:quiet")
    for _ in range(12):
        site.server.query(f"UPDATE noise SET t = {' || '.join(['md5(random()::text)'] * 9)}")
    succeed(site.folder, "mark", "loud")
    site.complete_index()
    after = site.restored("name:loud")

    assert before["tables"] == after["tables"]
    wal_bytes = sum(path.stat().st_size for path in (site.folder / "archive/wal").rglob("*"))
    assert wal_bytes > 1 << 20
    more = int(str(after["bytes_read"])) - int(str(before["bytes_read"]))
    assert more < wal_bytes / 2
    assert site.restored(f"before:xid:{xid}")["tables"][0]["rows"] == 200  # type: ignore[index]


def test_target_that_no_base_leads_to_is_refused(site: Site) -> None:
    """Before the base, or behind a gap in the WAL: exit 4, and the bases are named."""
    site.server.query(ROWS)
    succeed(site.folder, "mark", "first")
    shutil.rmtree(site.folder / "archive/base")
    done = pitr(site.folder, "restore", "-t", "orders", "--at", "latest")

    assert done.code == 4
    assert "no base backup leads to the target" in told(done.err)[0]


def test_target_in_a_gap_names_what_is_missing_and_what_can_be_reached(site: Site) -> None:
    """Exit 4 with the range; both targets of the hint work, the one after by a base there."""
    site.server.query(ROWS)
    succeed(site.folder, "mark", "first")
    site.server.query("UPDATE noise SET t = t || 'x'")
    site.server.query("SELECT pg_switch_wal()")
    site.server.query("INSERT INTO noise VALUES (0, 'a')")
    [(middle, inside)] = site.server.query("SELECT now()::text, pg_current_wal_insert_lsn()::text")
    site.server.query("INSERT INTO noise VALUES (0, 'b')")
    site.server.query("SELECT pg_switch_wal()")
    succeed(site.folder, "mark", "second")
    site.back_up()
    site.server.query("DELETE FROM orders WHERE id > 150")
    succeed(site.folder, "mark", "third")
    store = LocalStore(site.folder / "archive")
    archive = WalArchive(store)
    for span in archive.spans.of_timeline(1):
        if span.begin <= Lsn.parse(inside).value < span.end:
            store.delete(span.name)
    archive.refresh()
    [(_, end), (begin, _)] = archive.ranges(1)
    for target in (f"lsn:{inside}", middle):
        done = pitr(site.folder, "restore", "-t", "orders", "--at", target)
        assert (done.code, "lies in a gap" in told(done.err)[0]) == (4, True), done.err
        assert f"missing from {end} to {begin}" in done.err
    reachable = re.findall(r"'(lsn:\S+)'", told(done.err)[2])
    assert len(reachable) == 2
    for target in reachable:
        assert site.restored(target)["tables"][0]["rows"] == 200  # type: ignore[index]


def test_state_after_the_damage_tells_it_from_later_work(site: Site) -> None:
    """With --until, what the accident deleted is lost, and what came later is none of its doing."""
    site.server.query(ROWS)
    xid = site.delete()
    site.server.query("INSERT INTO orders VALUES (5, 'a new five'), (900, 'later')")
    succeed(site.folder, "mark", "now")
    words = ["restore", "-t", "orders", "--at", f"before:xid:{xid}", "--until", f"xid:{xid}"]
    found = succeed(site.folder, *words, "--json").json
    rows = succeed(site.folder, "diff", "--json").json["tables"][0]["rows"]
    classes = Counter(row["class"] for row in rows)

    assert found["until"]["position"] > found["target"]["position"]
    assert classes["lost"] == 199
    assert classes["key_reused"] == 1
    assert "bogus_insert" not in classes
    settings = load(None, environ=os.environ, cwd=site.folder).choose(None)
    with (
        open_recovery(settings, None, program="test") as opened,
        comparing(opened.states),
    ):
        (narrowed,) = classify(opened.states, Limits(narrowed_bytes=0))
    assert narrowed.is_narrowed
    assert narrowed.counts == classes


def test_revert_brings_back_what_one_transaction_changed(site: Site) -> None:
    """By xid or by the position that log shows; only its own rows are lost."""
    site.server.query(ROWS)
    with site.server.connect() as busy:
        busy.execute("BEGIN")
        busy.execute("UPDATE orders SET item = 'meanwhile' WHERE id = 3")
        with site.server.connect() as connection:
            connection.execute("BEGIN")
            xid = connection.execute("SELECT txid_current()").fetchone()
            connection.execute("DELETE FROM orders WHERE id > 100")
            busy.execute("COMMIT")
            connection.execute("COMMIT")
    succeed(site.folder, "mark", "now")
    assert xid is not None
    found = succeed(site.folder, "revert", f"xid:{xid[0]}", "--json").json
    assert [table["table"] for table in found["tables"]] == ["public.orders"]
    found = succeed(site.folder, "revert", f"xid:{xid[0]}", "-t", "orders", "--json").json
    rows = succeed(site.folder, "diff", "--json").json["tables"][0]["rows"]

    assert found["tables"][0]["rows"] == 200
    assert Counter(row["class"] for row in rows) == {"lost": 100}
    assert pitr(site.folder, "revert", "latest").code == 2
