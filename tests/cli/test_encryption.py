"""An encrypted archive from the command line: nothing of the source reaches store or disk."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.commands import pitr, succeed, told, write

ROW, TABLE, MARK, FOLDER = "Zerzura-row", "zerzura_table", "zerzura mark", "zerzura-folder"
PLANTED = [b"zerzura", b"Zerzura"]
WRONG = {"PITR_PASSPHRASE": "another phrase than that"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with an encrypted archive of a database with planted words, and history."""
    folder = tmp_path / FOLDER
    folder.mkdir()
    # Random beside the planted words, so that pages do not compress to nothing.
    write(
        folder / "s.db",
        f"CREATE TABLE {TABLE} (id INTEGER PRIMARY KEY, word TEXT, noise BLOB)",
        f"WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)"
        f" INSERT INTO {TABLE} SELECT i, '{ROW}' || i, randomblob(500) FROM n",
    )
    succeed(folder, "init", "s.db", "--archive", "archive", "--key-file", "secret/key")
    succeed(folder, "capture", "--once")
    succeed(folder, "mark", MARK)
    write(folder / "s.db", f"DELETE FROM {TABLE} WHERE id <= 100")
    succeed(folder, "capture", "--once")
    return folder


def plain_words(place: Path) -> list[str]:
    """Return what below a folder shows a planted word: in the bytes of a file or in its name."""
    found = []
    for path in sorted(place.rglob("*")):
        text = str(path.relative_to(place)).encode() + (
            path.read_bytes() if path.is_file() else b""
        )
        found += [f"{path}: {word!r}" for word in PLANTED if word in text]
    return found


def test_nothing_plain_reaches_the_archive(folder: Path) -> None:
    """Rows, names of tables, marks and paths: none is in an object or in the name of one."""
    succeed(folder, "backup")

    assert [path for path in (folder / "archive").rglob("*") if path.is_file()]
    assert plain_words(folder / "archive") == []
    # The search can find: the same in a plain archive.
    succeed(folder, "init", "s.db", "--archive", "plain", "--name", "plain")
    succeed(folder, "capture", "--once", "--source", "plain")
    assert plain_words(folder / "plain") != []


def test_key_is_made_once_for_its_owner_and_named_in_the_configuration(folder: Path) -> None:
    """The file has mode 0600, pitr.toml its absolute path, and init again changes nothing."""
    key = folder / "secret" / "key"
    before = key.read_bytes()
    again = succeed(folder, "init", "s.db", "--archive", "archive", "--key-file", "secret/key")

    assert key.stat().st_mode & 0o777 == 0o600
    assert f'key_file = "{key}"' in (folder / "pitr.toml").read_text()
    assert key.read_bytes() == before
    assert "(adopted)" in again.out


def test_rows_come_back_through_every_reading_command(folder: Path) -> None:
    """log, sql, restore, verify and status work as on a plain archive."""
    assert succeed(folder, "verify", "--json").json["ok"]
    log = succeed(folder, "log", "-t", TABLE, "--json").json["transactions"]
    assert [(item["table"], item["deleted"]) for item in log[-1]["tables"]] == [(TABLE, 100)]
    found = succeed(
        folder, "sql", "--at", f"name:{MARK}", f"SELECT count(*) FROM {TABLE}", "--json"
    )
    assert found.json["rows"] == [[500]]
    restored = succeed(folder, "restore", "-t", TABLE, "--at", f"name:{MARK}", "--json").json
    assert restored["tables"][0]["missing_in_live"] == 100
    assert succeed(folder, "status", "--json").json["marks"][0]["name"] == MARK


def test_archive_alone_needs_its_key(folder: Path, tmp_path: Path) -> None:
    """On a fresh machine: without a key exit 3 and how to name one; with it the rows."""
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    words = ("sql", "--at", "latest", f"SELECT count(*) FROM {TABLE}", "--json")
    place = ("--archive", str(folder / "archive"))
    key = str(folder / "secret" / "key")

    without = pitr(fresh, *words[:-1], *place)
    assert without.code == 3
    assert told(without.err)[0] == f"error: the archive at {folder / 'archive'} is encrypted"
    assert "PITR_KEY_FILE" in told(without.err)[2]
    assert succeed(fresh, *words, *place, "--key-file", key).json["rows"] == [[400]]
    assert succeed(fresh, *words, *place, PITR_KEY_FILE=key).json["rows"] == [[400]]


def test_wrong_key_is_said_and_ends_with_5(folder: Path) -> None:
    """Another key file, a passphrase where a key file belongs: exit 5, and nothing is written."""
    (folder / "other").write_text("f" * 64)
    before = sorted(str(path) for path in (folder / "archive").rglob("*"))
    wrong = pitr(folder, "capture", "--once", PITR_KEY_FILE=str(folder / "other"))
    phrase = pitr(folder, "status", **WRONG)

    assert wrong.code == 5
    assert told(wrong.err)[0] == (
        f"error: the key file does not open the archive at {folder / 'archive'}"
    )
    assert phrase.code == 5
    assert told(phrase.err)[0] == (
        f"error: the archive at {folder / 'archive'} is opened by a key file"
    )
    assert sorted(str(path) for path in (folder / "archive").rglob("*")) == before


