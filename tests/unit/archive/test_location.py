"""The texts that name an archive's place. Goal: what is accepted is understood, secrets refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pitr.archive.cloud import CloudStore
from pitr.archive.local import LocalStore
from pitr.archive.location import open_store
from pitr.errors import PreconditionFailed, UsageError


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/srv/archive", "/srv/archive"),
        ("/srv/../srv//archive/", "/srv/archive"),
        ("file:///srv/archive", "/srv/archive"),
        ("file://localhost/srv/archive", "/srv/archive"),
        ("FILE:///srv/my%20archive", "/srv/my archive"),
        ("/srv/a:b", "/srv/a:b"),
        ("/srv/s3://x", "/srv/s3:/x"),
    ],
)
def test_folder_is_a_local_store(location: str, shown: str) -> None:
    """A path or a file URL names a folder; the store shows its absolute path."""
    store = open_store(location)

    assert isinstance(store, LocalStore)
    assert store.location == shown
    assert not store.is_remote


def test_relative_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path means the folder it meant when it was typed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    assert open_store("archive").location == str(tmp_path / "archive")
    assert open_store("./a:b").location == str(tmp_path / "a:b")
    assert open_store("~/archive").location == str(tmp_path / "home" / "archive")


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/some/prefix/", "s3://bucket/some/prefix"),
        ("S3://bucket/my%20prefix", "s3://bucket/my prefix"),
        ("gs://bucket/prefix", "gs://bucket/prefix"),
        ("az://container/prefix", "az://container/prefix"),
    ],
)
def test_bucket_is_a_remote_store(
    location: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The three clouds are reached by their schemes; nothing is asked of the network yet."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")

    store = open_store(location)

    assert isinstance(store, CloudStore)
    assert store.location == shown
    assert store.is_remote


@pytest.mark.parametrize(
    "location",
    [
        "", "http://host/archive", "https://bucket.s3.amazonaws.com/x", "ftp://host/x",
        "sqlite:///srv/x.db", "memory://", "memory:", "s3:bucket/prefix", "s3:/bucket/prefix",
        "s3://", "s3:///prefix", "s3://bucket:9000/prefix", "s3://bucket/a//b",
        "s3://bucket/../other", "s3://bucket/a/./b", "file:", "file://host/srv", "file://srv",
        "file:srv", "a\0b", "file:///a%00b", "~no-such-user/archive", "s3://[bucket", "az://",
        "gs:///x",
    ],
)  # fmt: skip
def test_other_text_is_refused_with_what_is_allowed(location: str) -> None:
    """A mistyped scheme never becomes a folder of that name; the error lists the forms."""
    with pytest.raises(UsageError) as raised:
        open_store(location)

    assert raised.value.exit_code == 2
    for form in ("a folder", "file:///PATH", "s3://", "gs://", "az://"):
        assert form in (raised.value.hint or "")


@pytest.mark.parametrize(
    "location",
    [
        "s3://key:hunter2@bucket/prefix", "s3://hunter2@bucket", "az://container/x?sig=hunter2",
        "https://user:hunter2@host/x", "s3://bucket/x#hunter2", "file://user:hunter2@host/x",
        "s3:key:hunter2@bucket",
    ],
)  # fmt: skip
def test_credentials_in_a_location_are_refused_and_not_repeated(location: str) -> None:
    """A secret in a location is neither used nor shown: it would be written to pitr.toml."""
    with pytest.raises(UsageError) as raised:
        open_store(location)

    error = raised.value
    assert "hunter2" not in f"{error.message} {error.detail} {error.hint}"


def test_azure_without_account_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment lacks is said before anything is tried."""
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_CONNECTION_STRING"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(PreconditionFailed, match="az://container") as raised:
        open_store("az://container/prefix")

    assert "Account" in (raised.value.detail or "")


@pytest.mark.parametrize(
    ("endpoint", "allowed", "accepted"),
    [
        ("http://127.0.0.1:9000", "", True),
        ("http://localhost:9000", "", True),
        ("http://minio.lan:9000", "", False),
        ("http://minio.lan:9000", "false", False),
        ("http://minio.lan:9000", "true", True),
        ("https://minio.lan:9000", "", True),
    ],
)
def test_plain_http_needs_the_users_word(
    endpoint: str, allowed: str, accepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive does not travel unencrypted over a network because of a mistyped letter."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ALLOW_HTTP", allowed)
    if accepted:
        open_store("s3://bucket/prefix")
        return

    with pytest.raises(PreconditionFailed) as raised:
        open_store("s3://bucket/prefix")
    assert "AWS_ALLOW_HTTP" in (raised.value.hint or "")
