"""The story of the demo on PostgreSQL: a server of its own, and an application that is psql."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pitr.cli.demo_shop import CUSTOMERS, ITEMS, ORDERS
from pitr.cli.demo_stage import PITR, Stage
from pitr.errors import PreconditionFailed
from pitr.postgres.replay.server import (
    ServerAccount,
    ServerFolder,
    find_binaries,
    running,
    server_account,
)

_MAJORS = (18, 17, 16, 15, 14)
_COUNT = "SELECT status, count(*) FROM orders GROUP BY 1 ORDER BY 1"


@dataclass(frozen=True, slots=True)
class PostgresShop:
    """A shop on a server of its own, and where the story about it is told."""

    psql: Path
    stage: Stage

    def ask(self, statement: str) -> None:
        """Show psql with a statement, and run it."""
        words = ("psql", "-c", statement)
        self.stage.show(*words)
        self.stage.run(str(self.psql), *words[1:])

    def fill(self) -> None:
        """Make the shop's tables."""
        self.stage.run(str(self.psql), "-q", "-c", _schema())

    @contextmanager
    def open(self) -> Iterator[None]:
        """Do business for as long as the block lasts: orders, payments, visits; one psql."""
        psql = subprocess.Popen(
            [self.psql, "-q"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=self.stage.environment,
            text=True,
        )
        closed = threading.Event()
        writer = threading.Thread(target=_serve, args=(psql, closed), name="demo-shop")
        writer.start()
        try:
            yield
        finally:
            closed.set()
            writer.join()
            psql.wait()


@contextmanager
def open_shop(folder: Path, *, is_quiet: bool) -> Iterator[PostgresShop]:
    """Make a cluster in a folder and run it, never as root, for as long as the block lasts.

    Raises PreconditionFailed where there is no PostgreSQL, or no user to run it as.
    """
    major, programs = _programs()
    account = server_account("postgres")
    folder.chmod(0o755)  # the server's user walks through it
    home, sidecars = folder / "server", folder / "sidecars"
    home.mkdir(mode=0o700)
    account.own(home)
    _make_cluster(programs / "initdb", account, home / "data")
    binaries = find_binaries(major, chosen=programs)
    with running(ServerFolder(home, binaries, account, "postgres")) as started:
        variables = {
            "PGHOST": str(started.socket),
            "PGUSER": "postgres",
            "PGDATABASE": "postgres",
            "PITR_SIDECAR_FOLDER": str(sidecars),
            "PITR_SIDECAR_USER": account.name,
            "PITR_PG_BINDIR": str(programs),
        }
        yield PostgresShop(programs / "psql", Stage(folder, is_quiet=is_quiet, more=variables))


def _schema() -> str:
    return files("pitr.sql").joinpath("postgres/demo_shop.sql").read_text()


def _programs() -> tuple[int, Path]:
    """Return the newest version that is there, and the folder of its programs."""
    for major in _MAJORS:
        with suppress(PreconditionFailed):
            folder = find_binaries(major).folder
            if (folder / "initdb").exists():
                return major, folder
    raise PreconditionFailed(
        "there is no PostgreSQL on this machine for the demo to run on",
        detail=f"It needs the server programs of one of {', '.join(map(str, _MAJORS))}.",
        hint="Install them, as in 'apt-get install postgresql'; as root 'make demo-postgres' does.",
    )


def _make_cluster(initdb: Path, account: ServerAccount, data: Path) -> None:
    is_root = os.geteuid() == 0
    options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C")
    subprocess.run(
        [initdb, "-D", data, "--data-checksums", *options],
        cwd=data.parent,
        stdout=subprocess.DEVNULL,
        user=account.uid if is_root else None,
        group=account.gid if is_root else None,
        extra_groups=[] if is_root else None,
        check=True,
    )
    with (data / "postgresql.conf").open("a") as file:
        file.write("listen_addresses = ''\n")


def _serve(psql: subprocess.Popen[str], closed: threading.Event) -> None:
    """Give statements to psql until the shop closes; each line is a transaction."""
    chance = random.Random(11)
    assert psql.stdin is not None
    with suppress(BrokenPipeError), psql.stdin as orders:
        while not closed.wait(0.02):
            customer = chance.randint(1, CUSTOMERS)
            lines = [f"INSERT INTO visits (customer, page) VALUES ({customer}, '/shop');"]
            if chance.random() < 0.3:
                item, cents = chance.choice(ITEMS), chance.randint(100, 90_000)
                values = f"({customer}, '{item}', {cents})"
                lines.append(f"INSERT INTO orders (customer, item, cents) VALUES {values};")
            if chance.random() < 0.3:
                order = chance.randint(1, ORDERS)
                lines.append(f"UPDATE orders SET status = 'paid' WHERE id = {order};")
            orders.write("\n".join(lines) + "\n")
            orders.flush()


def postgres_story(shop: PostgresShop) -> dict[str, Any]:
    """Play the story; return what was found and recovered."""
    stage = shop.stage
    stage.say("A shop with 20,000 orders on PostgreSQL, and an application that keeps writing.")
    shop.fill()
    stage.pitr("init", "postgresql:///postgres", "--archive", "archive")
    stage.pitr("backup", "--checkpoint", "fast")
    with stage.running(*PITR, "capture"), shop.open():
        stage.wait_for_capture()
        time.sleep(1.5)
        stage.say("A clean-up without its WHERE; the lines go with the orders. Work goes on.")
        shop.ask("DELETE FROM orders")
        time.sleep(2.5)
        stage.pitr("mark", "noticed")
        return _recover(shop)


def _recover(shop: PostgresShop) -> dict[str, Any]:
    stage = shop.stage
    stage.say("What happened to the orders? The archive knows; the database is not asked.")
    accident = _accident(stage)
    position = str(accident["position"])
    stage.pitr("log", "-t", "orders", "--until", position, "--limit", "4")
    stage.say("What that one transaction destroyed, into a sidecar beside the live server.")
    stage.pitr("revert", position)
    stage.say("The sidecar is a PostgreSQL server, which runs while it is asked.")
    stage.pitr("recoveries", "sql", "SELECT count(*) AS lines FROM order_lines")
    stage.say("What became of its rows? Orders that came in since are not among them.")
    stage.pitr("diff", "--limit", "2")
    stage.say("Put back exactly what is lost, in one transaction; the application goes on.")
    stage.pitr("merge", "--yes")
    recovery = stage.ask("recoveries")["recoveries"][-1]
    merge = recovery["merges"][-1]
    stage.say("Everything is there: what was lost, what came in since, and what was paid since.")
    shop.ask(_COUNT)
    stage.say("If that was a mistake, take it back. Orders that were paid since stay.")
    stage.pitr("undo", merge["merge"], "--on-conflict", "skip", "--yes")
    undo = stage.ask("recoveries")["recoveries"][-1]["merges"][-1]
    stage.say("It was none: an undo is a merge as well, and is taken back in the same way.")
    stage.pitr("undo", undo["merge"], "--yes")
    shop.ask(_COUNT)
    return {"transaction": accident, "tables": recovery["tables"], "merge": merge, "undo": undo}


def _accident(stage: Stage) -> dict[str, Any]:
    """Return the transaction that deleted most orders."""
    found = stage.ask("log", "-t", "orders", "--until", "name:noticed")["transactions"]
    worst: dict[str, Any] = max(found, key=lambda one: one["tables"][0]["deleted"])
    return worst
