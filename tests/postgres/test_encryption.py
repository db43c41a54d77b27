"""An encrypted archive of a cluster: capture, wal-push, backup, restore; nothing in plain."""

from __future__ import annotations

import os
from pathlib import Path

from tests.cli.commands import pitr, succeed
from tests.postgres.fixtures import ServerMaker
from tests.postgres.replay_world import world_folder

WORDS = [b"zerzura", b"Zerzura"]


def plain_words(place: Path) -> list[str]:
    """Return what below a folder shows a planted word."""
    found = []
    for path in sorted(place.rglob("*")):
        text = str(path.relative_to(place)).encode() + (
            path.read_bytes() if path.is_file() else b""
        )
        found += [f"{path}: {word!r}" for word in WORDS if word in text]
    return found


def test_cluster_is_captured_and_recovered_without_a_plain_word(
    make_server: ServerMaker, tmp_path: Path
) -> None:
    """Rows, names of tables and marks stay unreadable in store and state folder; all comes back.

    A segment that capture stored is stored already for wal-push: what is sealed is compared.
    """
    server = make_server(settings={"wal_keep_size": "1GB"}, segment_megabytes=1)
    server.query("CREATE TABLE zerzura_table (id int PRIMARY KEY, word text, noise text)")
    rows = "SELECT i, 'Zerzura-row ' || i, md5(i::text) FROM generate_series(1, 3000) AS i"
    server.query(f"INSERT INTO zerzura_table {rows}")
    segment = server.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
    with world_folder() as sidecars:
        os.environ["PITR_SIDECAR_FOLDER"] = str(sidecars)
        os.environ["PITR_STATE"] = str(tmp_path / "state")
        try:
            succeed(tmp_path, "init", server.url(), "--archive", "archive", "--key-file", "key")
            succeed(tmp_path, "backup", "--checkpoint", "fast")
            server.query("UPDATE zerzura_table SET word = word || ' Zerzura'")
            server.query("SELECT pg_switch_wal()")
            succeed(tmp_path, "mark", "zerzura")
            server.query("DELETE FROM zerzura_table")
            succeed(tmp_path, "capture", "--once")
            pushed = succeed(tmp_path, "wal-push", str(server.data / "pg_wal" / str(segment)))
            archive = [path for path in (tmp_path / "archive").rglob("*") if path.is_file()]
            assert {path.relative_to(tmp_path / "archive").parts[0] for path in archive} >= {
                "base", "pack", "wal", "catalog", "mark", "key", "lease",
            }  # fmt: skip
            assert pushed.code == 0
            assert plain_words(tmp_path / "archive") == []
            assert plain_words(tmp_path / "state") == []
            found = succeed(
                tmp_path, "restore", "-t", "zerzura_table", "--at", "name:zerzura", "--json"
            ).json
            assert found["tables"][0]["missing_in_live"] == 3000
            (tmp_path / "other").write_text("f" * 64)
            wrong = pitr(tmp_path, "log", "-t", "zerzura_table", "--key-file", "other")
            assert wrong.code == 5
        finally:
            del os.environ["PITR_SIDECAR_FOLDER"], os.environ["PITR_STATE"]
