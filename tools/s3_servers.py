"""Install, start and stop the S3 servers that the store tests run against.

    python tools/s3_servers.py moto     start moto, print the environment that reaches it
    python tools/s3_servers.py ceph     start a Ceph object gateway, the same
    python tools/s3_servers.py stop     stop what the two lines above started

moto is a Python imitation of S3 and takes seconds; it lives in a virtual environment of its own,
because its 190 MB of requirements are none of ours. Ceph is a real S3 server, with signatures and
its own idea of conditional writes; its Debian packages are unpacked into a folder and run from
there, so that nothing is installed. Everything rests under `.cache/` and listens on the loopback
address only. A server started here runs until `stop`; tests use `moto()` and `ceph()` instead.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache"
MOTO_IN_TURN = Path(__file__).resolve().parent / "moto_in_turn.py"
MOTO_REQUIREMENT = "moto[server]>=5.1,<6"
CEPH_PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-common")
BUCKET = "pitr-test"

# The processes that this one started, and has to wait for once it has killed them.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Server:
    """A running server: where it listens, how to sign, and its processes in stopping order."""

    endpoint: str
    access_key: str
    secret_key: str
    pids: list[int] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which an S3 client reaches the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }


@contextlib.contextmanager
def moto() -> Iterator[Server]:
    """Run a moto server of one's own, with the bucket made, for as long as the block lasts."""
    with contextlib.ExitStack() as stack:
        server = start_moto()
        stack.callback(moto_log(server.endpoint).unlink)
        stack.callback(stop, server)
        yield server


@contextlib.contextmanager
def ceph() -> Iterator[Server]:
    """Yield the Ceph gateway that `python tools/s3_servers.py ceph` left running, or run one."""
    running = _recorded("ceph")
    if running is not None and _answers(running.endpoint):
        yield running
        return
    with contextlib.ExitStack() as stack:
        server = start_ceph()
        stack.callback(stop, server)
        yield server


def stop(server: Server) -> None:
    """Kill the server's processes, the gateway first. What they hold in memory is test data."""
    for pid in server.pids:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        if pid in _children:
            _children.pop(pid).wait()


# -- moto ------------------------------------------------------------------------------------


def start_moto() -> Server:
    """Install moto when it is missing, start it on a free port and make the bucket."""
    python = _install_moto()
    port = _free_port()
    command = [str(python), str(MOTO_IN_TURN), "127.0.0.1", str(port)]
    endpoint = f"http://127.0.0.1:{port}"
    log = moto_log(endpoint)
    process = _spawn(command, log, os.environ)
    server = Server(endpoint, "test", "test-secret", [process.pid])
    try:
        _wait("moto", lambda: _answers(endpoint), process, log)
        make_bucket(server, BUCKET)
    except BaseException:
        stop(server)
        raise
    return server


def moto_log(endpoint: str) -> Path:
    """Return where moto writes a line for each request that it gets."""
    return CACHE / f"moto-{endpoint.rpartition(':')[2]}.log"


def _install_moto() -> Path:
    """Return the Python that has moto, after making its virtual environment if need be."""
    folder = CACHE / "moto-venv"
    python = folder / "bin" / "python"
    with _lock("moto"):
        if (folder / "bin" / "moto_server").exists():
            return python
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "-q", MOTO_REQUIREMENT])
    return python


# -- Ceph ------------------------------------------------------------------------------------


def start_ceph() -> Server:
    """Unpack Ceph when it is missing; start a monitor, a store in memory and the gateway.

    Takes about 12 s. The steps are those of Ceph's manual deployment, cut down to one of each
    daemon, without authentication inside the cluster.
    """
    root = _install_ceph()
    folder = CACHE / "ceph" / "run"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("mon", "osd", "log"):
        (folder / name).mkdir(parents=True)
    ports = [_free_port(), _free_port()]
    identity = str(uuid.uuid4())
    (folder / "ceph.conf").write_text(_ceph_configuration(root, folder, identity, ports))
    pids: list[int] = []
    server = Server(f"http://127.0.0.1:{ports[1]}", "pitr-test", "pitr-test-secret", pids)
    try:
        _start_ceph_daemons(root, folder, identity, server, monitor_port=ports[0])
        make_bucket(server, BUCKET)
    except BaseException:
        stop(server)
        raise
    return server


def _start_ceph_daemons(
    root: Path, folder: Path, identity: str, server: Server, *, monitor_port: int
) -> None:
    environment = _ceph_environment(root, folder)
    osd_identity = str(uuid.uuid4())
    address = f"127.0.0.1:{monitor_port}"

    def run(*command: str) -> str:
        return _run([*command], environment)

    def daemon(name: str, *command: str) -> None:
        log = folder / "log" / f"{name}.out"
        # The gateway has to be stopped first: without its monitor it hangs.
        server.pids.insert(0, _spawn([*command], log, environment).pid)

    run("monmaptool", "--create", "--fsid", identity, "--addv", "a", f"[v2:{address}]",
        str(folder / "monmap"))  # fmt: skip
    run("ceph-mon", "-i", "a", "--mkfs", "--monmap", str(folder / "monmap"))
    daemon("mon", "ceph-mon", "-f", "-i", "a")
    run("ceph", "--connect-timeout", "20", "osd", "new", osd_identity, "0")
    run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_identity)
    daemon("osd", "ceph-osd", "-f", "-i", "0")
    run("radosgw-admin", "user", "create", "--uid=pitr", "--display-name=pitr",
        f"--access-key={server.access_key}", f"--secret={server.secret_key}")  # fmt: skip
    daemon("rgw", "radosgw", "-f", "-n", "client.admin")
    _wait("Ceph", lambda: _answers(server.endpoint), None, folder / "log" / "rgw.out")


