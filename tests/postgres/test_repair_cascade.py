"""Linear's accident of 2024: a migration with TRUNCATE … CASCADE, and hours of work after it.

Five tables that foreign keys hold together were emptied by one statement about one of them. It was
noticed late, and what had been written since had to stay. Here the hours are some hundreds of
transactions on every table, new rows under old keys among them.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import pitr, succeed
from tests.postgres.replay_world import world_folder
from tools.postgres_servers import Server

SETUP = (
    "CREATE TABLE teams (id int PRIMARY KEY, name text UNIQUE)",
    "CREATE TABLE users (id int PRIMARY KEY, team int REFERENCES teams, mail text UNIQUE)",
    "CREATE TABLE workspaces (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text,"
    " plan jsonb DEFAULT '{}')",
    "CREATE TABLE issues (id bigserial PRIMARY KEY, workspace int NOT NULL REFERENCES workspaces,"
    " author int REFERENCES users, title text, up bigint REFERENCES issues)",
    "CREATE TABLE comments (issue bigint NOT NULL REFERENCES issues, n int, body text,"
    " PRIMARY KEY (issue, n))",
    "CREATE TABLE labels (workspace int REFERENCES workspaces, issue bigint REFERENCES issues,"
    " label text)",
    "CREATE TABLE history (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), issue bigint REFERENCES"
    " issues, what text[], at timestamptz DEFAULT now())",
    "CREATE TABLE billing (id serial PRIMARY KEY, team int REFERENCES teams, cents numeric)",
    "INSERT INTO teams SELECT i, 'team ' || i FROM generate_series(1, 8) AS i",
    "INSERT INTO users SELECT i, 1 + i % 8, i || '@x.org' FROM generate_series(1, 60) AS i",
    "INSERT INTO workspaces (name) SELECT 'w' || i FROM generate_series(1, 20) AS i",
    "INSERT INTO issues (workspace, author, title, up) SELECT 1 + i % 20, 1 + i % 60, 'i' || i,"
    " nullif(i / 3, 0) FROM generate_series(1, 600) AS i",
    "INSERT INTO comments SELECT 1 + i % 600, i, 'c' || i FROM generate_series(1, 1500) AS i",
    "INSERT INTO labels SELECT 1 + i % 20, 1 + i % 600, 'l' || i % 7 FROM generate_series(1, 90) i",
    "INSERT INTO history (issue, what) SELECT 1 + i % 600, ARRAY['a', i::text]"
    " FROM generate_series(1, 700) AS i",
    "INSERT INTO billing (team, cents) SELECT 1 + i % 8, i / 7.0 FROM generate_series(1, 90) AS i",
)
EMPTIED = ("workspaces", "issues", "comments", "labels", "history")
STAYED = ("teams", "users", "billing")
Image = dict[str, Counter[str]]


@dataclass(frozen=True, slots=True)
class Company:
    """A server with its archive, after the accident and the work since."""

    server: Server
    folder: Path
    lost: Image
    xid: int

    def image(self) -> Image:
        """Return every row of every table."""
        return image_of(self.server)


def image_of(server: Server) -> Image:
    return {
        name: Counter(str(row[0]) for row in server.query(f"SELECT t::text FROM {name} AS t"))
        for name in (*EMPTIED, *STAYED)
    }


def work(connection: Any, chance: random.Random) -> None:
    """Do one transaction of what the application does all day."""
    n = chance.randint(0, 5)
    with connection.transaction():
        run = connection.execute
        if n == 0:
            run("UPDATE users SET mail = mail || '.new' WHERE id = %s", (chance.randint(1, 60),))
        elif n == 1:
            run("INSERT INTO billing (team, cents) VALUES (%s, 9.99)", (chance.randint(1, 8),))
        elif n == 2:
            run("DELETE FROM billing WHERE id = %s", (chance.randint(1, 90),))
        else:
            row = run("INSERT INTO workspaces (name) VALUES ('new') RETURNING id").fetchone()
            issue = run(
                "INSERT INTO issues (workspace, author, title) VALUES (%s, %s, 'later')"
                " RETURNING id",
                (row[0], chance.randint(1, 60)),
            ).fetchone()
            run("INSERT INTO comments VALUES (%s, 1, 'later')", issue)
            run("INSERT INTO labels VALUES (%s, %s, 'l1')", (row[0], issue[0]))


@pytest.fixture
def company(tmp_path: Path) -> Iterator[Company]:
    settings = {"wal_keep_size": "1GB"}
    with Server(15, settings=settings, segment_megabytes=1) as server, world_folder() as sidecars:
        changes = {"PITR_STATE": str(tmp_path / "state"), "PITR_SIDECAR_FOLDER": str(sidecars)}
        os.environ.update(changes)
        for statement in SETUP:
            server.query(statement)
        succeed(tmp_path, "init", server.url(), "--archive", "archive")
        succeed(tmp_path, "backup", "--checkpoint", "fast")
        chance = random.Random(24)
        with server.connect() as connection:
            for _ in range(40):
                work(connection, chance)
            before = image_of(server)
            with connection.transaction():
                connection.execute("ALTER TABLE workspaces ADD region text DEFAULT 'eu'")
                connection.execute("TRUNCATE workspaces CASCADE")
                row = connection.execute("SELECT txid_current()").fetchone()
            for _ in range(300):
                work(connection, chance)
        assert row is not None
        succeed(tmp_path, "mark", "noticed")
        lost = {name: before[name] for name in EMPTIED}
        yield Company(server, tmp_path, lost, int(row[0]))
        for name in changes:
            del os.environ[name]


def test_all_that_a_truncate_took_comes_back_and_no_later_work_is_lost(company: Company) -> None:
    """One statement named one table; all five come back whole, every later row is what it was."""
    later = company.image()
    log = succeed(company.folder, "log", "--json").json["transactions"]
    [accident] = [one for one in log if one["xid"] == company.xid]
    truncated = {one["table"] for one in accident["tables"] if one["truncated"]}
    assert truncated == {f"public.{name}" for name in EMPTIED}

    made = succeed(company.folder, "revert", accident["position"], "--json").json
    assert {one["table"] for one in made["tables"]} == truncated
    merged = succeed(company.folder, "merge", "--yes", "--json").json
    assert merged["skipped"] == merged["updated"] == merged["deleted"] == 0
    assert merged["inserted"] == sum(sum(rows.values()) for rows in company.lost.values())

    now = company.image()
    assert {name: now[name] for name in STAYED} == {name: later[name] for name in STAYED}
    for name in EMPTIED:
        # The column that the migration added has its default in rows of before, too.
        ending = ",eu)" if name == "workspaces" else ")"
        lost = Counter({row[:-1] + ending: n for row, n in company.lost[name].items()})
        assert now[name] == later[name] + lost, name

    # The work goes on: no key is given away twice.
    with company.server.connect() as connection:
        for seed in range(30):
            work(connection, random.Random(seed))
    done = pitr(company.folder, "merge", "--yes", "--json")
    assert (done.code, done.json["inserted"]) == (0, 0)
