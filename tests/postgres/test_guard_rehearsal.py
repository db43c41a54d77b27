"""`pitr guard check --rehearse` on PostgreSQL: the true damage, and nothing of it in production."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import Done, pitr
from tests.postgres.test_guard_run import Site, by_table, made
from tools.postgres_servers import Server

MORE = """
CREATE TABLE audit (what text);
CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
    'BEGIN INSERT INTO audit VALUES (old.id::text); RETURN NULL; END';
CREATE TRIGGER audited AFTER DELETE ON lines FOR EACH ROW EXECUTE FUNCTION audited();
CREATE TABLE prices (item text, cents int, note text);
INSERT INTO prices SELECT i::text, i, 'n' FROM generate_series(1, 7) AS i;
CREATE TABLE parts (a int, b int) PARTITION BY LIST (a);
CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE part_2 PARTITION OF parts FOR VALUES IN (2);
INSERT INTO parts SELECT 1 + i % 2, i FROM generate_series(1, 10) AS i;
CREATE UNLOGGED TABLE passing AS SELECT 1 AS a;
CREATE TABLE far (id int);
INSERT INTO far SELECT generate_series(1, 9);
CREATE FUNCTION reads_files() RETURNS text LANGUAGE sql AS
    $$ SELECT pg_catalog.pg_read_file('/etc/hostname') $$;
CREATE ROLE clerk LOGIN;
GRANT SELECT, DELETE ON notes TO clerk;
"""
# Nothing was written: not even an empty transaction got a number.
NEXT_NUMBER = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
CHECK = ("guard", "check", "m.sql", "--rehearse")


@pytest.fixture(scope="module")
def site(major: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with a base in an archive; no capture runs."""
    folder = tmp_path_factory.mktemp("rehearsed")
    quiet = {"autovacuum": "off"}
    with (
        Server(major, settings=quiet, segment_megabytes=1) as server,
        made(server, folder) as found,
    ):
        found.changes["PITR_PG_BINDIR"] = str(server.bin)
        server.query(MORE)
        yield found


def rehearsed(site: Site, sql: str, *options: str) -> Done:
    """Rehearse a file; production is what it was, and of the sidecar nothing is left."""
    (site.folder / "m.sql").write_text(sql)
    before, number = everything(site.server), site.server.value(NEXT_NUMBER)
    done = pitr(site.folder, *CHECK, *options, **site.changes)
    assert site.server.value(NEXT_NUMBER) == number
    assert everything(site.server) == before
    assert not list(Path(site.changes["PITR_SIDECAR_FOLDER"]).iterdir())
    assert not list((site.folder / "state" / "recoveries").iterdir())
    return done


def everything(server: Server) -> dict[str, str]:
    """Return a digest of the rows of every table, and the definitions of all columns."""
    names = server.query("SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 2200"
                         " AND relkind IN ('r', 'p')")  # fmt: skip
    of_rows = "SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM {} AS t"
    found = {str(name): str(server.value(of_rows.format(name))) for (name,) in names}
    columns = "SELECT md5(string_agg(a::text, '|' ORDER BY attrelid, attnum)) FROM pg_attribute a"
    return {**found, "columns": str(server.value(columns))}


def failures(done: Done) -> list[tuple[int, str, str]]:
    """Return line, kind and message of what a rehearsal itself found in statements."""
    kinds = ("failed", "not_rehearsed", "uncommitted")
    return [(f["line"], f["kind"], f["message"]) for f in found_in(done) if f["kind"] in kinds]


def found_in(done: Done) -> list[dict[str, Any]]:
    findings: list[dict[str, Any]] = done.json["findings"]
    return findings


def tables(done: Done) -> dict[str, dict[str, object]]:
    """Return what was done to each table, without how it weighs."""
    found = by_table(done.json["rehearsal"])
    return {
        table: {name: value for name, value in counts.items() if name != "severity"}
        for table, counts in found.items()
    }


def test_true_damage_is_counted(site: Site) -> None:
    """Cascades, triggers, TRUNCATE, drops and rewrites; statements that need to stand alone."""
    done = rehearsed(
        site,
        "DELETE FROM orders WHERE id > 15;\nUPDATE orders SET cents = 7 WHERE id <= 3;\n"
        "CREATE INDEX CONCURRENTLY by_item ON orders (item);\n"
        "COPY notes FROM stdin;\n8\n9\n\\.\n"
        "BEGIN;\nINSERT INTO notes VALUES (10);\nDELETE FROM notes;\nTRUNCATE notes;\nCOMMIT;\n"
        "ALTER TABLE prices DROP COLUMN note;\nALTER TABLE prices ALTER cents TYPE bigint;\n"
        "DROP TABLE part_1;\nINSERT INTO passing VALUES (2);\nCREATE TABLE fresh AS SELECT 1;\n"
        "DROP TABLE far;\nCREATE TABLE far (id int);\nINSERT INTO far VALUES (1);\n",
        "--json",
    )
    assert done.code == 1, done.err
    assert not failures(done)
    assert tables(done) == {
        "public.audit": {"inserted": 10},
        "public.far": {"inserted": 1, "deleted": 9, "dropped": True},
        "public.fresh": {"inserted": 1, "created": True},
        "public.lines": {"deleted": 10},
        "public.notes": {"inserted": 3, "deleted": 4, "truncated": True},
        "public.orders": {"deleted": 5, "updated": 3},
        "public.part_1": {"deleted": 5, "dropped": True},
        "public.prices": {"rewritten": True, "columns_dropped": ["note"]},
    }
    document = done.json["rehearsal"]
    assert document["statements"] == 17
    assert document["target"]["position"].startswith("lsn:")
    assert document["seconds"] >= document["script_seconds"] > 0
    assert any("public.passing" in note for note in document["notes"])


