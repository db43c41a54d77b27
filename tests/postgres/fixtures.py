"""PostgreSQL servers for tests, of one major version or of all.

`major` parametrises a test over versions: 15 alone in `make test`, all of them under
`make test-matrix` (`--every-major`); a test marked `every_major` sees the oldest, 15 and the
newest in `make test`. `shared_server` is one server per worker and version for tests that only need
a database (ask for `database`); `server` and `make_server` give fresh ones.

pytest-postgresql is not used: its servers cannot be started as root, it knows one version at a
time, and what its `noproc` factory adds to servers of our own is the making of a database, which is
the one statement in `database` below.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from tools.postgres_binaries import MAJORS, NPM_VERSIONS, Unavailable, programs
from tools.postgres_servers import Server

MAJOR = 15
SHORT_FORM = (MAJORS[0], MAJOR, MAJORS[-1])
ServerMaker = Callable[..., Server]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --every-major, which `make test-matrix` gives."""
    parser.addoption(
        "--every-major",
        action="store_true",
        help="run each test that uses PostgreSQL on every major version",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark."""
    config.addinivalue_line("markers", "every_major: on several PostgreSQL versions in each run")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give `major` the versions that this run is about."""
    if "major" in metafunc.fixturenames:
        is_marked = any(metafunc.definition.iter_markers("every_major"))
        majors = SHORT_FORM if is_marked else (MAJOR,)
        if metafunc.config.getoption("every_major"):
            majors = MAJORS
        metafunc.parametrize("major", majors, scope="session", ids=lambda major: f"pg{major}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let pitr find the programs of the test's version when they are in none of the usual places.

    Before the test's fixtures of any scope are made, since they start commands too.
    """
    os.environ.pop("PITR_PG_BINDIR", None)
    params = item.callspec.params if hasattr(item, "callspec") else {}
    major = params.get("major", MAJOR)
    if major != MAJOR:
        with suppress(Unavailable):
            os.environ["PITR_PG_BINDIR"] = str(programs(major))


@pytest.fixture(scope="session")
def shared_servers() -> Iterator[Callable[[int], Server]]:
    """Return a function from a major version to this worker's one server of it."""
    with ExitStack() as stack:
        running: dict[int, Server] = {}

        def get(major: int) -> Server:
            if major not in running:
                running[major] = stack.enter_context(Server(available(major)))
            return running[major]

        yield get


@pytest.fixture
def shared_server(shared_servers: Callable[[int], Server], major: int) -> Server:
    """The worker's server of this version. Leave its settings and its other databases alone."""
    return shared_servers(major)


@pytest.fixture
def database(shared_server: Server) -> Iterator[str]:
    """Yield the name of a new, empty database of the shared server; it is dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    shared_server.query(f"CREATE DATABASE {name}")
    yield name
    shared_server.query(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def make_server(major: int) -> Iterator[ServerMaker]:
    """Return a function that makes and starts a server; its arguments are those of Server.

    `major` may be given too, else it is the test's. All are discarded at the end of the test.
    """
    with ExitStack() as stack:

        def make(**options: object) -> Server:
            options.setdefault("major", major)
            options["major"] = available(int(str(options["major"])))
            return stack.enter_context(Server(**options))  # type: ignore[arg-type]

        yield make


@pytest.fixture
def server(make_server: ServerMaker) -> Server:
    """A fresh server of this version with the settings of `tools/postgres_servers.py`."""
    return make_server()


def available(major: int) -> int:
    """Return the version when its programs are here; skip the test for want of an npm one.

    Versions that come from pip fail instead: a test that skips itself would be forgotten.
    """
    try:
        programs(major)
    except Unavailable as error:
        if major in NPM_VERSIONS:
            pytest.skip(str(error))
        raise
    return major
