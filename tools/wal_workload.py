"""A workload that makes every kind of WAL record there is a statement for, and its record list.

`run(server)` drives a server of any major version through it; `listing(server, …)` is what
pg_waldump says of the WAL, record for record. Used by the tests against live servers and by
tools/make_wal_golden.py.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import sql

from tools.postgres_servers import Server

SETTINGS: dict[str, str | int | bool] = {
    "max_prepared_transactions": 5,
    "autovacuum": False,
    "track_commit_timestamp": True,
    "min_wal_size": "128MB",
    "max_wal_size": "1GB",
    "wal_keep_size": "1GB",
    "checkpoint_timeout": "1h",
}

INDEXES = """
CREATE TABLE everything (id int PRIMARY KEY, code text UNIQUE, tags int[], doc tsvector,
  spot point, span int4range, name text, body text);
CREATE INDEX ON everything USING hash (name);
CREATE INDEX ON everything USING gin (tags);
CREATE INDEX ON everything USING gin (doc) WITH (fastupdate = off);
CREATE INDEX ON everything USING gist (spot);
CREATE INDEX ON everything USING gist (span);
CREATE INDEX ON everything USING spgist (name);
CREATE INDEX ON everything USING brin (id) WITH (pages_per_range = 1, autosummarize = on);
CREATE INDEX ON everything ((id % 7));
INSERT INTO everything SELECT n, 'c' || n, ARRAY[n, n % 5], to_tsvector('simple', 'w' || n),
  point(n % 17, n % 13), int4range(n, n + 3), 'n' || n % 50, repeat('x', n % 90)
  FROM generate_series(1, 400) AS n;
UPDATE everything SET body = 'changed' WHERE id % 9 = 0;
UPDATE everything SET id = id + 1000 WHERE id % 11 = 0;
DELETE FROM everything WHERE id % 4 = 0;
INSERT INTO everything (id, code) VALUES (1, 'c1') ON CONFLICT (id) DO UPDATE SET name = 'again';
INSERT INTO everything (id, code) VALUES (5001, 'c5001') ON CONFLICT DO NOTHING;
SELECT * FROM everything WHERE id < 20 FOR UPDATE;
VACUUM (FREEZE) everything;
SELECT brin_summarize_new_values('everything_id_idx'::regclass);
SELECT brin_desummarize_range('everything_id_idx'::regclass, 0);
DELETE FROM everything WHERE id > 100;
VACUUM everything;
REINDEX TABLE everything;
ALTER TABLE everything ALTER COLUMN id TYPE bigint;
CLUSTER everything USING everything_pkey;
VACUUM FULL everything;
"""
TABLES = """
CREATE TABLE toasted (id serial PRIMARY KEY, body text);
ALTER TABLE toasted ALTER COLUMN body SET STORAGE EXTERNAL;
INSERT INTO toasted (body) SELECT repeat('long', 3000 + n) FROM generate_series(1, 4) AS n;
UPDATE toasted SET body = body || 'er' WHERE id = 2;
DELETE FROM toasted WHERE id = 3;
TRUNCATE toasted RESTART IDENTITY;
CREATE TABLE parted (id int, part int) PARTITION BY LIST (part);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
INSERT INTO parted SELECT n, 1 + n % 2 FROM generate_series(1, 20) AS n;
UPDATE parted SET part = 2 WHERE part = 1 AND id < 9;
TRUNCATE parted, toasted;
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
CREATE SEQUENCE counter;
SELECT count(nextval('counter')) FROM generate_series(1, 70);
SELECT setval('counter', 9);
CREATE MATERIALIZED VIEW seen AS SELECT id FROM parted;
REFRESH MATERIALIZED VIEW seen;
SELECT lo_from_bytea(0, repeat('blob', 900)::bytea);
BEGIN;
SAVEPOINT a;
INSERT INTO parted VALUES (100, 1);
SAVEPOINT b;
INSERT INTO parted VALUES (101, 1);
ROLLBACK TO b;
DROP TABLE unlogged;
RELEASE a;
COMMIT;
BEGIN;
CREATE TABLE never (id int PRIMARY KEY);
INSERT INTO never SELECT generate_series(1, 50);
ROLLBACK;
DO $$ BEGIN
  FOR n IN 1..140 LOOP
    BEGIN
      INSERT INTO parted VALUES (1000 + n, 1);
    EXCEPTION WHEN division_by_zero THEN
      NULL;
    END;
  END LOOP; END $$;
