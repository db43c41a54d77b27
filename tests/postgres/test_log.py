"""`pitr log` of PostgreSQL: counts are what the statements reported, whatever else happened."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psycopg
import pytest
from psycopg.rows import TupleRow

from pitr.errors import TableUnknown, UsageError
from pitr.vocabulary.position import Lsn
from tests.postgres.fixtures import available
from tests.postgres.index_world import SETTINGS, IndexWorld
from tools.postgres_servers import Server

SCHEMA = """
CREATE TABLE plain (id int PRIMARY KEY, hot text, cold int, big text);
CREATE INDEX ON plain (cold);
CREATE TABLE wide (id int PRIMARY KEY, body text);
CREATE TABLE parted (id int, k int, v text) PARTITION BY LIST (k);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES IN (0);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
"""
TABLES = ("plain", "wide", "parted")
Connection = psycopg.Connection[TupleRow]
Counts = Counter[tuple[str, str]]


@dataclass
class Workload:
    """Random transactions, and what their command tags add up to."""

    world: IndexWorld
    connection: Connection
    rng: random.Random
    expected: dict[int, Counts] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counter)
    next_id: int = 1
    prepared: int = 0

    def run(self, statement: str) -> int:
        """Run a statement and return the number in its command tag."""
        return self.connection.execute(statement.encode()).rowcount

    def some(self, table: str) -> str:
        """Return a condition that holds for some rows of a table."""
        return f"id % {self.rng.randint(2, 9)} = {self.rng.randrange(2)}"

    def fresh(self, count: int) -> range:
        """Return ids that no row has."""
        self.next_id += count
        return range(self.next_id - count, self.next_id)

    # --- statements ------------------------------------------------------------------------------

    def insert(self) -> None:
        ids = self.fresh(self.rng.choice([1, 3, 200]))
        span = f"generate_series({ids.start}, {ids.stop - 1}) g"
        table, select = self.rng.choice(
            [
                ("plain", "SELECT g, 'h', g % 7, repeat('x', g % 3000)"),
                ("wide", "SELECT g, repeat(md5(g::text), 200)"),
                ("parted", "SELECT g, g % 2, 'v'"),
            ]
        )
        self.counts[table, "inserted"] += self.run(f"INSERT INTO {table} {select} FROM {span}")

    def insert_values(self) -> None:
        for number in self.fresh(3):
            self.counts["plain", "inserted"] += self.run(
                f"INSERT INTO plain VALUES ({number}, 'a', 1, NULL)"
            )

    def copy(self) -> None:
        ids = self.fresh(self.rng.choice([2, 700]))
        with self.connection.cursor() as cursor:
            with cursor.copy("COPY plain (id, hot, cold) FROM STDIN") as copy:
                for number in ids:
                    copy.write_row((number, "c", number % 5))
            self.counts["plain", "inserted"] += cursor.rowcount

    def upsert(self) -> None:
        ids = self.fresh(4)
        rows = self.connection.execute(
            "INSERT INTO plain SELECT g, 'u', 3, NULL FROM"
            f" generate_series({ids.start - 6}, {ids.stop - 1}) g"
            " ON CONFLICT (id) DO UPDATE SET hot = 'conflict' RETURNING xmax = 0".encode()
        ).fetchall()
        self.counts["plain", "inserted"] += sum(row[0] for row in rows)
        self.counts["plain", "updated"] += sum(not row[0] for row in rows)

    def insert_or_nothing(self) -> None:
        ids = self.fresh(3)
        self.counts["plain", "inserted"] += self.run(
            "INSERT INTO plain SELECT g, 'n', 3, NULL FROM"
            f" generate_series({ids.start - 4}, {ids.stop - 1}) g ON CONFLICT DO NOTHING"
        )

    def update(self) -> None:
        table, assignment = self.rng.choice(
            [
                ("plain", "hot = hot || 'x'"),
                ("plain", "cold = cold + 1"),
                ("plain", "big = repeat('y', 2500)"),
                ("wide", "body = body || md5(body)"),
                ("wide", "body = 'short'"),
                ("parted", "v = v || 'z'"),
            ]
        )
        where = self.some(table)
        self.counts[table, "updated"] += self.run(f"UPDATE {table} SET {assignment} WHERE {where}")

    def move(self) -> None:
        self.counts["parted", "updated"] += self.run(
            f"UPDATE parted SET k = 1 - k WHERE {self.some('parted')}"
        )

    def delete(self) -> None:
        table = self.rng.choice(TABLES)
        self.counts[table, "deleted"] += self.run(
            f"DELETE FROM {table} WHERE {self.some(table)} AND id % 3 = 1"
        )

    def merge(self) -> None:
        if self.world.server.major < 15:
            return
        ids = self.fresh(5)
        known = "SELECT count(*) FROM plain WHERE id BETWEEN {} AND {} AND id % 2 = {}"
        low, high = ids.start - 10, ids.stop - 1
        before = [
            self.connection.execute(known.format(low, high, odd).encode()).fetchall()[0][0]
            for odd in (0, 1)
        ]
        tag = self.run(
            f"MERGE INTO plain USING generate_series({low}, {high}) g ON id = g"
            " WHEN MATCHED AND id % 2 = 0 THEN UPDATE SET hot = 'm' WHEN MATCHED THEN DELETE"
            " WHEN NOT MATCHED THEN INSERT VALUES (g, 'm', 2, NULL)"
        )
        self.counts["plain", "updated"] += before[0]
        self.counts["plain", "deleted"] += before[1]
        self.counts["plain", "inserted"] += tag - sum(before)

    def lock(self) -> None:
        self.run("SELECT 1 FROM plain WHERE id < 20 FOR UPDATE")

    def savepoint(self) -> None:
        """Run statements inside a sub-transaction, and keep them or not."""
        before = self.counts.copy()
        name = f"s{self.rng.randrange(100)}"
        self.run(f"SAVEPOINT {name}")
        for _ in range(self.rng.randint(1, 3)):
            self.statement()
        if self.rng.random() < 0.5:
            self.run(f"ROLLBACK TO {name}")
            self.counts = before
        elif self.rng.random() < 0.5:
            self.run(f"RELEASE {name}")

    def truncate(self) -> None:
        table = self.rng.choice(["plain", "wide"])
        self.run(f"TRUNCATE {table}")
        self.counts[table, "truncated"] = 1

    def rewrite(self) -> None:
        kind = self.connection.execute(
            "SELECT atttypid::regtype::text FROM pg_attribute"
            " WHERE attrelid = 'plain'::regclass AND attname = 'cold'"
        ).fetchall()[0][0]
        other = "bigint" if kind == "integer" else "integer"
        self.run(f"ALTER TABLE plain ALTER COLUMN cold TYPE {other}")
        self.counts["plain", "rewritten"] = 1

    def statement(self) -> None:
        """Run one random statement."""
        choices: list[tuple[Callable[[], None], int]] = [
            (self.insert, 6), (self.insert_values, 2), (self.copy, 3), (self.upsert, 3),
            (self.insert_or_nothing, 2), (self.update, 8), (self.move, 3), (self.delete, 4),
            (self.merge, 3), (self.lock, 2), (self.savepoint, 5), (self.truncate, 1),
            (self.rewrite, 1),
        ]  # fmt: skip
        weights = [weight for _, weight in choices]
        self.rng.choices([run for run, _ in choices], weights)[0]()

    # --- transactions ----------------------------------------------------------------------------

    def transaction(self) -> None:
        """Run a random transaction and note what it reported, if it commits."""
        self.counts = Counter()
        self.run("BEGIN")
        for _ in range(self.rng.choice([1, 1, 2, 4])):
            self.statement()
        xid = self.connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchall()[0][0]
        end = self.rng.choices(["COMMIT", "ROLLBACK", "PREPARE"], [8, 2, 2])[0]
        if end == "PREPARE":
            self.prepared += 1
            self.run(f"PREPARE TRANSACTION 'p{self.prepared}'")
            end = self.rng.choice(["COMMIT", "ROLLBACK"])
            self.run(f"{end} PREPARED 'p{self.prepared}'")
        else:
            self.run(end)
        counts = +self.counts
        if end == "COMMIT" and counts:
            self.expected[int(xid)] = counts
        if any(what in ("truncated", "rewritten") for _, what in self.counts):
            self.world.refresh()

    def vacuum_full(self) -> None:
        """Rewrite a table outside of a transaction block."""
        table = self.rng.choice(["plain", "wide"])
        self.run(f"VACUUM FULL {table}")
        self.world.refresh()


def found_counts(world: IndexWorld, *tables: str, **options: object) -> dict[int, Counts]:
    """Return the log in the form of Workload.expected."""
    found: dict[int, Counts] = {}
    for item in world.log(*tables, **options):  # type: ignore[arg-type]
        counts: Counts = Counter()
        for change in item.tables:
            name = change.table.removeprefix("public.")
            for what in ("inserted", "updated", "deleted", "truncated", "rewritten"):
                counts[name, what] += int(getattr(change, what))
        assert item.xid is not None
        found[item.xid] = +counts
    return found


@pytest.fixture(scope="module")
def world(major: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[IndexWorld]:
    with Server(available(major), settings=SETTINGS, segment_megabytes=1) as server:
        world = IndexWorld(server, tmp_path_factory.mktemp("archive"))
        server.query(SCHEMA)
        world.refresh()
        yield world


def run_workload(world: IndexWorld, seed: int, transactions: int) -> None:
    print(f"seed {seed}")
    world.server.query("TRUNCATE plain, wide, parted")
    world.refresh()
    begin = world.position()
    with world.server.connect() as connection:
        work = Workload(world, connection, random.Random(seed))
        for _ in range(transactions):
            work.transaction()
            if work.rng.random() < 0.05:
                work.vacuum_full()
    world.complete()
    found = found_counts(world, begin=begin)
    full = {xid: counts for xid, counts in found.items() if xid not in work.expected}

    assert {xid: counts for xid, counts in found.items() if xid in work.expected} == work.expected
    vacuumed = {("plain", "rewritten"), ("wide", "rewritten")}
    assert all(set(counts) <= vacuumed for counts in full.values())
    for table in TABLES:
        of_table = {
            xid: Counter({key: n for key, n in counts.items() if key[0] == table})
            for xid, counts in found.items()
        }
        assert found_counts(world, table, begin=begin) == {x: c for x, c in of_table.items() if c}


@pytest.mark.parametrize("seed", range(4))
def test_counts_equal_the_command_tags_of_random_transactions(world: IndexWorld, seed: int) -> None:
    """Every way of writing, sub-transactions, prepared ones, rewrites between and inside."""
    run_workload(world, seed, 40)


@pytest.mark.soak
def test_counts_equal_the_command_tags_of_ever_new_transactions(world: IndexWorld) -> None:
    """The same, with new seeds."""
    for _ in range(50):
        run_workload(world, random.randrange(1 << 32), 100)


def run(world: IndexWorld, *statements: str) -> None:
    """Run statements in one session, each its own transaction unless they say otherwise."""
    with world.server.connect() as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_dropped_table_is_found_by_name_and_shown_as_dropped(world: IndexWorld) -> None:
    """Its rows, its end, and that a new table of the name is another one."""
    begin = world.position()
    run(world, "CREATE TABLE doomed AS SELECT generate_series(1, 30) AS id")
    world.refresh()
    run(world, "DELETE FROM doomed WHERE id < 11", "DROP TABLE doomed")
    world.refresh()
    run(world, "CREATE TABLE doomed (id text)", "INSERT INTO doomed VALUES ('x')")
    world.refresh()
    found = [item.tables[0] for item in world.log("doomed", begin=begin)]

    assert [(c.inserted, c.deleted, c.created, c.dropped) for c in found] == [
        (30, 0, True, False),
        (0, 10, False, False),
        (0, 0, False, True),
        (0, 0, True, False),
        (1, 0, False, False),
    ]
    assert {c.table for c in found} == {"public.doomed"}


def test_table_born_and_gone_between_two_readings_is_shown_by_its_file(world: IndexWorld) -> None:
    """As database/number: nothing is left out."""
    begin = world.position()
    run(world, "CREATE TABLE brief AS SELECT generate_series(1, 30) AS id", "DROP TABLE brief")
    world.refresh()
    (found,) = world.log(begin=begin)
    (change,) = found.tables

    assert change.table.startswith("postgres/")
    assert (change.inserted, change.created) == (30, True)


def test_partition_that_is_dropped_or_named_stands_for_itself(world: IndexWorld) -> None:
    """Rows of partitions go to the table, an end of a partition does not."""
    run(
        world,
        "CREATE TABLE event (id int, k int) PARTITION BY LIST (k)",
        "CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1)",
        "CREATE TABLE event_2 PARTITION OF event FOR VALUES IN (2)",
    )
    world.refresh()
    begin = world.position()
    run(
        world,
        "INSERT INTO event SELECT g, 1 + g % 2 FROM generate_series(1, 10) g",
        "UPDATE event SET k = 2 WHERE id = 2",
        "TRUNCATE event_1",
        "DROP TABLE event_2",
    )
    world.refresh()
    whole = [(item.tables[0], len(item.tables)) for item in world.log("event", begin=begin)]
    part = [item.tables[0] for item in world.log("event_1", begin=begin)]

    assert [(c.table, c.inserted, c.updated, c.truncated, c.dropped, n) for c, n in whole] == [
        ("public.event", 10, 0, False, False, 1),
        ("public.event", 0, 1, False, False, 1),
        ("public.event", 0, 0, True, False, 1),
        ("public.event_2", 0, 0, False, True, 1),
    ]
    assert [(c.inserted, c.deleted, c.truncated) for c in part] == [
        (5, 0, False),
        (0, 1, False),
        (0, 0, True),
    ]


def test_rolled_back_transactions_are_shown_on_request(world: IndexWorld) -> None:
    """As kind abort; otherwise they are not there."""
    begin = world.position()
    # The commit after it brings the record of the rollback to disk.
    run(world, "BEGIN", "INSERT INTO plain VALUES (-5)", "ROLLBACK")
    run(world, "INSERT INTO wide VALUES (-200)")

    assert world.log("plain", begin=begin) == []
    (found,) = world.log("plain", begin=begin, with_aborted=True)
    assert (found.kind, found.tables[0].inserted) == ("abort", 1)


def test_limit_gives_the_newest_and_positions_follow_each_other(world: IndexWorld) -> None:
    """The newest last, each position after the one before."""
    begin = world.position()
    run(world, *(f"INSERT INTO wide VALUES ({-n})" for n in range(1, 8)))
    every = world.log("wide", begin=begin)

    assert len(every) == 7
    assert world.log("wide", begin=begin, limit=3) == every[-3:]
    lsns = [item.position for item in every]
    assert lsns == sorted(lsns, key=lambda text: (len(text), text))
    assert all(item.time_us for item in every)


def test_transaction_that_began_long_before_is_counted_whole(world: IndexWorld) -> None:
    """What it did before the stretch asked for, and before a checkpoint, is in its counts."""
    with world.server.connect() as long:
        long.execute("BEGIN")
        long.execute("INSERT INTO plain SELECT g, '', 1, '' FROM generate_series(-99, -90) g")
        run(world, "CHECKPOINT", "INSERT INTO wide VALUES (-100)", "SELECT pg_switch_wal()")
        begin = world.position()
        run(world, "CHECKPOINT", "INSERT INTO wide VALUES (-101)")
        long.execute("INSERT INTO plain VALUES (-89)")
        long.execute("COMMIT")
    world.complete()
    found = [(c.table, c.inserted) for item in world.log(begin=begin) for c in item.tables]

    assert found == [("public.wide", 1), ("public.plain", 11)]


def test_vacuum_and_analyze_and_new_indexes_are_no_changes(world: IndexWorld) -> None:
    """Nobody's rows changed."""
    run(world, "INSERT INTO wide VALUES (-300)", "DELETE FROM wide")
    begin = world.position()
    run(world, "VACUUM wide", "ANALYZE wide", "CREATE INDEX ON wide (id)", "REINDEX TABLE wide")
    world.refresh()

    assert world.log(begin=begin) == []


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("plain", True),
        ("PLAIN", True),
        ('"PLAIN"', False),
        ('"plain"', True),
        ("public.pl*", True),
        ("postgres.public.plain", True),
        ("other.public.plain", False),
        ("pg_catalog.plain", False),
    ],
)
def test_patterns_are_read_as_psql_reads_them(
    world: IndexWorld, pattern: str, *, matches: bool
) -> None:
    """Unquoted names are folded, quoted ones kept, and no match is an error with what there is."""
    if matches:
        world.log(pattern)
        return
    with pytest.raises(TableUnknown) as caught:
        world.log(pattern)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("pattern", ["", ".", "a.b.c.d", "a.", ".a", 'a"b'])
