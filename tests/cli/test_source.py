"""init, check, config: from a database to a configured source, and what can stand in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import pitr, succeed, told, write
from tests.cli.conftest import ORDERS, Shop


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two databases, of which `one` is configured."""
    for name in ("one.db", "two.db"):
        write(tmp_path / name, ORDERS, f"INSERT INTO orders (item) VALUES ('{name}')")
    succeed(tmp_path, "init", "one.db", "--archive", "archive-one")
    return tmp_path


def test_init_writes_the_source_and_says_where(tmp_path: Path) -> None:
    """The document has name, source, archive and config as absolute paths."""
    write(tmp_path / "s.db", ORDERS)
    found = succeed(tmp_path, "init", "s.db", "--archive", "a", "--json").json

    assert (found["name"], found["adopted"]) == ("s", False)
    assert found["source"] == str(tmp_path / "s.db")
    assert found["archive"] == str(tmp_path / "a")
    assert found["config"] == str(tmp_path / "pitr.toml")
    assert (tmp_path / "pitr.toml").read_text() == (
        f'[source.s]\nsource = "{tmp_path}/s.db"\nengine = "sqlite"\narchive = "{tmp_path}/a"\n'
    )


def test_init_again_adopts_the_archive(folder: Path) -> None:
    """The same source at the same place is no error, and nothing is written twice."""
    before = (folder / "pitr.toml").read_text()
    done = succeed(folder, "init", "one.db", "--archive", "archive-one")

    assert f"archive  {folder / 'archive-one'} (adopted)\n" in done.out
    assert (folder / "pitr.toml").read_text() == before


def test_init_of_another_source_at_the_same_place_is_refused(folder: Path) -> None:
    """One archive holds one source: exit 3, both named, and no configuration is written."""
    before = (folder / "pitr.toml").read_text()
    done = pitr(folder, "init", "two.db", "--archive", "archive-one")

    assert done.code == 3
    assert told(done.err) == [
        f"error: the archive at {folder / 'archive-one'} holds another source",
        f"detail: It holds sqlite (path {folder / 'one.db'}); "
        f"this is sqlite (path {folder / 'two.db'}).",
        "hint: Name another LOCATION with --archive: one archive holds one source.",
    ]
    assert (folder / "pitr.toml").read_text() == before


def test_init_with_a_name_that_is_taken_makes_no_archive(folder: Path) -> None:
    """What can be seen to fail fails before anything is made."""
    done = pitr(folder, "init", "two.db", "--archive", "archive-two", "--name", "one")

    assert done.code == 2
    assert told(done.err)[0] == "error: source 'one' is configured already, and differently"
    assert not (folder / "archive-two").exists()


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ("nowhere.db", 3, "{folder}/nowhere.db cannot be captured"),
        (".", 3, "{folder} cannot be captured"),
        ("text", 3, "{folder}/text cannot be captured"),
        ("postgresql://u:secret@h/db", 2, "source holds a password: 'postgresql://u@h/db'"),
        ("mysql://h/db", 2, "source is not understood: 'mysql://h/db'"),
        (":memory:", 2, "source is not understood: ':memory:'"),
    ],
)
def test_init_of_what_is_no_database_says_so(
    tmp_path: Path, source: str, code: int, message: str
) -> None:
    """Missing, a folder, another file, another engine: one line each, and nothing is made."""
    (tmp_path / "text").write_text("not a database, by far")
    done = pitr(tmp_path, "init", source, "--archive", "archive", "--json")

    assert (done.code, done.error["message"]) == (code, message.format(folder=tmp_path))
    assert done.error["hint"]
    assert "secret" not in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text"]


def test_check_has_findings_with_remedies(folder: Path) -> None:
    """0 when capture is possible; 3 with the line that mends it when it is not."""
    found = succeed(folder, "check", "--json").json
    (folder / "one.db").unlink()
    failed = pitr(folder, "check", "--json")

    assert found["ok"] is True
    assert {"level", "subject", "detail", "remedy"} == found["findings"][0].keys()
    assert (failed.code, failed.json["ok"]) == (3, False)
    [broken, *_] = [item for item in failed.json["findings"] if item["level"] == "fail"]
    assert broken["remedy"]


def test_config_show_says_where_each_value_comes_from(folder: Path) -> None:
    """Flag over environment over file over default."""
    changes = {"PITR_POLL": "100ms", "PITR_ARCHIVE": "elsewhere"}
    shown = succeed(folder, "config", "show", "--archive", "there", "--json", **changes).json
    found = {item["key"]: (item["value"], item["origin"]) for item in shown["settings"]}

    assert found["archive"] == (str(folder / "there"), "flag --archive")
    assert found["poll"] == ("100ms", "environment PITR_POLL")
    assert found["source"] == (str(folder / "one.db"), f"{folder / 'pitr.toml'} [source.one]")
    assert found["fine_window"] == ("7d", "default")


def test_several_sources_need_a_choice(folder: Path) -> None:
    """Without one exit 2 and the line to use; a flag, a variable or the archive chooses."""
    succeed(folder, "init", "two.db", "--archive", "archive-two")
    for name in ("one", "two"):
        succeed(folder, "capture", "--once", "--source", name)
    undecided = pitr(folder, "status")
    asked = ("sql", "--at", "latest", "SELECT item FROM orders", "--json")

    assert undecided.code == 2
    assert told(undecided.err) == [
        "error: several sources are configured and none is chosen",
        f"detail: {folder / 'pitr.toml'} names one, two.",
        "hint: Choose one with '--source one', or set PITR_SOURCE.",
    ]
    assert succeed(folder, *asked, "--source", "two").json["rows"] == [["two.db"]]
    assert succeed(folder, *asked, PITR_SOURCE="one").json["rows"] == [["one.db"]]
    assert succeed(folder, *asked, "--archive", "archive-two").json["rows"] == [["two.db"]]


def test_capture_of_one_source_into_the_archive_of_another_is_refused(folder: Path) -> None:
    """Nothing of the second source gets into the first one's archive."""
    succeed(folder, "init", "two.db", "--archive", "archive-two")
    words = ("capture", "--once", "--source", "two", "--archive", "archive-one")
    done = pitr(folder, *words, "--json")

    assert (done.code, done.error["kind"]) == (3, "IdentityMismatch")
    assert not list((folder / "archive-one").glob("log/*"))


def test_configuration_is_found_from_a_folder_below(shop: Shop) -> None:
    """pitr.toml is looked for upwards; PITR_CONFIG and --config name another one."""
    below = shop.folder / "a" / "b"
    below.mkdir(parents=True)

    assert succeed(below, "status", "--json").json["positions"]
    assert pitr(below, "status", PITR_CONFIG="nowhere.toml").code == 3
    assert pitr(below, "status", "--config", "nowhere.toml").code == 3


@pytest.mark.parametrize("words", [("status",), ("restore", "-t", "orders", "--at", "10m")])
def test_command_without_configuration_names_the_next_step(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Nothing configured: exit 3 and the command that configures."""
    done = pitr(tmp_path, *words)

    assert done.code == 3
    assert told(done.err) == [
        "error: no archive is configured",
        "detail: There is no pitr.toml in this folder or above it.",
        "hint: Run 'pitr init SOURCE --archive LOCATION' first, or choose with '--source NAME' "
        "or '--config FILE'.",
    ]


@pytest.mark.parametrize("poll", ["0s", "abc", "-1s"])
def test_poll_that_is_no_length_of_time_is_refused(folder: Path, poll: str) -> None:
    """A poll of nothing would keep a core busy."""
    assert pitr(folder, "capture", "--once", "--poll", poll).code == 2
