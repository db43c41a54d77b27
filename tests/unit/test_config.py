"""pitr.toml, the environment and flags: precedence, strictness, and no password anywhere."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.config import Config, Settings, load, resolve_settings, write_source
from pitr.errors import NotConfigured, UsageError
from pitr.source_text import Source

ONE = """\
# written by hand
[source.orders]
source = "orders.db"
archive = "backup"
"""
TWO = (
    ONE
    + """
[source.users]
source = "/srv/users.db"
engine = "sqlite"
archive = "s3://bucket/users"
poll = "1s"
"""
)


def write(folder: Path, text: str) -> Path:
    path = folder / "pitr.toml"
    path.write_text(text)
    return path


def read(folder: Path, environ: dict[str, str] | None = None, path: Path | None = None) -> Config:
    return load(path, environ=environ or {}, cwd=folder)


def origins(settings: Settings) -> dict[str, tuple[str, str]]:
    return {setting.key: (setting.value, setting.origin) for setting in settings.shown}


# ---- finding the file ----------------------------------------------------------------------------


def test_file_is_found_from_a_folder_below(tmp_path: Path) -> None:
    """The nearest pitr.toml from the current folder upwards counts."""
    write(tmp_path, ONE)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert read(below).path == tmp_path / "pitr.toml"
    write(below.parent, TWO)
    assert read(below).path == below.parent / "pitr.toml"


def test_file_named_by_flag_goes_before_variable_and_search(tmp_path: Path) -> None:
    """--config over PITR_CONFIG over the search; both count from the current folder."""
    write(tmp_path, ONE)
    for name in ("flag.toml", "variable.toml"):
        (tmp_path / name).write_text(TWO)
    environ = {"PITR_CONFIG": "variable.toml"}
    assert read(tmp_path, environ).path == tmp_path / "variable.toml"
    assert read(tmp_path, environ, Path("flag.toml")).path == tmp_path / "flag.toml"
    assert read(tmp_path, {"PITR_CONFIG": ""}).path == tmp_path / "pitr.toml"


def test_file_that_was_named_and_is_not_there_is_no_configuration(tmp_path: Path) -> None:
    """A named file that cannot be read ends with exit 3, not with another file."""
    write(tmp_path, ONE)
    with pytest.raises(NotConfigured, match=r"absent\.toml"):
        read(tmp_path, path=Path("absent.toml"))


def test_no_file_is_no_fault_until_something_is_needed(tmp_path: Path) -> None:
    """An archive alone is enough for the commands that read it; a source is asked for by name."""
    settings = read(tmp_path).choose(flags={"archive": "backup"})
    assert settings.needed_archive() == str(tmp_path / "backup")
    assert settings.source is None
    with pytest.raises(NotConfigured, match="no source is configured"):
        settings.needed_source()
    with pytest.raises(NotConfigured, match="no archive is configured"):
        read(tmp_path).choose().needed_archive()


# ---- choosing and precedence ---------------------------------------------------------------------


def test_only_source_needs_no_choice(tmp_path: Path) -> None:
    """With one source its values hold, relative to the file, and the rest are defaults."""
    write(tmp_path, ONE)
    below = tmp_path / "below"
    below.mkdir()
    settings = read(below).choose()
    assert settings.name == "orders"
    assert settings.needed_source() == Source("sqlite", str(tmp_path / "orders.db"))
    assert settings.archive == str(tmp_path / "backup")
    assert settings.state == tmp_path / ".pitr"
    assert (settings.poll_us, settings.flush_us) == (250_000, 2_000_000)
    assert settings.spool_limit_bytes == 1 << 30
    assert settings.fine_window_us == 7 * 86_400_000_000


def test_several_sources_and_none_chosen_is_a_usage_error(tmp_path: Path) -> None:
    """The error names the sources and how to choose."""
    write(tmp_path, TWO)
    with pytest.raises(UsageError) as caught:
        read(tmp_path).choose()
    assert "orders, users" in (caught.value.detail or "")
    assert "--source orders" in (caught.value.hint or "")


def test_source_is_chosen_by_flag_then_variable_then_archive(tmp_path: Path) -> None:
    """--source over PITR_SOURCE; without either, the source that an archive belongs to."""
    write(tmp_path, TWO)
    by_variable = {"PITR_SOURCE": "users"}
    assert read(tmp_path, by_variable).choose().name == "users"
    assert read(tmp_path, by_variable).choose("orders").name == "orders"
    by_archive = read(tmp_path).choose(flags={"archive": "s3://bucket/users"})
    assert by_archive.name == "users"
    assert read(tmp_path).choose(flags={"archive": "elsewhere"}).name is None


def test_unknown_source_is_not_configured_and_names_the_known(tmp_path: Path) -> None:
    """A name that is not there is exit 3, with the names that are."""
    write(tmp_path, TWO)
    with pytest.raises(NotConfigured) as caught:
        read(tmp_path).choose("order")
    assert "orders, users" in (caught.value.detail or "")


def test_value_comes_from_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    """Each step of the precedence, with the origin that `config show` prints."""
    path = write(tmp_path, TWO)
    file_origin = f"{path} [source.users]"

    found = origins(read(tmp_path).choose("users"))
    assert found["poll"] == ("1s", file_origin)
    assert found["flush"] == ("2s", "default")
    assert found["name"] == ("users", "flag --source")
    assert found["source"] == ("/srv/users.db", file_origin)
    assert found["state"] == (str(tmp_path / ".pitr"), "default")

    environ = {"PITR_POLL": "2s", "PITR_ARCHIVE": "env", "PITR_SPOOL_LIMIT": "5MB"}
    settings = read(tmp_path, environ).choose("users", flags={"archive": None})
    assert origins(settings)["poll"] == ("2s", "environment PITR_POLL")
    assert origins(settings)["archive"] == (str(tmp_path / "env"), "environment PITR_ARCHIVE")
    assert (settings.poll_us, settings.spool_limit_bytes) == (2_000_000, 5 << 20)

    settings = read(tmp_path, environ).choose("users", flags={"poll": "3s", "archive": "flag"})
    assert origins(settings)["poll"] == ("3s", "flag --poll")
    assert origins(settings)["archive"] == (str(tmp_path / "flag"), "flag --archive")
    assert settings.poll_us == 3_000_000


def test_every_setting_has_its_variable(tmp_path: Path) -> None:
    """One variable per key, `PITR_` and the key in capitals."""
    write(tmp_path, ONE)
    environ = {
        "PITR_ARCHIVE": "/a",
        "PITR_POLL": "1ms",
        "PITR_FLUSH": "2ms",
        "PITR_SPOOL_LIMIT": "3B",
        "PITR_FINE_WINDOW": "4ms",
        "PITR_STATE": "/s",
    }
    settings = resolve_settings(
        config_path=None, source_name=None, flags={}, environ=environ, cwd=tmp_path
    )
    assert (settings.archive, settings.state) == ("/a", Path("/s"))
    assert (settings.poll_us, settings.flush_us) == (1000, 2000)
    assert (settings.spool_limit_bytes, settings.fine_window_us) == (3, 4000)


def test_state_without_a_file_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pitr.toml state lies where the desktop rules put it; a relative one counts not."""
    monkeypatch.setenv("HOME", str(tmp_path))
    fallback = tmp_path / ".local" / "state" / "pitr"
    assert read(tmp_path).choose().state == fallback
    assert read(tmp_path, {"XDG_STATE_HOME": "relative"}).choose().state == fallback
    assert read(tmp_path, {"XDG_STATE_HOME": "/x"}).choose().state == Path("/x/pitr")


