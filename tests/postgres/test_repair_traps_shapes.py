"""Tables of unusual shape and size from diff to undo: the traps T25, T28, T52, T54 and T56.

See `trap_lab` for what they share.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.postgres.diff.candidates import Limits
from tests.postgres.trap_lab import Lab, Traps, making_lab

trap = Traps()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One server, one database, every trap's tables in it."""
    with making_lab(trap, tmp_path_factory.mktemp("state")) as made:
        yield made


def is_back(lab: Lab, name: str, **how: object) -> None:
    """Merge a table, which must then be as it was; undo, which must lead back; merge again."""
    statement = f"select t::text from {name} as t order by 1"
    was, damaged = lab.world.server.query(statement, lab.before), lab.world.run(statement)
    assert was != damaged
    outcome, _ = lab.merge(name.replace('"', ""), **how)
    assert outcome.code == 0, (outcome.error and outcome.error.detail, outcome.result)
    assert lab.world.run(statement) == was
    assert lab.world.undo(outcome.merge).code == 0
    assert lab.world.run(statement) == damaged
    assert lab.merge(name.replace('"', ""), **how)[0].code == 0
    assert lab.world.run(statement) == was


# --- types ---------------------------------------------------------------------------------------

trap(
    "create extension if not exists hstore",
    "create extension citext",
    "create extension ltree",
    "create extension cube",
    "create extension seg",
    "create extension isn",
    "create extension intarray",
    "create type mood as enum ('sad', 'ok', 'glad')",
    "create domain cents as numeric(10, 2) check (value >= 0)",
    "create type money_of as (currency char(3), amount cents)",
    "create table kinds (id uuid primary key, moods mood[], price cents, paid money_of,"
    " payments money_of[], during tstzrange, days datemultirange, j json, jb jsonb, x xml,"
    " grid int[][], bits varbit, net inet, place point, way path, h hstore, word citext,"
    " branch ltree, space cube, span seg, book isbn, span2 interval, f float8, flat text[])",
    "insert into kinds select ('00000000-0000-0000-0000-' || lpad(i::text, 12, '0'))::uuid,"
    " array['ok', null, 'glad']::mood[], i + 0.10, ('EUR', i::cents)::money_of,"
    " array[('USD', 1.5::cents)::money_of, null],"
    " tstzrange('2026-03-29 00:59+00', null, '(]'), '{[2026-01-01,2026-01-02),"
    " [2026-05-01,)}',"
    " '{ \"a\" :1,\"a\": 2}', '{\"b\": [1.10, null]}', '<a>  &amp; <b/></a>',"
    " '[0:1][-1:0]={{1,2},{3,null}}', B'0101', '10.0.0.1/8', '(1.5,NaN)', '[(0,0),(1,1)]',"
    " 'a=>NULL, \"b c\"=>\"d\\\"e\"', 'WoRd', 'top.a.b', '(1,2),(3,4)', '1.50 .. ~2',"
    " '978-0-393-04002-9',"
    " '-1 mons +3 days -04:05:06.789', '-0.0', array['', 'null', null, 'a,\"b\\c', E'\\n']"
    " from generate_series(1, 12) i",
    damage=(
        "delete from kinds where id < '00000000-0000-0000-0000-000000000004'",
        "update kinds set moods = null, paid = null, payments = '{}', j = '{\"a\":1}', x = null,"
        " grid = '{1}', h = '', word = 'word', branch = 'top', days = '{}', f = 0.0, flat = '{}',"
        " place = '(0,0)', price = 5.1"
        " where id < '00000000-0000-0000-0000-000000000008'",
    ),
)


def test_every_kind_of_type_comes_back_byte_for_byte(lab: Lab) -> None:
    """Arrays, composites, ranges, enums, domains, documents, and types of seven extensions."""
    is_back(lab, "kinds")


blobs = Traps()
blobs(
    "create table blobs (id int primary key, b bytea, small text)",
    "alter table blobs alter b set storage external",
    "insert into blobs select i, decode(repeat(md5(i::text), 6553600), 'hex'), 'x'"
    " from generate_series(1, 2) i",
    damage=("delete from blobs where id = 1", "update blobs set b = '' where id = 2"),
)


@pytest.mark.soak
def test_t38_values_of_a_hundred_megabytes(tmp_path: Path) -> None:
    """Two of them: one was lost and one was emptied."""
    with making_lab(blobs, tmp_path) as lab:
        outcome = lab.world.merge(lab.before, "blobs", after=lab.after)
        assert outcome.code == 0, outcome.error
        found = "select id, length(b), md5(b) from blobs order by id"
        assert lab.world.run(found) == lab.world.server.query(found, lab.before)
        assert lab.world.undo(outcome.merge).code == 0
        assert lab.world.run("select id, length(b) from blobs") == [(2, 0)]


