"""init and check on a PostgreSQL cluster, as a user types them."""

from __future__ import annotations

from pathlib import Path

from pitr.postgres.live.connection import connect
from pitr.postgres.live.slot import create_slot
from tests.cli.commands import pitr, succeed, told
from tests.postgres.fixtures import ServerMaker
from tools.postgres_servers import Server


def test_init_and_check_of_a_cluster(shared_server: Server, tmp_path: Path) -> None:
    """The table has the place and no default; check ends with the archive, and with 0."""
    place = shared_server.url()
    made = succeed(tmp_path, "init", place, "--archive", "archive", "--name", "shop", "--json").json
    again = succeed(
        tmp_path, "init", place, "--archive", "archive", "--name", "shop", "--json"
    ).json
    found = succeed(tmp_path, "check", "--pg-bindir", str(shared_server.bin), "--json").json
    shown = succeed(tmp_path, "config", "show", "--json").json

    assert (made["source"], made["adopted"], again["adopted"]) == (place, False, True)
    assert made["archive_id"] == again["archive_id"]
    assert {item["subject"] for item in made["warnings"]} >= {"role"}
    text = (tmp_path / "pitr.toml").read_text()
    assert text.splitlines() == [
        "[source.shop]",
        f'source = "{place}"',
        'engine = "postgres"',
        f'archive = "{tmp_path / "archive"}"',
    ]
    assert found["ok"] is True
    assert found["findings"][-1]["subject"] == "archive"
    slot = [item for item in shown["settings"] if item["key"] == "slot"]
    assert [(item["value"], item["origin"]) for item in slot] == [("pitr_shop", "default")]


def test_archive_of_another_cluster_is_refused(
    make_server: ServerMaker, shared_server: Server, tmp_path: Path
) -> None:
    """Exit 3 for init and for check, and nothing is written."""
    succeed(tmp_path, "init", shared_server.url(), "--archive", "archive", "--name", "one")
    before = (tmp_path / "pitr.toml").read_text()
    other = make_server()
    done = pitr(tmp_path, "init", other.url(), "--archive", "archive", "--name", "two")
    moved = before.replace(str(shared_server.folder), str(other.folder))
    assert (tmp_path / "pitr.toml").read_text() == before
    (tmp_path / "pitr.toml").write_text(moved)
    checked = pitr(tmp_path, "check", "--json")

    assert done.code == 3
    assert told(done.err)[0] == (
        f"error: the archive at {tmp_path / 'archive'} holds another source"
    )
    assert (checked.code, checked.json["ok"]) == (3, False)
    assert checked.json["findings"][-1]["level"] == "fail"


def test_init_of_a_cluster_that_cannot_be_captured_makes_nothing(
    shared_server: Server, tmp_path: Path
) -> None:
    """All that is in the way is named, with what mends it; no file and no archive is left."""
    name = f"wanderer_{tmp_path.name[-1]}"
    shared_server.query(f"DROP ROLE IF EXISTS {name}; CREATE ROLE {name} LOGIN")
    done = pitr(tmp_path, "init", shared_server.url(user=name), "--archive", "archive", "--json")
    shared_server.query(f"DROP ROLE {name}")

    assert done.code == 3
    assert "may not replicate" in done.error["detail"]
    assert "ALTER ROLE" in done.error["hint"]
    assert list(tmp_path.iterdir()) == []


def test_detach_from_another_cluster_is_refused(
    make_server: ServerMaker, shared_server: Server, tmp_path: Path
) -> None:
    """It would leave the slot of the right one, and might drop somebody's of the same name."""
    succeed(tmp_path, "init", shared_server.url(), "--archive", "archive", "--name", "one")
    other = make_server()
    with connect(other.url()) as connection:
        create_slot(connection, "pitr_one")
    text = (tmp_path / "pitr.toml").read_text()
    (tmp_path / "pitr.toml").write_text(text.replace(str(shared_server.folder), str(other.folder)))
    done = pitr(tmp_path, "detach", "--yes")

    assert done.code == 3
    assert told(done.err)[0] == "error: this is another cluster than the archive's"
    assert other.value("SELECT count(*) FROM pg_replication_slots") == 1