@pytest.mark.parametrize("key", ["poll", "flush", "fine_window", "spool_limit"])
def test_quantity_that_makes_no_sense_names_where_it_comes_from(tmp_path: Path, key: str) -> None:
    """A bare number is no quantity, and the detail says whose value it is."""
    write(tmp_path, ONE)
    with pytest.raises(UsageError) as caught:
        read(tmp_path, {f"PITR_{key.upper()}": "10"}).choose()
    assert key in caught.value.message
    assert f"environment PITR_{key.upper()}" in (caught.value.detail or "")


# ---- strictness ----------------------------------------------------------------------------------

WRONG_FILES = [
    ('[source.a]\nsource = "x"\narchiv = "y"\n', "source.a.archiv", "'archive'"),
    ('[source.a]\nsource = "x"\nzzz = "y"\n', "source.a.zzz", "archive"),
    ('[sources.a]\nsource = "x"\n', "sources", "'source'"),
    ('archive = "x"\n', "archive is unknown", "source"),
    ('[source.a]\nsource = "x"\npoll = 250\n', "source.a.poll", "poll ="),
    ('[source.a]\nsource = ""\n', "source.a.source", "source ="),
    ('[source.a]\narchive = "x"\n', "source.a names no source", "source ="),
    ('[source.a]\nsource = "x"\nengine = "mysql"\n', "source.a.engine", "sqlite"),
    ('[source]\na = "x"\n', "source.a is no table", "[source.a]"),
    ('[[source]]\na = "x"\n', "source is no table", "[source.NAME]"),
    ('[source."a b"]\nsource = "x"\n', "source.a b is no name", "letters"),
    ('[source.a]\nsource = "x"\n[source.a.deep]\nx = "y"\n', "source.a.deep", "Known are"),
]


