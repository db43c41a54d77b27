"""pg_control, backup_label and pg_filenode.map against what PostgreSQL itself says of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pitr.errors import CorruptDatabase
from pitr.postgres.base.control import (
    CONTROL_PATH,
    parse_backup_label,
    parse_control,
    parse_filenode_map,
)
from pitr.vocabulary.position import Lsn
from tests.cli.commands import environment
from tests.postgres.fixtures import ServerMaker


@pytest.mark.every_major
def test_control_file_of_each_version_says_what_the_server_says(
    make_server: ServerMaker, major: int
) -> None:
    """Identity, checkpoint, next xid and settings are read at the right offsets."""
    settings = {"max_prepared_transactions": 7, "max_locks_per_transaction": 77}
    server = make_server(settings={**settings, "max_wal_senders": 6, "wal_log_hints": True})
    server.query("CREATE TABLE t (i int)")
    server.query("CHECKPOINT")
    system = server.query("SELECT system_identifier, catalog_version_no FROM pg_control_system()")
    fields = "checkpoint_lsn, redo_lsn, timeline_id, next_xid"
    point = server.query(f"SELECT {fields} FROM pg_control_checkpoint()")[0]
    found = parse_control((server.data / CONTROL_PATH).read_bytes())

    assert (found.system_identifier, found.catalog_version) == system[0]
    assert (str(found.checkpoint), str(found.redo), found.timeline) == point[:3]
    assert f"0:{found.next_xid}" == point[3]
    assert found.major == major
    assert (found.max_prepared_transactions, found.max_locks_per_transaction) == (7, 77)
    assert (found.max_connections, found.max_wal_senders, found.wal_log_hints) == (40, 6, True)
    assert (found.block_bytes, found.wal_block_bytes, found.wal_segment_bytes) == (
        8192,
        8192,
        16 << 20,
    )
    assert found.data_checksums


@pytest.mark.every_major
def test_filenode_map_of_each_version_names_the_files_of_mapped_catalogs(
    make_server: ServerMaker,
) -> None:
    """VACUUM FULL gives pg_class another file; the map has it, as the server says."""
    server = make_server()
    server.query("VACUUM FULL pg_class")
    server.query("CHECKPOINT")
    database = server.value("SELECT oid FROM pg_database WHERE datname = 'postgres'")
    number = server.value("SELECT pg_relation_filenode('pg_class')")
    found = parse_filenode_map((server.data / f"base/{database}/pg_filenode.map").read_bytes())

    assert number >= 16384
    assert found[1259] == number


def test_backup_label_says_where_recovery_begins() -> None:
    """Redo point, checkpoint, timeline and role are found; the timeline also without its line."""
    lines = [
        "START WAL LOCATION: 0/2000028 (file 000000030000000000000002)",
        "CHECKPOINT LOCATION: 0/2000060",
        "BACKUP METHOD: streamed",
        "BACKUP FROM: standby",
    ]
    found = parse_backup_label("\n".join(lines))

    assert (found.redo, found.checkpoint) == (Lsn(0x2000028), Lsn(0x2000060))
    assert (found.timeline, found.from_standby) == (3, True)


@pytest.mark.parametrize("data", [b"", b"\0" * 8192, b"\1" * 100])
def test_bytes_that_are_no_control_file_are_refused(data: bytes) -> None:
    """Too short, or of no known catalog version: an error and no values."""
    with pytest.raises(CorruptDatabase):
        parse_control(data)
    with pytest.raises(CorruptDatabase):
        parse_filenode_map(data)


def test_backup_label_without_its_lines_is_refused() -> None:
    """A label that names no checkpoint is damaged."""
    with pytest.raises(CorruptDatabase):
        parse_backup_label("START WAL LOCATION: 0/2000028 (file 000000030000000000000002)\n")


def test_debug_control_shows_a_control_file(make_server: ServerMaker, tmp_path: Path) -> None:
    """The command prints the fields, LSNs as LSNs."""
    copy = tmp_path / "pg_control"
    copy.write_bytes((make_server().data / CONTROL_PATH).read_bytes())
    command = [sys.executable, "-m", "pitr", "debug", "control", str(copy)]
    shown, document = (
        subprocess.run(
            [*command, *more], env=environment(), capture_output=True, text=True, check=True
        ).stdout
        for more in ([], ["--json"])
    )

    assert "max_connections" in shown
    assert json.loads(document)["redo"] in shown
