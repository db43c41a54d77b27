"""A random life of a database: every kind of change that moves rows, files or catalogs about.

Deterministic for a seed, as far as a server is: one connection runs the steps, a second one keeps
transactions open across them. A statement that the state of the moment does not allow is left out.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import psycopg

from tools.postgres_servers import Server

DATABASE = "app"
INDEXES = (
    "CREATE INDEX IF NOT EXISTS {t}_gin ON shop.{t} USING gin (to_tsvector('simple', note))",
    "CREATE INDEX IF NOT EXISTS {t}_gist ON shop.{t} USING gist (area)",
    "CREATE INDEX IF NOT EXISTS {t}_spgist ON shop.{t} USING spgist (area)",
    "CREATE INDEX IF NOT EXISTS {t}_brin ON shop.{t} USING brin (id) WITH (pages_per_range = 2)",
    "CREATE INDEX IF NOT EXISTS {t}_hash ON shop.{t} USING hash (note)",
    "CREATE INDEX IF NOT EXISTS {t}_upper ON shop.{t} (upper(note)) WHERE amount > 10",
)
SCHEMA = """
CREATE SCHEMA shop;
CREATE TYPE shop.state AS ENUM ('new', 'paid', 'gone');
CREATE DOMAIN shop.positive AS int CHECK (value > 0);
CREATE SEQUENCE shop.ticket;
CREATE TABLE shop.customers (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text UNIQUE);
INSERT INTO shop.customers (name) SELECT 'c' || i FROM generate_series(1, 50) AS i;
CREATE TABLE shop.events (at int NOT NULL, what text) PARTITION BY RANGE (at);
CREATE TABLE shop.events_1 PARTITION OF shop.events FOR VALUES FROM (0) TO (1000);
CREATE TABLE shop.events_2 PARTITION OF shop.events FOR VALUES FROM (1000) TO (2000);
CREATE TABLE shop.events_rest PARTITION OF shop.events DEFAULT;
CREATE INDEX ON shop.events (what);
CREATE TABLE shop.base (k int, v text);
CREATE TABLE shop.child (extra int) INHERITS (shop.base);
CREATE UNLOGGED TABLE shop.scratch (i int);
CREATE TABLE shop.noise (i int, filler text);
INSERT INTO shop.noise SELECT i, repeat('n', 300) FROM generate_series(1, 2000) AS i;
CREATE MATERIALIZED VIEW shop.totals AS SELECT count(*) AS n FROM shop.customers;
CREATE VIEW shop.named AS SELECT * FROM shop.customers;
"""
ORDERS = """
CREATE TABLE shop.{t} (
    id serial PRIMARY KEY,
    customer int REFERENCES shop.customers,
    ticket int DEFAULT nextval('shop.ticket'),
    note text,
    amount numeric(12, 2) DEFAULT 1,
    twice numeric GENERATED ALWAYS AS (amount * 2) STORED,
    size shop.positive DEFAULT 1,
    state shop.state DEFAULT 'new',
    area box DEFAULT '(1,1),(0,0)',
    big text
)
"""
FILL = """
INSERT INTO shop.{t} (customer, note, amount, area, big)
SELECT 1 + i % 50, 'note ' || i, i, box(point(i, i), point(i + 1, i + 1)),
    CASE WHEN i % 7 = 0 THEN (SELECT string_agg(md5((i * 1000 + j)::text), '') FROM
    generate_series(1, {toast}) AS j) END