def test_key_file_that_is_missing_or_short_is_said(folder: Path) -> None:
    """Only init makes key files; exit 3 and the path."""
    gone = pitr(folder, "status", "--key-file", "nowhere")
    (folder / "short").write_text("abc")
    short = pitr(folder, "status", "--key-file", "short")

    assert (gone.code, short.code) == (3, 3)
    assert told(gone.err)[0] == f"error: the key file cannot be read: {folder / 'nowhere'}"
    assert told(short.err)[0] == f"error: this is no key file: {folder / 'short'}"


def test_plain_archive_is_never_written_where_a_key_is_configured(folder: Path) -> None:
    """A store that gives a plain archive for an encrypted one gets nothing: exit 3."""
    succeed(folder, "init", "s.db", "--archive", "plain", "--name", "plain")
    key = str(folder / "secret" / "key")
    for words in (("capture", "--once"), ("status",)):
        done = pitr(folder, *words, "--source", "plain", PITR_KEY_FILE=key)
        assert done.code == 3
        assert told(done.err)[0] == f"error: the archive at {folder / 'plain'} is not encrypted"


def test_passphrase_opens_and_is_never_shown(tmp_path: Path) -> None:
    """From the environment and from a file; config show names its origin only."""
    phrase = "seven words that nobody would guess"
    write(tmp_path / "s.db", "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)")
    succeed(tmp_path, "init", "s.db", "--archive", "archive", PITR_PASSPHRASE=phrase)
    succeed(tmp_path, "capture", "--once", PITR_PASSPHRASE=phrase)
    (tmp_path / "phrase").write_text(phrase + "\n")
    shown = succeed(tmp_path, "config", "show", PITR_PASSPHRASE=phrase).out

    words = ("sql", "--at", "latest", "SELECT * FROM t", "--json")
    found = succeed(tmp_path, *words, PITR_PASSPHRASE_FILE=str(tmp_path / "phrase"))
    assert found.json["rows"] == [[1]]
    assert phrase not in shown
    assert "environment PITR_PASSPHRASE" in shown
    assert phrase not in (tmp_path / "pitr.toml").read_text()
    assert pitr(tmp_path, "status", **WRONG).code == 5
    assert pitr(tmp_path, "status", PITR_PASSPHRASE=phrase, PITR_KEY_FILE="x").code == 2


def test_rotation_keeps_what_is_there_and_shuts_the_old_key_out(folder: Path) -> None:
    """New objects have the new key; the new key file opens all of them, the old one nothing."""
    before = succeed(folder, "key", "show", "--json").json
    rotated = succeed(folder, "key", "rotate", "--new-key-file", "secret/next", "--json").json
    new_key = str(folder / "secret" / "next")
    write(folder / "s.db", f"DELETE FROM {TABLE} WHERE id > 400")
    succeed(folder, "capture", "--once", PITR_KEY_FILE=new_key)

    assert set(before["known"]) < set(rotated["known"])
    assert rotated["current"] not in before["known"]
    ids = {path.read_bytes()[16:24].hex() for path in (folder / "archive" / "log").rglob("*")}
    assert ids == {before["current"], rotated["current"]}
    count = ("sql", "--at", f"name:{MARK}", f"SELECT count(*) FROM {TABLE}", "--json")
    assert succeed(folder, *count, PITR_KEY_FILE=new_key).json["rows"] == [[500]]
    assert succeed(folder, "verify", "--json", PITR_KEY_FILE=new_key).json["ok"]
    assert pitr(folder, "status").code == 5  # pitr.toml still names the old one


def test_spool_is_encrypted_and_delivered(folder: Path) -> None:
    """What waits on disk for a store that fails shows nothing, and arrives later."""
    write(folder / "s.db", f"INSERT INTO {TABLE} VALUES (1000, '{ROW} spooled', NULL)")
    moved = folder / "moved"
    (folder / "archive" / "log").rename(moved)
    (folder / "archive" / "log").write_text("")  # no folder: every write fails
    failed = pitr(folder, "capture", "--once")
    spooled = [path for path in (folder / ".pitr").rglob("*") if path.is_file()]
    (folder / "archive" / "log").unlink()
    moved.rename(folder / "archive" / "log")

    if failed.code == 0 or not spooled:
        pytest.fail(f"nothing was spooled: {failed.err}")
    assert plain_words(folder / ".pitr") == []
    succeed(folder, "capture", "--once")
    words = ("sql", "--at", "latest", f"SELECT word FROM {TABLE} WHERE id = 1000", "--json")
    assert succeed(folder, *words).json["rows"] == [[f"{ROW} spooled"]]


def test_altered_object_is_damage_not_a_wrong_key(folder: Path) -> None:
    """A byte changed in the store is found by verify, and named by its key."""
    path = max((folder / "archive" / "log").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    os.chmod(path, 0o600)
    path.write_bytes(data)
    done = pitr(folder, "verify", "--json")

    assert done.code == 1
    assert [item["object"].startswith("log/") for item in done.json["damaged"]] == [True]


def test_sidecar_of_an_encrypted_archive_is_a_plain_database(folder: Path) -> None:
    """Encryption ends at the archive: what is restored is read by everybody who may read it."""
    restored = succeed(folder, "restore", "-t", TABLE, "--at", f"name:{MARK}", "--json").json
    with closing(sqlite3.connect(restored["sidecar"])) as sidecar:
        [(count,)] = sidecar.execute(f"SELECT count(*) FROM {TABLE}").fetchall()

    assert count == 500