@pytest.mark.parametrize(("text", "key", "hint"), WRONG_FILES)
def test_wrong_key_is_refused_with_file_and_path(
    tmp_path: Path, text: str, key: str, hint: str
) -> None:
    """A key that pitr would not read is no comment: it is refused, by name."""
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read(tmp_path)
    assert key in caught.value.message
    assert str(path) in (caught.value.detail or "")
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b'[source.a]\nsource = "x"\nsource = "y"\n', "line 3"),
        (b"[source.a]\nsource = x\n", "line 2"),
        (b"[source.a]\nsource = '\xff'\n", "Byte 21"),
    ],
)
def test_file_that_is_no_toml_is_refused_with_the_line(
    tmp_path: Path, data: bytes, where: str
) -> None:
    """A syntax error names the file and the line."""
    (tmp_path / "pitr.toml").write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read(tmp_path)
    assert str(tmp_path / "pitr.toml") in caught.value.message
    assert where in (caught.value.detail or "")


def test_environment_stays_out_of_the_representation(tmp_path: Path) -> None:
    """Whatever shows a Config shows no variable, as they may hold secrets."""
    assert "hunter2" not in repr(read(tmp_path, {"PITR_ARCHIVE": "hunter2"}))


def test_home_is_expanded_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell reads pitr.toml, so `~/` is expanded there."""
    monkeypatch.setenv("HOME", "/some/home")
    write(tmp_path, '[source.a]\nsource = "~/orders.db"\narchive = "~/backup"\n')
    settings = read(tmp_path).choose()
    assert settings.needed_source().location == "/some/home/orders.db"
    assert settings.archive == "/some/home/backup"


POSTGRES = """\
[source.shop]
source = "postgresql://pitr@db.example/shop"
archive = "backup"
"""


def test_postgres_source_has_settings_of_its_own_with_defaults(tmp_path: Path) -> None:
    """The slot is named after the source; what SQLite alone needs is not shown."""
    write(tmp_path, POSTGRES.replace("source.shop", "source.My-Shop"))
    settings = read(tmp_path).choose()

    assert settings.needed_source() == Source("postgres", "postgresql://pitr@db.example/shop")
    assert settings.slot == "pitr_my_shop"
    assert (settings.database, settings.pg_bindir, settings.sidecar_user) == (
        None,
        None,
        "postgres",
    )
    assert "poll" not in origins(settings)
    assert origins(settings)["slot"] == ("pitr_my_shop", "default")


def test_postgres_settings_come_from_file_environment_and_flags(tmp_path: Path) -> None:
    """The same precedence; a folder in the file counts from the file."""
    write(tmp_path, POSTGRES + 'slot = "mine"\npg_bindir = "pg/bin"\nsidecar_user = "sam"\n')
    environ = {"PITR_SLOT": "theirs", "PITR_DATABASE": "books"}
    settings = read(tmp_path, environ).choose(flags={"database": "toys"})

    assert settings.slot == "theirs"
    assert settings.database == "toys"
    assert settings.pg_bindir == tmp_path / "pg" / "bin"
    assert settings.sidecar_user == "sam"


def test_slot_that_postgresql_would_refuse_is_refused_first(tmp_path: Path) -> None:
    """The name of a slot has its own alphabet."""
    write(tmp_path, POSTGRES + 'slot = "Mine"\n')
    with pytest.raises(UsageError, match="slot is not understood: 'Mine'"):
        read(tmp_path).choose()


def test_setting_of_another_engine_is_refused(tmp_path: Path) -> None:
    """A slot for a file, and a file called PostgreSQL, are mistakes that are not passed over."""
    write(tmp_path, ONE + 'slot = "mine"\n')
    with pytest.raises(UsageError, match=r"source\.orders\.slot means nothing here"):
        read(tmp_path).choose()
    write(tmp_path, ONE + 'engine = "postgres"\n')
    with pytest.raises(UsageError, match=r"source\.orders\.engine is not that of the source"):
        read(tmp_path).choose()


# ---- writing -------------------------------------------------------------------------------------

SETTINGS = {"source": "/srv/new.db", "engine": "sqlite", "archive": "/srv/archive"}


def test_write_source_makes_a_file_that_reads_back(tmp_path: Path) -> None:
    """A new file holds exactly the table."""
    path = tmp_path / "pitr.toml"
    assert write_source(path, "new", SETTINGS)
    settings = read(tmp_path).choose()
    assert settings.name == "new"
    assert settings.needed_source().location == "/srv/new.db"
    assert settings.archive == "/srv/archive"


@pytest.mark.parametrize("ending", ["", "\n", "\n\n# last words", "  # more"])
def test_write_source_leaves_what_was_there(tmp_path: Path, ending: str) -> None:
    """Comments, order and mode of a hand-written file stay; the table comes after."""
    path = write(tmp_path, ONE.rstrip("\n") + ending)
    path.chmod(0o640)
    before = path.read_bytes()
    assert write_source(path, "new", SETTINGS)
    assert path.read_bytes().startswith(before)
    assert path.stat().st_mode & 0o777 == 0o640
    assert set(read(tmp_path).sources) == {"orders", "new"}
    assert os.listdir(tmp_path) == ["pitr.toml"]


def test_write_source_keeps_a_link(tmp_path: Path) -> None:
    """A pitr.toml that is a link stays one; what it points to is extended."""
    (tmp_path / "etc").mkdir()
    real = write(tmp_path / "etc", ONE)
    (tmp_path / "pitr.toml").symlink_to(real)
    assert write_source(tmp_path / "pitr.toml", "new", SETTINGS)
    assert (tmp_path / "pitr.toml").is_symlink()
    assert "[source.new]" in real.read_text()


def test_write_source_twice_changes_nothing(tmp_path: Path) -> None:
    """The same source again is no error, also when written by hand in another way."""
    path = write(tmp_path, ONE + 'poll = "1s" # by hand\n')
    before = path.read_bytes()
    same = {
        "source": str(tmp_path / "orders.db"),
        "engine": "sqlite",
        "archive": f"file://{tmp_path}/backup",
    }
    assert not write_source(path, "orders", same)
    assert path.read_bytes() == before


@pytest.mark.parametrize("key", ["source", "archive"])
def test_write_source_with_a_taken_name_is_refused(tmp_path: Path, key: str) -> None:
    """A name stands for one source and one archive; nothing is overwritten."""
    path = tmp_path / "pitr.toml"
    write_source(path, "new", SETTINGS)
    before = path.read_bytes()
    with pytest.raises(UsageError) as caught:
        write_source(path, "new", {**SETTINGS, key: "/srv/other"})
    assert SETTINGS[key] in (caught.value.detail or "")
    assert "--name" in (caught.value.hint or "")
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["", "a b", "a.b", "ü", "x" * 65, 'a"'])
def test_write_source_with_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    """A name is a bare TOML key, so that it can be typed everywhere."""
    with pytest.raises(UsageError, match="is no name"):
        write_source(tmp_path / "pitr.toml", name, SETTINGS)
    assert not (tmp_path / "pitr.toml").exists()


def test_write_source_to_a_file_it_cannot_extend_is_refused(tmp_path: Path) -> None:
    """A file in which no table can be appended is left alone, with the table to add by hand."""
    path = write(tmp_path, 'source = { a = { source = "x" } }\n')
    before = path.read_bytes()
    with pytest.raises(UsageError, match="cannot be extended") as caught:
        write_source(path, "new", SETTINGS)
    assert "[source.new]" in (caught.value.hint or "")
    assert path.read_bytes() == before


def test_write_source_with_a_path_outside_utf8_is_refused(tmp_path: Path) -> None:
    """TOML is UTF-8: a path that is not cannot be written, and is not bent."""
    location = os.fsdecode(b"/srv/\xff.db")
    with pytest.raises(UsageError, match="cannot be written"):
        write_source(tmp_path / "pitr.toml", "new", {**SETTINGS, "source": location})


@given(st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs"])))
def test_written_text_reads_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    """Any path survives the file: quotes, control characters, all of Unicode."""
    path = tmp_path_factory.mktemp("config") / "pitr.toml"
    write_source(path, "a", {"source": text})
    assert tomllib.loads(path.read_bytes().decode())["source"]["a"] == {"source": text}