SELECT pg_logical_emit_message(true, 'prefix', 'in a transaction');
SELECT pg_logical_emit_message(false, 'prefix', repeat('m', 70000));
SELECT pg_create_restore_point('the point');
VACUUM FULL pg_class;
CHECKPOINT;
"""
TWO_PHASE = """
BEGIN;
SAVEPOINT a;
INSERT INTO parted VALUES (200, 2);
CREATE TABLE made_by_two (id int);
DROP TABLE toasted;
PREPARE TRANSACTION 'first one';
BEGIN;
INSERT INTO parted VALUES (201, 2);
PREPARE TRANSACTION 'second';
COMMIT PREPARED 'first one';
ROLLBACK PREPARED 'second';
"""
# With wal_level logical the end of a prepared transaction carries its name.
LOGICAL_TWO_PHASE = """
BEGIN;
CREATE TABLE third (id int);
PREPARE TRANSACTION 'third';
COMMIT PREPARED 'third';
"""
CLUSTER_WIDE = """
CREATE TABLESPACE elsewhere LOCATION '{place}';
CREATE TABLE there (id int PRIMARY KEY) TABLESPACE elsewhere;
INSERT INTO there SELECT generate_series(1, 300);
ALTER TABLE there SET TABLESPACE pg_default;
{databases}
DROP TABLESPACE elsewhere;
SELECT pg_replication_origin_create('origin');
SELECT pg_replication_origin_session_setup('origin');
BEGIN;
SELECT pg_replication_origin_xact_setup('0/ABC', '2026-01-01 00:00:00+00');
INSERT INTO parted VALUES (300, 1);
COMMIT;
SELECT pg_replication_origin_session_reset();
SELECT pg_replication_origin_drop('origin');
"""
DATABASE = "CREATE DATABASE other;\nDROP DATABASE other;\n"


def run(server: Server, *, is_small: bool = False) -> None:
    """Run all of it against a running server with SETTINGS; it is restarted once.

    With `is_small` there are fewer rows, and no database is created through the WAL, which takes
    7 MB of it.
    """
    indexes = INDEXES.replace("(1, 400)", "(1, 40)") if is_small else INDEXES
    # A mapped catalog too, of one page.
    fewer = TABLES.replace("1..140", "1..70").replace("FULL pg_class", "FULL pg_tablespace")
    tables = fewer if is_small else TABLES
    again = TABLES.partition("CREATE TABLE parted")[0] if is_small else TABLES
    place = f"{server.folder}/elsewhere"
    with closing(server.connect()) as connection:
        _statements(connection, indexes)
        _statements(connection, tables)
        _compressed(connection, server.major)
        _copy(connection, 150 if is_small else 2500)
        _lock_from_two(connection, server)
        _statements(connection, TWO_PHASE)
        _execute(connection, f"COPY (SELECT 1) TO PROGRAM 'mkdir {place}; cat'")
        by_file = " STRATEGY file_copy" if server.major >= 15 else ""
        databases = DATABASE.replace("other;", f"other{by_file};", 1)
        databases += "" if is_small else DATABASE
        _statements(connection, CLUSTER_WIDE.format(place=place, databases=databases))
        _execute(connection, "ALTER SYSTEM SET full_page_writes = off")
    server.configure({"max_connections": 41, "wal_level": "logical"})
    server.restart()
    server.query(f"CREATE DATABASE again{by_file}")
    with closing(server.connect("again")) as connection:
        _statements(connection, again)
        _statements(connection, LOGICAL_TWO_PHASE)
        _execute(connection, "SELECT pg_logical_emit_message(false, 'big', repeat('b', 2500000))")
        _execute(connection, "SELECT pg_switch_wal()")
        _execute(connection, "CREATE TABLE behind_the_switch (id int)")


def _statements(connection: psycopg.Connection[tuple[object, ...]], text: str) -> None:
    for statement in re.split(r";\n(?!  )", text):
        if statement.strip():
            _execute(connection, statement)


def _execute(connection: psycopg.Connection[tuple[object, ...]], statement: str) -> None:
    connection.execute(statement.encode())


def _copy(connection: psycopg.Connection[tuple[object, ...]], rows: int) -> None:
    """Load rows by COPY: multi-inserts, also into a page of their own."""
    connection.execute("CREATE TABLE copied (id int, name text)")
    with connection.cursor() as cursor, cursor.copy("COPY copied FROM STDIN") as copy:
        for number in range(rows):
            copy.write_row((number, f"row {number}"))
    connection.execute("DELETE FROM copied")
    connection.execute("VACUUM copied")


def _compressed(connection: psycopg.Connection[tuple[object, ...]], major: int) -> None:
    """Write page images compressed by each method that the version has."""
    methods = ["on"] if major < 15 else ["pglz", "lz4", "zstd"]
    for method in methods:
        try:
            connection.execute(sql.SQL("SET wal_compression = {}").format(method))
        except psycopg.errors.InvalidParameterValue:
            continue  # built without it
        connection.execute("CHECKPOINT")
        connection.execute("UPDATE everything SET body = body || 'z' WHERE id < 30")
        connection.execute("SET wal_consistency_checking = 'heap, gin'")
        connection.execute("UPDATE everything SET body = body || 'z' WHERE id < 30")
        connection.execute("RESET wal_consistency_checking")
    connection.execute("SET wal_compression = off")


def _lock_from_two(connection: psycopg.Connection[tuple[object, ...]], server: Server) -> None:
    """Lock one row from two transactions at once: a multixact."""
    statement: LiteralString = "SELECT * FROM everything WHERE id = 1 FOR KEY SHARE"
    with closing(server.connect()) as second, connection.transaction(), second.transaction():
        connection.execute(statement)
        second.execute(statement)
        connection.execute("UPDATE everything SET name = 'mine' WHERE id = 1")


# ---- what pg_waldump says ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listed:
    """One record as pg_waldump lists it; blocks are (id, tablespace, db, file, fork, block)."""

    lsn: int
    prev: int
    rmgr: str
    operation: str
    length: int
    length_without_images: int
    xid: int
    blocks: tuple[tuple[int, int, int, int, str, int], ...]


_LINE = re.compile(
    r"rmgr: (\S+)\s+len \(rec/tot\):\s*(\d+)/\s*(\d+), tx:\s*(\d+), lsn: (\S+), prev (\S+), "
    r"desc: (\S+)(.*)"
)
_BLOCK = re.compile(r"blkref #(\d+): rel (\d+)/(\d+)/(\d+)(?: fork (\S+))? blk (\d+)")


def listing(text: str) -> Iterator[Listed]:
    """Read the lines of pg_waldump."""
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        rmgr, shorter, total, xid, lsn, prev, operation, rest = match.groups()
        if operation == "UNKNOWN":
            operation = " ".join((operation, *rest.split()[:1]))
        blocks = tuple(
            (int(id_), int(space), int(database), int(file), fork or "main", int(block))
            for id_, space, database, file, fork, block in _BLOCK.findall(rest)
        )
        yield Listed(
            _position(lsn), _position(prev), rmgr, operation, int(total), int(shorter), int(xid),
            blocks,
        )  # fmt: skip


def waldump(server: Server, segment: str, start: str) -> str:
    """Return pg_waldump's lines from an LSN in a segment to the end of what is written."""
    names = (file.name for file in server.wal.iterdir() if len(file.name) == len(segment))
    last = max(name for name in names if name[:8] == segment[:8])
    try:
        return server.run("pg_waldump", "-p", str(server.wal), "-s", start, segment, last)
    except subprocess.CalledProcessError as error:
        # The end of the WAL counts as an error, after everything was printed.
        return str(error.stdout)


def _position(text: str) -> int:
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)