FROM generate_series({begin}, {end}) AS i
"""


class RandomWorkload:
    """Steps of one seed against one server, each a statement or a few."""

    def __init__(self, server: Server, seed: int) -> None:
        self._server = server
        self._random = random.Random(seed)
        self._next = 1
        self._prepared = 0
        self._open: psycopg.Connection[tuple[object, ...]] | None = None

    def prepare(self) -> None:
        """Make the database and its tables."""
        self._server.query(f"CREATE DATABASE {DATABASE}")
        self._server.query("CREATE DATABASE elsewhere")
        with self._connected() as connection:
            for statement in SCHEMA.split(";\n"):
                connection.execute(statement)
            for extension in ("amcheck", "hstore", "pg_trgm"):
                with contextlib.suppress(psycopg.Error):
                    connection.execute(f"CREATE EXTENSION {extension}")
            for table in ("orders", "bills"):
                connection.execute(ORDERS.format(t=table))
                self._fill(connection, table, 300)

    def run(self, steps: int) -> None:
        """Take so many random steps; what a step may not do at the moment is left out."""
        kinds = [getattr(self, name) for name in dir(self) if name.startswith("_step_")]
        with self._connected() as connection:
            for _ in range(steps):
                with contextlib.suppress(psycopg.Error):
                    self._random.choice(kinds)(connection)
                connection.execute("ROLLBACK")

    def close(self) -> None:
        """End what is still open."""
        if self._open is not None:
            self._open.close()

    @contextlib.contextmanager
    def _connected(
        self, database: str = DATABASE
    ) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
        with contextlib.closing(self._server.connect(database)) as connection:
            connection.autocommit = True
            connection.add_notice_handler(lambda _: None)
            connection.execute("SET lock_timeout = '300ms'")
            yield connection

    def _table(self) -> str:
        return self._random.choice(("orders", "bills"))

    def _fill(self, connection: psycopg.Connection[tuple[object, ...]], t: str, rows: int) -> None:
        end = self._next + rows - 1
        toast = self._random.choice((20, 200, 1000))
        connection.execute(FILL.format(t=t, begin=self._next, end=end, toast=toast))
        self._next = end + 1

    # --- rows

    def _step_insert(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        self._fill(c, self._table(), self._random.choice((1, 10, 200)))

    def _step_update(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        t, n = self._table(), self._random.randint(2, 20)
        c.execute(f"UPDATE shop.{t} SET note = note || '!', amount = amount + 1 WHERE id % {n} = 0")

    def _step_update_toast(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        c.execute(f"UPDATE shop.{self._table()} SET big = reverse(big) WHERE id % 5 = 0")

    def _step_delete(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        c.execute(f"DELETE FROM shop.{self._table()} WHERE id % 9 = {self._random.randint(0, 8)}")

    def _step_copy(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        with c.cursor().copy(f"COPY shop.{self._table()} (note) FROM STDIN") as copy:
            for number in range(self._random.choice((5, 500))):
                copy.write_row((f"copied {number}",))

    def _step_savepoints(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        c.execute("BEGIN")
        for number in range(self._random.choice((3, 80))):
            c.execute("SAVEPOINT s")
            c.execute(f"INSERT INTO shop.orders (note) VALUES ('sub {number}')")
            c.execute("ROLLBACK TO s" if number % 3 == 0 else "RELEASE s")
        c.execute(self._random.choice(("COMMIT", "COMMIT", "ROLLBACK")))

    def _step_rollback(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        c.execute("BEGIN")
        self._step_update(c)
        self._fill(c, self._table(), 50)
        c.execute("ROLLBACK")

    def _step_prepare(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        self._prepared += 1
        c.execute("BEGIN")
        c.execute("SAVEPOINT s")
        c.execute(f"INSERT INTO shop.{self._table()} (note) VALUES ('prepared')")
        if self._random.random() < 0.3:
            c.execute(f"CREATE TABLE shop.prepared_{self._prepared} AS SELECT 1 AS i")
        c.execute(f"PREPARE TRANSACTION 'p{self._prepared}'")

    def _step_end_prepared(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        for (name,) in c.execute("SELECT gid FROM pg_prepared_xacts").fetchall():
            c.execute(f"{self._random.choice(('COMMIT', 'ROLLBACK'))} PREPARED '{name}'")

    def _step_row_locks(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        with self._connected() as other:
            c.execute("BEGIN")
            c.execute("SELECT * FROM shop.customers WHERE id < 20 FOR SHARE")
            other.execute("BEGIN")
            other.execute("SELECT * FROM shop.customers WHERE id < 10 FOR KEY SHARE")
            c.execute("COMMIT")
            other.execute("UPDATE shop.customers SET name = name || '.' WHERE id < 5")
            other.execute("COMMIT")

    def _step_events(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        c.execute(
            "INSERT INTO shop.events SELECT (random() * 3000)::int, 'e' "
            "FROM generate_series(1, 200)"
        )
        c.execute("INSERT INTO shop.child SELECT i, 'v', i FROM generate_series(1, 20) AS i")
        c.execute("UPDATE shop.events SET at = at + 900 WHERE at < 300")

    def _step_sequence(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        c.execute(self._random.choice((
            "SELECT nextval('shop.ticket') FROM generate_series(1, 40)",
            "SELECT setval('shop.ticket', 5000)",
            "ALTER SEQUENCE shop.ticket INCREMENT BY 3",
            "ALTER TABLE shop.customers ALTER id RESTART WITH 7000",
        )))  # fmt: skip

    def _step_noise(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        c.execute("UPDATE shop.noise SET filler = filler || 'x' WHERE i % 3 = 0")
        c.execute("INSERT INTO shop.scratch SELECT generate_series(1, 100)")

    def _step_large_object(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        c.execute("SELECT lo_from_bytea(0, decode(repeat('ab', 20000), 'hex'))")

    # --- files

    def _step_vacuum(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        kind = self._random.choice(("", "FULL", "FREEZE", "ANALYZE"))
        t = self._random.choice(("orders", "bills", "customers", "events_1", "noise", "totals"))
        c.execute(f"VACUUM {kind} shop.{t}")

    def _step_vacuum_catalog(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        catalog = ("pg_class", "pg_attribute", "pg_index", "pg_namespace", "pg_depend", "pg_type")
        shared = ("pg_database", "pg_authid", "pg_tablespace")
        c.execute(f"VACUUM FULL {self._random.choice(catalog + shared)}")

    def _step_cluster(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        t = self._table()
        c.execute(f"CLUSTER shop.{t} USING {t}_pkey")

    def _step_reindex(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        c.execute(f"REINDEX TABLE shop.{self._table()}")

    def _step_index(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        c.execute(self._random.choice(INDEXES).format(t=self._table()))

    def _step_truncate(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        t = self._random.choice(("orders", "noise", "events", "events_2"))
        c.execute(f"TRUNCATE shop.{t} {self._random.choice(('', 'RESTART IDENTITY'))}")
        if t == "orders":
            self._fill(c, t, 100)

    def _step_rewrite(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        kind = self._random.choice(("varchar(300)", "text", "char(90)"))
        c.execute(f"ALTER TABLE shop.{self._table()} ALTER note TYPE {kind}")

    def _step_columns(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        t, name = self._table(), f"c{self._random.randint(1, 4)}"
        c.execute(self._random.choice((
            f"ALTER TABLE shop.{t} ADD COLUMN {name} int DEFAULT (random() * 9)::int",
            f"ALTER TABLE shop.{t} ADD COLUMN {name} text DEFAULT 'constant'",
            f"ALTER TABLE shop.{t} DROP COLUMN {name}",
            f"ALTER TABLE shop.{t} RENAME COLUMN {name} TO {name}_old",
        )))  # fmt: skip

    def _step_recreate(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        t = self._table()
        c.execute(f"DROP TABLE shop.{t}")
        if self._random.random() < 0.8:
            c.execute(ORDERS.format(t=t))
            self._fill(c, t, 60)

    def _step_create(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        with contextlib.suppress(psycopg.Error):
            c.execute(ORDERS.format(t=self._table()))
        name = f"made_{self._random.randint(1, 5)}"
        c.execute(f"DROP TABLE IF EXISTS shop.{name}")
        c.execute(f"CREATE TABLE shop.{name} AS SELECT * FROM shop.customers")

    def _step_partitions(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        c.execute(self._random.choice((
            "ALTER TABLE shop.events DETACH PARTITION shop.events_2",
            "ALTER TABLE shop.events ATTACH PARTITION shop.events_2 "
            "FOR VALUES FROM (1000) TO (2000)",
            "DROP TABLE shop.events_1",
            "CREATE TABLE shop.events_1 PARTITION OF shop.events FOR VALUES FROM (0) TO (1000)",
        )))  # fmt: skip

    def _step_matview(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        c.execute("REFRESH MATERIALIZED VIEW shop.totals")

    def _step_rename(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        c.execute(self._random.choice((
            "ALTER TABLE shop.bills RENAME TO invoices",
            "ALTER TABLE shop.invoices RENAME TO bills",
        )))  # fmt: skip

    # --- the cluster

    def _step_database(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        name = f"made_{self._random.randint(1, 2)}"
        c.execute(f"DROP DATABASE IF EXISTS {name}")
        c.execute(f"CREATE DATABASE {name}")

    def _step_elsewhere(self, _: psycopg.Connection[tuple[object, ...]]) -> None:
        with self._connected("elsewhere") as other:
            other.execute("DROP TABLE IF EXISTS t")
            other.execute("CREATE TABLE t AS SELECT i, 'filler' FROM generate_series(1, 9000) i")
            other.execute("VACUUM FULL pg_class")

    def _step_checkpoint(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        c.execute("CHECKPOINT")

    def _step_switch(self, c: psycopg.Connection[tuple[object, ...]]) -> None:
        c.execute("SELECT pg_switch_wal()")

    def _step_open(self, _: psycopg.Connection[tuple[object, ...]]) -> None:
        """Begin or end a long transaction that holds a heavy lock or has written rows."""
        if self._open is not None:
            with contextlib.suppress(psycopg.Error):
                self._open.execute(self._random.choice(("COMMIT", "ROLLBACK")))
            self._open.close()
            self._open = None
            return
        self._open = self._server.connect(DATABASE)
        self._open.autocommit = True
        self._open.execute("SET lock_timeout = '300ms'")
        self._open.execute("BEGIN")
        self._open.execute(self._random.choice((
            "ALTER TABLE shop.customers ADD COLUMN later int DEFAULT 5",
            "INSERT INTO shop.bills (note) SELECT 'open' FROM generate_series(1, 30)",
            "DELETE FROM shop.events",
        )))  # fmt: skip
