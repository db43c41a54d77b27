"""The two sources of a soak: each with its writers, its accidents, its failovers."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

from tests.postgres.proxy import Proxy
from tests.soak.ledger import Ledger
from tests.soak.site import Site
from tests.soak.writers import MAKE, READ, Writers, open_sqlite
from tools.postgres_servers import Server, unprivileged

_DELETE = "DELETE FROM ledger WHERE id % {0} = {1}"
_UPDATE = "UPDATE ledger SET text = 'damaged' WHERE id % {0} = {1}"


class Side:
    """One source; what both engines have in common."""

    name: str
    ledger: Ledger
    writers: Writers

    def execute(self, statement: str) -> tuple[int, str | None]:
        """Run a statement as a transaction of its own; return rows changed, and its xid."""
        raise NotImplementedError

    def rows(self) -> list[tuple[int, str, int]]:
        """Return the live table `ledger`."""
        raise NotImplementedError

    def accident(self, site: Site, chance: random.Random) -> tuple[str, int] | None:
        """Damage some rows, let it be archived; return its position, and how many rows.

        None when nothing was damaged.
        """
        kind = chance.choice((_DELETE, _UPDATE))
        rows, xid = self.execute(kind.format(chance.randrange(5, 40), chance.randrange(5)))
        if not rows:
            return None
        site.wait_until_current(self.name)
        return xid or self._find(site, rows), rows

    def _find(self, site: Site, rows: int) -> str:
        found = site.json("log", "-t", "ledger", "--source", self.name, "--limit", "4000")
        for transaction in reversed(found["transactions"]):
            for table in transaction["tables"]:
                if rows in (table["deleted"], table["updated"]):
                    return str(transaction["position"])
        raise AssertionError(f"no transaction of {rows} rows in the log")


class Lite(Side):
    """A SQLite file, written by threads."""

    name = "lite"

    def __init__(self, path: Path, seed: int, pause: float) -> None:
        self.path = path
        self.ledger = Ledger()
        with closing(open_sqlite(path)) as connection:
            connection.execute(MAKE)
            connection.execute("CREATE TABLE scratch (id INTEGER PRIMARY KEY, text TEXT)")
        self.writers = Writers(self.ledger, lambda: open_sqlite(path), "?", pause, seed)

    def execute(self, statement: str) -> tuple[int, str | None]:
        with closing(open_sqlite(self.path)) as connection:
            return connection.execute(statement).rowcount, None

    def rows(self) -> list[tuple[int, str, int]]:
        with closing(open_sqlite(self.path)) as connection:
            return connection.execute(READ).fetchall()

    def script(self, *statements: str) -> list[str]:
        """Return a command that runs statements on the database."""
        lines = ["import sqlite3"]
        lines += [f"c = sqlite3.connect({str(self.path)!r}, isolation_level=None, timeout=60)"]
        lines += [f"c.execute({statement!r})" for statement in statements]
        return ["python3", "-c", "\n".join(lines)]


class Cluster(Side):
    """A PostgreSQL server behind a proxy, with pgbench and threads; it can fail over."""

    name = "pg"

    def __init__(self, major: int, seed: int, pause: float) -> None:
        settings: dict[str, Any] = {"wal_level": "replica", "wal_keep_size": "1GB"}
        self.server = Server(major, settings={**settings, "track_commit_timestamp": True})
        self.server.start()
        self.old: list[Server] = []
        self.proxy = Proxy(self.server)
        self.ledger = Ledger()
        self._bench: subprocess.Popen[bytes] | None = None
        self._guard = threading.Lock()
        self.server.query(MAKE.replace("INTEGER PRIMARY KEY", "bigint PRIMARY KEY"))
        self.server.query("CREATE TABLE scratch (id bigint PRIMARY KEY, text text)")
        self.server.run("pgbench", "-i", "-q", "-s", "1")
        self.writers = Writers(self.ledger, self._connect, "%s", pause, seed)

    def _connect(self) -> psycopg.Connection[Any]:
        with self._guard:
            server = self.server
        return server.connect()

    def execute(self, statement: str) -> tuple[int, str | None]:
        with self._connect() as connection, connection.transaction():
            rows = connection.execute(statement.encode()).rowcount
            found = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
            assert found is not None
        return rows, f"xid:{int(found[0]) & 0xFFFFFFFF}"

    def rows(self) -> list[tuple[int, str, int]]:
        return [(int(row[0]), row[1], row[2]) for row in self.server.query(READ)]

    def script(self, *statements: str) -> list[str]:
        """Return a command that runs statements on the database, where guard leads it."""
        words = [word for statement in statements for word in ("-c", statement)]
        return [str(self.server.bin / "psql"), self.proxy.url, "-q", *words]

    def start_bench(self, rate: int) -> None:
        """Let pgbench write until the server goes or `stop_bench`."""
        command = [*unprivileged(), str(self.server.bin / "pgbench"), "-n", "-c", "2"]
        command += ["-R", str(rate), "-T", "86400", "-h", str(self.server.folder)]
        command += ["-U", "postgres", "postgres"]
        null = subprocess.DEVNULL
        self._bench = subprocess.Popen(command, stdout=null, stderr=null, cwd="/")

    def stop_bench(self) -> None:
        if self._bench is not None:
            self._bench.terminate()
            self._bench.wait(60)
            self._bench = None

    def bench_fault(self) -> str | None:
        """Return what is wrong with the sums that every transaction of pgbench keeps."""
        sums = self.server.query(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts),"
            " (SELECT sum(bbalance) FROM pgbench_branches),"
            " (SELECT sum(tbalance) FROM pgbench_tellers),"
            " (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"
        )[0]
        return None if len(set(sums)) == 1 else f"sums of pgbench differ: {sums}"

    def bench_commits(self) -> int:
        return int(self.server.value("SELECT count(*) FROM pgbench_history"))

    def fail_over(self, chance: random.Random) -> str:
        """Kill or stop the primary, and go on with a standby on a new timeline."""
        standby = self.server.standby()
        standby.start()
        self.server.configure({"synchronous_standby_names": "walreceiver"})
        self.server.reload()
        statement = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        deadline = time.monotonic() + 60
        while self.server.value(statement) != 1:
            assert time.monotonic() < deadline, "the standby did not become synchronous"
            time.sleep(0.1)
        # From here on what was acknowledged is on the standby too.
        time.sleep(chance.uniform(0.2, 1))
        how = chance.choice(("killed", "stopped"))
        if how == "killed":
            self.server.kill()
        else:
            self.server.stop()
        self.proxy.cut()
        standby.configure({"synchronous_standby_names": ""})
        standby.reload()
        standby.promote()
        with self._guard:
            self.old.append(self.server)
            self.server = standby
        self.proxy.turn_to(standby)
        return how

    def discard(self) -> None:
        self.stop_bench()
        self.proxy.__exit__()
        for server in (self.server, *self.old):
            server.discard()