def test_rehearsal_says_what_guard_run_then_finds(site: Site) -> None:
    """The same counts, by the same code, once it really ran."""
    sql = (
        "CREATE TABLE copy AS SELECT * FROM prices;\nDELETE FROM copy WHERE cents > 4;\n"
        "UPDATE copy SET note = item;\nINSERT INTO audit SELECT item FROM copy;\n"
        "UPDATE parts SET a = 3 - a;\n"
    )
    done = rehearsed(site, sql, "--json", "--fail-on", "never")
    assert done.code == 0, done.err
    words = site.psql()
    really = site.guard("--", *words, "-f", str(site.folder / "m.sql"))
    assert really.code == 0, really.err
    assert tables(done) == by_table(really.json)
    site.server.query("DROP TABLE copy")


def test_statement_that_fails_is_a_finding_with_its_line(site: Site) -> None:
    """What it did in its transaction is rolled back, and nothing after it runs."""
    (site.folder / "first.sql").write_text("DELETE FROM notes;\n")
    sql = "DELETE FROM far;\nBEGIN;\nDELETE FROM prices;\n\nINSERT INTO orders VALUES (1);\nCOMMIT;"
    done = rehearsed(site, sql, "first.sql", "--format", "sarif", "--max-deleted", "3")
    assert done.code == 1, done.err
    run = json.loads(done.out)["runs"][0]
    [failed] = [one for one in run["results"] if one["ruleId"] == "failed"]
    assert failed["level"] == "error"
    assert "duplicate key" in failed["message"]["text"]
    assert failed["locations"][0]["physicalLocation"]["region"] == {"startLine": 5}
    [told] = [one for one in run["results"] if one["ruleId"] == "rehearsed"]
    assert told["message"]["text"] == "public.far: in the rehearsal 9 rows deleted."
    document = run["properties"]["rehearsal"]
    assert document["limits_passed"] == ["9 rows were deleted; at most 3 were allowed."]
    assert document["statements"] == 4


def test_what_no_text_shows_is_found_as_it_runs(site: Site) -> None:
    """Dynamic SQL in a DO body: tables that only show then are recovered, and counted."""
    sql = (
        "DO $$ BEGIN EXECUTE 'DELETE FROM fa' || 'r WHERE id < 4';"
        " EXECUTE 'DROP TABLE pri' || 'ces'; END $$;"
    )
    done = rehearsed(site, sql, "--json", "--forbid", "drop")
    assert done.code == 1, done.err
    assert tables(done) == {
        "public.far": {"deleted": 3},
        "public.prices": {"deleted": 7, "dropped": True},
    }
    assert len(done.json["rehearsal"]["limits_passed"]) == 1


def test_rehearsal_reaches_nothing_outside(site: Site) -> None:
    """Not the machine's files and programs, also where production's role is a superuser."""
    harm = site.folder / "harm"
    # Superusers may make extensions (Debian's 15 has some), and from 15 on this can be granted.
    extension = "CREATE EXTENSION hstore" if site.server.major == 15 else "SELECT 1"
    setting = "SET session_replication_role = replica" if site.server.major >= 15 else "SELECT 1"
    for sql, line in (
        (f"{setting};\nCOPY notes TO PROGRAM 'touch {harm}';", 2),
        (f"{extension};\nSELECT reads_files();", 2),
    ):
        done = rehearsed(site, sql, "--json")
        assert done.code == 1, done.err
        assert [one[:2] for one in failures(done)] == [(line, "not_rehearsed")]
    assert not harm.exists()
    done = rehearsed(site, "DELETE FROM notes;\n\\i other.sql\n", "--json")
    assert done.code == 2
    assert done.error["message"] == "m.sql: this cannot be rehearsed, in line 2: \\i other.sql"


def test_rehearsal_has_the_rights_of_the_role(site: Site) -> None:
    """What the role may not do in production fails in the rehearsal."""
    sql = "DELETE FROM notes;\nDELETE FROM far;\n"
    done = rehearsed(site, sql, "--json", "--role", "clerk")
    assert tables(done) == {"public.notes": {"deleted": 1}}, done.err
    [(line, kind, message)] = failures(done)
    assert (line, kind) == (2, "failed")
    assert "permission denied for table far. It ran as clerk" in message
    assert pitr(site.folder, *CHECK, "--role", "nobody", **site.changes).code == 2