trap(
    "create table numbers (id int primary key, n numeric, m numeric(9, 2))",
    "insert into numbers select i, i, i from generate_series(1, 200) i",
    "insert into numbers values (501, 1.0), (502, 'NaN'), (503, 0), (504, null), (505, 'Infinity')",
    damage="update numbers set n = case id when 501 then 1.00 when 502 then 'Infinity' when 503"
    " then 0.0 when 504 then 'NaN' when 505 then '-Infinity' end where id > 500",
)


def test_checksums_tell_numbers_apart_that_are_equal_or_no_numbers(lab: Lab) -> None:
    """1.0 and 1.00, NaN and the infinities, NULL and NaN: though few rows travel."""
    limits = Limits(whole_bytes=0, share_max=1.0, rows_a_bucket=1)
    found = lab.world.diff(lab.before, "numbers", limits=limits)
    assert found.classes == {"differs": [501, 502, 503, 504, 505]}
    assert found.tables[0].buckets is not None
    assert len(found.tables[0].buckets.chosen) <= 5


# --- names and widths ----------------------------------------------------------------------------

_KINDS = ("int", "text", "numeric")


def columns(count: int) -> str:
    return ", ".join(f"c{at} {_KINDS[at % 3]} default {at % 7}" for at in range(count))


trap(
    f"create table wide (id int primary key, {columns(300)})",
    "insert into wide (id) select generate_series(1, 40)",
    damage=("delete from wide where id <= 10", "update wide set c299 = null, c0 = 9 where id < 20"),
)


def test_a_table_of_hundreds_of_columns(lab: Lab) -> None:
    """Only the damaged columns are set back."""
    lab.world.run("update wide set c298 = 'later' where id = 15")
    outcome, changed = lab.merge("wide")
    assert outcome.code == 0, outcome.error
    assert len(changed["public.wide"][1]) == 19
    assert lab.world.run("select c0, c298, c299 from wide where id = 15") == [(0, "later", 5)]
    assert lab.world.undo(outcome.merge).code == 0


def kinds_of(count: int, *kinds: str) -> str:
    return ", ".join(f"c{at} {kinds[at % len(kinds)]}" for at in range(count))


# PostgreSQL's most columns, and as many texts as one page can hold a row of.
for name, listed, values in (
    ("widest", kinds_of(1599, "int default 5", "bool default true"), "c0 = 6, c1598 = null"),
    ("texts", kinds_of(999, "text default 'x'"), "c0 = 'y', c998 = null"),
):
    trap(
        f"create table {name} (id int primary key, {listed})",
        f"insert into {name} (id) select generate_series(1, 9)",
        damage=(f"delete from {name} where id < 3", f"update {name} set {values} where id < 6"),
    )


@pytest.mark.parametrize(
    ("name", "last", "knows_after"), [("widest", "c1598", False), ("texts", "c998", True)]
)
def test_a_table_of_as_many_columns_as_there_can_be(
    lab: Lab, name: str, last: str, knows_after: bool
) -> None:
    """More than PostgreSQL can join three states of, and from the diff to the undo it works."""
    world = lab.world
    statement = f"select md5(t::text) from {name} as t order by id"
    was, damaged = world.server.query(statement, lab.before), world.run(statement)
    after = lab.after if knows_after else None
    diff = world.diff(lab.before, f"public.{name}", after=after)
    rows = {row.key[0]: row for row in diff.rows}
    assert [str(rows[key].verdict.row_class) for key in (1, 3)] == [
        "lost", "damaged" if knows_after else "differs",
    ]  # fmt: skip
    assert rows[3].live is not None
    assert (rows[3].verdict.repair_columns, rows[3].live[-1]) == ((0, int(last[1:])), None)
    outcome = world.merge(lab.before, f"public.{name}", after=after, update=True)
    assert outcome.code == 0, outcome.error and outcome.error.detail
    assert world.run(statement) == [tuple(row) for row in was]
    assert world.undo(outcome.merge).code == 0
    assert world.run(statement) == damaged


trap(
    f"create table many ({kinds_of(1600, 'bool')})",
    damage="insert into many (c0) values (true)",
)


def test_a_table_that_is_too_wide_is_refused_at_once(lab: Lab) -> None:
    """Where rows are known by their content, a temporary table needs columns beside it."""
    outcome = lab.fails("many")
    assert outcome.code == 3
    assert outcome.error is not None
    assert "too many columns" in outcome.error.message