def test_text_that_is_no_name_is_refused(world: IndexWorld, pattern: str) -> None:
    """With the form to use instead."""
    with pytest.raises(UsageError):
        world.log(pattern)


def test_catalogs_can_be_asked_for_by_name(world: IndexWorld) -> None:
    """PostgreSQL's own tables are left out, mapped ones too, unless they are named."""
    begin = world.position()
    run(world, "CREATE ROLE somebody", "DROP ROLE somebody")
    world.refresh()

    assert world.log(begin=begin) == []
    found = world.log("pg_catalog.pg_authid", begin=begin)
    assert [(c.table, c.inserted, c.deleted) for item in found for c in item.tables] == [
        ("pg_catalog.pg_authid", 1, 0),
        ("pg_catalog.pg_authid", 0, 1),
    ]


def test_files_that_no_reading_saw_are_traced_to_their_table(world: IndexWorld) -> None:
    """Rewritten again and again faster than anybody reads, and gone at last."""
    run(world, "CREATE TABLE quick (id int PRIMARY KEY, body text)")
    world.refresh()
    begin = world.position()
    run(
        world,
        "INSERT INTO quick SELECT g, repeat('x', 3000) FROM generate_series(1, 20) g",
        "VACUUM FULL quick",
        "DELETE FROM quick WHERE id < 6",
        "TRUNCATE quick",
        "INSERT INTO quick VALUES (1, 'a')",
        "ALTER TABLE quick ALTER COLUMN id TYPE bigint",
        "UPDATE quick SET body = 'b'",
        "DROP TABLE quick",
    )
    world.refresh()
    expected = [
        (20, 0, 0, ""),
        (0, 0, 0, "rewritten"),
        (0, 0, 5, ""),
        (0, 0, 0, "truncated"),
        (1, 0, 0, ""),
        (0, 0, 0, "rewritten"),
        (0, 1, 0, ""),
        (0, 0, 0, "dropped"),
    ]
    for found in (world.log("quick", begin=begin), world.log(begin=begin)):
        changes = [change for item in found for change in item.tables]
        assert {change.table for change in changes} == {"public.quick"}
        assert [
            (c.inserted, c.updated, c.deleted, " ".join(w for w in WORDS if getattr(c, w)))
            for c in changes
        ] == expected


def test_first_reading_after_a_rewrite_names_what_was_before(world: IndexWorld) -> None:
    """The chain is followed backwards too."""
    begin = world.position()
    run(
        world,
        "CREATE TABLE early AS SELECT generate_series(1, 8) AS id",
        "VACUUM FULL early",
        "TRUNCATE early",
    )
    world.refresh()
    found = world.log("early", begin=begin)
    changes = [c for item in found for c in item.tables]

    until = Lsn.parse(found[0].position.removeprefix("lsn:"))
    assert world.log("early", begin=begin, until=until) == found[:1]
    assert [(c.inserted, c.created, c.rewritten, c.truncated) for c in changes] == [
        (8, True, False, False),
        (0, False, True, False),
        (0, False, False, True),
    ]


WORDS = ("truncated", "rewritten", "dropped")
