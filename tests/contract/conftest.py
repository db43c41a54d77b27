"""The stores that the contract is tried on, each at a fresh place for every test."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pitr.archive.keys import Method, Secret, create_keys
from pitr.archive.location import open_store
from pitr.archive.store import Store
from tests.memory_store import MemoryStore
from tools import s3_servers

SECRET = Secret(Method.KEY_FILE, bytes(range(32)), "a test")
StoreMaker = Callable[[str], Store]


@pytest.fixture(scope="session")
def moto_server() -> Iterator[s3_servers.Server]:
    """A moto server for the session; when it cannot be installed the tests fail."""
    with s3_servers.moto() as server:
        yield server


@pytest.fixture(scope="session")
def ceph_server() -> Iterator[s3_servers.Server]:
    """A Ceph object gateway, the one that `make test-s3` started or one of our own."""
    with s3_servers.ceph() as server:
        yield server


@pytest.fixture
def moto_environment(
    moto_server: s3_servers.Server, monkeypatch: pytest.MonkeyPatch
) -> s3_servers.Server:
    """The environment variables with which a user would reach the moto server."""
    for name, value in moto_server.environment().items():
        monkeypatch.setenv(name, value)
    return moto_server


@pytest.fixture(
    params=["local", "memory", "encrypted", "moto", pytest.param("ceph", marks=pytest.mark.s3)]
)
def make_store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StoreMaker:
    """Return a function from a name to the store at the place of that name.

    Asked twice for a name it gives two stores on one place, as two processes would have them;
    memory is the exception, where both are the same.
    """
    if request.param == "local":
        return lambda name: open_store(str(tmp_path / name))
    if request.param == "memory":
        stores: dict[str, Store] = {}
        return lambda name: stores.setdefault(name, MemoryStore())
    if request.param == "encrypted":
        return lambda name: create_keys(open_store(str(tmp_path / name)), SECRET)
    server: s3_servers.Server = request.getfixturevalue(f"{request.param}_server")
    for variable, value in server.environment().items():
        monkeypatch.setenv(variable, value)
    place = f"s3://{s3_servers.BUCKET}/{uuid.uuid4().hex}"
    return lambda name: open_store(f"{place}/{name}")


@pytest.fixture
def store(make_store: StoreMaker) -> Store:
    return make_store("archive")