trap(
    "create schema sales",
    'create schema "Old Stock"',
    "create table orders (id int primary key, a text)",
    "create table sales.orders (id int primary key, a text)",
    'create table "Old Stock"."Order ""Items""" ("Id" int primary key, "select" text, "a.b" int)',
    "insert into orders select i, 'public' from generate_series(1, 5) i",
    "insert into sales.orders select i, 'sales' from generate_series(1, 5) i",
    'insert into "Old Stock"."Order ""Items""" select i, i, i from generate_series(1, 5) i',
    damage=(
        "delete from orders where id < 3",
        "delete from sales.orders where id < 4",
        'delete from "Old Stock"."Order ""Items""" where "Id" < 3',
        'update "Old Stock"."Order ""Items""" set "a.b" = 0, "select" = null',
    ),
)


def test_tables_of_one_name_in_several_schemas(lab: Lab) -> None:
    """Only the one that was named is touched."""
    assert set(lab.back("sales.orders")) == {"sales.orders"}
    assert lab.world.run("select count(*) from orders") == [(3,)]
    assert set(lab.back("orders")) == {"public.orders"}


def test_names_that_have_to_be_quoted(lab: Lab) -> None:
    """Blanks, capitals, quotes, dots and words of SQL."""
    changed = lab.back('Old Stock.Order "Items"')
    (rows,) = changed.values()
    assert len(rows[1]) == 5


# --- traps ---------------------------------------------------------------------------------------

trap(
    "create table t25_log (tag text)",
    "create function t25_note() returns event_trigger language plpgsql as"
    " 'begin insert into public.t25_log values (tg_tag); end'",
    "create table t25 (id int primary key, a text)",
    "insert into t25 select i, i from generate_series(1, 5) i",
    "create event trigger t25_watch on ddl_command_start when tag in ('CREATE TABLE')"
    " execute function t25_note()",
    "alter event trigger t25_watch disable",
    damage="truncate t25",
)


def test_t25_truncate_that_no_event_trigger_saw(lab: Lab) -> None:
    """Its rows come back. An event trigger of the user's does fire for our temporary tables, as
    for anybody's, and what it writes is undone with nothing else of the merge."""
    lab.world.run("alter event trigger t25_watch enable")
    changed = lab.back("t25")
    lab.world.run("drop event trigger t25_watch")
    assert len(changed.pop("public.t25")[1]) == 5
    assert set(changed) <= {"public.t25_log"}


trap(
    "create table t28 (id int, day date, primary key (id, day)) partition by range (day)",
    "create table t28_old partition of t28 for values from ('2026-01-01') to ('2026-02-01')",
    "create table t28_new partition of t28 for values from ('2026-02-01') to ('2026-03-01')",
    "insert into t28 values (1, '2026-01-05'), (2, '2026-02-05')",
    damage=("delete from t28", "alter table t28 detach partition t28_old"),
)


def test_t28_detached_partition_is_named_and_not_attached_again(lab: Lab) -> None:
    """A plain ATTACH or DETACH locks out everybody: that is left to the user."""
    assert lab.blocked("t28") == {"check_failed": [("1", "2026-01-05")]}
    assert set(lab.back("t28", on_conflict="skip")) == {"public.t28"}
    assert lab.world.run("select id from t28") == [(2,)]


trap(
    "create table t56 (id int primary key, a text)",
    "insert into t56 select i, i from generate_series(1, 30) i",
    damage=("delete from t56 where id <= 10", "update t56 set a = '' where id > 25"),
)


def test_t56_more_rows_than_were_allowed(lab: Lab) -> None:
    """Neither planned as possible nor written; one fewer is."""
    (blocker,) = lab.plan("t56", max_rows=14).blocking
    assert "15 rows" in blocker.detail
    assert lab.blocked("t56", max_rows=14, on_conflict="skip") == {"too_many_rows": []}
    assert len(lab.back("t56", max_rows=15)["public.t56"][1]) == 15


trap(
    "create table t54 (id int primary key, a text) partition by range (id)",
    "do $$ begin for i in 0..149 loop execute format('create table t54_%s partition of t54 for"
    " values from (%s) to (%s)', i, i * 10, i * 10 + 10); end loop; end $$",
    "insert into t54 select i, i from generate_series(0, 1499) i",
    damage="delete from t54 where id % 3 = 0",
)


def test_t52_t54_rows_in_many_partitions(lab: Lab) -> None:
    """Set by set, and with no more locks than the server has by default."""
    assert len(lab.back("t54")["public.t54"][1]) == 500