def _install_ceph() -> Path:
    """Return the folder with Ceph's programs, after downloading and unpacking if need be."""
    folder = CACHE / "ceph"
    root = folder / "root"
    packages = folder / "packages"
    with _lock("ceph"):
        if (folder / "unpacked").exists():
            return root
        shutil.rmtree(root, ignore_errors=True)
        (packages / "partial").mkdir(parents=True, exist_ok=True)
        options = ["-o", f"Dir::Cache::archives={packages}", "-o", "APT::Sandbox::User=root"]
        if os.geteuid() == 0:
            # A stale list of one unrelated repository must not stop us: the next line decides.
            subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False)
        else:
            options += ["-o", "Debug::NoLocking=1"]
        _run(["apt-get", "install", "-y", "-d", "--no-install-recommends", *options,
              *CEPH_PACKAGES])  # fmt: skip
        for package in sorted(packages.glob("*.deb")):
            _run(["dpkg", "-x", str(package), str(root)])
        (folder / "unpacked").touch()
    return root


def _library_folder(root: Path) -> Path:
    return next((root / "usr" / "lib").glob("*/ceph")).parent


def _ceph_environment(root: Path, folder: Path) -> dict[str, str]:
    libraries = _library_folder(root)
    return {
        **os.environ,
        "PATH": f"{root}/usr/bin:{os.environ.get('PATH', '')}",
        "LD_LIBRARY_PATH": f"{libraries}:{libraries}/ceph:{root}/lib/{libraries.name}",
        "PYTHONPATH": f"{root}/usr/lib/python3/dist-packages",
        "CEPH_CONF": str(folder / "ceph.conf"),
    }


def _ceph_configuration(root: Path, folder: Path, identity: str, ports: list[int]) -> str:
    libraries = _library_folder(root)
    # Two lines look like tuning and are not. Without the `ms … mode` lines the gateway never
    # gets past authentication; without tcp_nodelay every small request takes 45 ms.
    return f"""[global]
fsid = {identity}
mon host = [v2:127.0.0.1:{ports[0]}]
public addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms client mode = crc
run dir = {folder}
admin socket =
pid file =
crash dir = {folder}/log
log file = {folder}/log/$name.log
mon cluster log file = {folder}/log/cluster.log
mon data = {folder}/mon
mon allow pool size one = true
mon data avail crit = 1
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd class dir = {libraries}/rados-classes
erasure code dir = {libraries}/ceph/erasure-code
plugin dir = {libraries}/ceph
keyring = {folder}/keyring
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{ports[1]} tcp_nodelay=1
rgw gc obj min wait = 2
"""


# -- both ------------------------------------------------------------------------------------


def make_bucket(server: Server, name: str) -> None:
    """Make a bucket, through a signed link: obstore itself makes none."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        name,
        endpoint=server.endpoint,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        region="us-east-1",
        client_options={"allow_http": True},
    )
    link = obstore.sign(store, "PUT", "", timedelta(minutes=5))
    with urllib.request.urlopen(urllib.request.Request(link, method="PUT"), timeout=60):
        pass


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(endpoint, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, http.client.HTTPException):
        return False


def _wait(
    name: str, ready: Callable[[], bool], process: subprocess.Popen[bytes] | None, log: Path
) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > deadline:
            raise RuntimeError(f"{name} did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)


def _spawn(
    command: list[str], log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            # A session of its own: the user's Ctrl-C must not reach it before its tests end.
            start_new_session=True,
        )
    _children[process.pid] = process
    return process


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    """Let only one process install; the others wait and find it done."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _recorded(name: str) -> Server | None:
    path = CACHE / f"{name}-server.json"
    return Server(**json.loads(path.read_text())) if path.exists() else None


def _record(name: str, server: Server) -> None:
    (CACHE / f"{name}-server.json").write_text(json.dumps(asdict(server)))


def _stop_recorded(name: str) -> None:
    server = _recorded(name)
    if server is not None and _answers(server.endpoint):
        stop(server)
    (CACHE / f"{name}-server.json").unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    """Run one of the three commands in the module's docstring."""
    starts = {"moto": start_moto, "ceph": start_ceph}
    if arguments == ["stop"]:
        for name in starts:
            _stop_recorded(name)
        return 0
    if len(arguments) != 1 or arguments[0] not in starts:
        print(__doc__, file=sys.stderr)
        return 2
    _stop_recorded(arguments[0])
    server = starts[arguments[0]]()
    _record(arguments[0], server)
    for name, value in server.environment().items():
        print(f"export {name}={value}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
