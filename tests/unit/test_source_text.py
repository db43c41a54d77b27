"""The texts of sources and archives: what they mean, how they are kept, and no password in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pitr.errors import UsageError
from pitr.source_text import Source, parse_archive, parse_source, without_password


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("orders.db", "/base/orders.db"),
        ("./orders.db", "/base/orders.db"),
        ("sub/orders.db", "/base/sub/orders.db"),
        ("/srv/orders.db", "/srv/orders.db"),
        ("/srv/my orders.db", "/srv/my orders.db"),
        ("sqlite:///srv/orders.db", "/srv/orders.db"),
        ("sqlite:////srv/orders.db", "/srv/orders.db"),
        ("sqlite:///srv/my%20orders.db", "/srv/my orders.db"),
        ("/srv/100%25.db", "/srv/100%25.db"),
        ("./service=x", "/base/service=x"),
    ],
)
def test_sqlite_source_becomes_an_absolute_path(text: str, location: str) -> None:
    """Each spelling of a SQLite file is one absolute path."""
    assert parse_source(text, folder=Path("/base")) == Source("sqlite", location)


def test_source_above_a_linked_folder_is_what_the_system_would_open(tmp_path: Path) -> None:
    """`..` behind a link leads to the folder above the link's aim; links themselves are kept."""
    real = tmp_path / "real" / "deep"
    real.mkdir(parents=True)
    (tmp_path / "link").symlink_to(real)
    through = parse_source("link/../orders.db", folder=tmp_path)
    assert through.path == (tmp_path / "real" / "orders.db").resolve()
    kept = parse_source("link/orders.db", folder=tmp_path)
    assert kept.path == tmp_path / "link" / "orders.db"


@pytest.mark.parametrize(
    "text",
    ["", "  ", ":memory:", "file:orders.db?mode=ro", "sqlite://orders.db", "sqlite:///a?mode=ro",
     "sqlite:///", "postgres:shop",
     "mysql://host/db", "jdbc:postgresql://host/db", "a\0b", "sqlite:///a%00b"],
)  # fmt: skip
def test_text_that_is_no_source_is_refused(text: str) -> None:
    """What names no database file is a usage error with an example."""
    with pytest.raises(UsageError) as caught:
        parse_source(text, folder=Path("/base"))
    assert caught.value.exit_code == 2
    assert "pitr init" in (caught.value.hint or "")


PASSWORDS = [
    "postgresql://me:hunter2@host/db",
    "postgres://me:hunter2@host:5432/db?sslmode=require",
    "postgresql://me:hun/ter2@host/db",
    "postgresql://me:hunter2@weird@host/db",
    "postgresql://host/db?user=me&password=hunter2",
    "postgresql://host/db?sslpassword=hunter2&user=me",
    "host=db password=hunter2 user=me",
    "password = 'hun ter2' host=db",
    r"host=db password='it\'s hunter2'",
    "host=db password='hunter2",
    "service=x PASSWORD=hunter2",
]


@pytest.mark.parametrize("text", PASSWORDS)
def test_source_with_a_password_is_refused_without_showing_it(text: str) -> None:
    """It would end up in the file; the error shows where it belongs, and no part of it."""
    with pytest.raises(UsageError, match="holds a password") as caught:
        parse_source(text, folder=Path("/base"))
    shown = f"{caught.value.message} {caught.value.detail} {caught.value.hint}"
    assert "ter2" not in shown
    assert "pgpass" in shown
    assert "ter2" not in without_password(text)


@pytest.mark.parametrize(
    ("text", "location", "name"),
    [
        ("postgresql:///db", "postgresql:///db", "db"),
        (
            " postgres://me@host/db?sslmode=require ",
            "postgresql://me@host/db?sslmode=require",
            "db",
        ),
        ("postgresql://me@db.example:6432", "postgresql://me@db.example:6432", "db-example"),
        ("postgresql://a:1,b:2/my%20shop", "postgresql://a:1,b:2/my%20shop", "my-shop"),
        ("postgresql:///?service=prod", "postgresql:///?service=prod", "prod"),
        ("postgresql://", "postgresql://", "postgres"),
        ("service=prod", "service=prod", "prod"),
        ("dbname='my shop' host=y", "dbname='my shop' host=y", "my"),
        ("host=/run/pg port=5433", "host=/run/pg port=5433", "run-pg"),
        ("postgresql://h/db?passfile=/etc/pgpass", "postgresql://h/db?passfile=/etc/pgpass", "db"),
    ],
)
def test_postgres_source_is_kept_as_libpq_reads_it(text: str, location: str, name: str) -> None:
    """A URL, a service and key=value pairs stay what they are, and lend the source a name."""
    source = parse_source(text, folder=Path("/base"))

    assert source == Source("postgres", location)
    assert source.default_name == name
    assert without_password(location) == location


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("backup", "/base/backup"),
        ("backup/", "/base/backup"),
        ("/srv/backup", "/srv/backup"),
        ("file:///srv/my%20backup", "/srv/my backup"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("gs://bucket", "gs://bucket"),
        ("az://container/a", "az://container/a"),
        ("ftp://host/a", "ftp://host/a"),  # for the archive to refuse
    ],
)
def test_archive_folder_becomes_absolute_and_urls_stay(text: str, location: str) -> None:
    """A folder does not depend on where a command is run; a URL never did."""
    assert parse_archive(text, folder=Path("/base")) == location


def test_archive_with_a_password_is_refused_without_showing_it() -> None:
    """Credentials in a location would end up in the file, so they are refused before."""
    with pytest.raises(UsageError) as caught:
        parse_archive("s3://key:hunter2@bucket/x", folder=Path("/base"))
    assert "hunter2" not in f"{caught.value.message} {caught.value.detail} {caught.value.hint}"


@pytest.mark.parametrize(
    ("path", "name"),
    [("/srv/orders.db", "orders"), ("/srv/my orders.v2.db", "my-orders-v2"), ("/srv/ü.db", "main")],
)
def test_default_name_is_made_of_the_file_name(path: str, name: str) -> None:
    """A source gets a name that is allowed as one."""
    assert Source("sqlite", path).default_name == name
