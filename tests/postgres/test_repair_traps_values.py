"""Values, types, drift, privileges: the traps T31 to T46.

See `trap_lab` for what they share.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pitr.errors import UsageError
from tests.postgres.trap_lab import Lab, Traps, making_lab, warned

trap = Traps()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One server, one database, every trap's tables in it."""
    with making_lab(trap, tmp_path_factory.mktemp("state")) as made:
        yield made


# --- values and types ----------------------------------------------------------------------------

trap(
    "create table t31 (id int primary key, d date, t timestamptz, i interval, b bytea, f float8,"
    " r float4, m money)",
    "insert into t31 select i, '2026-02-03', '2026-02-03 04:05:06+00', '1 mon 2 days', '\\x0001',"
    " 0.1, 0.1, 1234.5 from generate_series(1, 3) i",
    damage="delete from t31 where id = 1",
)


def test_t31_texts_mean_the_same_whatever_the_session_has_set(lab: Lab) -> None:
    """Settings of the database change neither what is compared nor what is written."""
    settings = {
        "DateStyle": "'SQL, DMY'",
        "TimeZone": "'Asia/Kolkata'",
        "IntervalStyle": "sql_standard",
        "bytea_output": "escape",
        "extra_float_digits": "-10",
    }
    name = lab.world.name
    before = lab.world.run("select t31::text from t31")
    lab.world.run(*(f"alter database {name} set {k} = {v}" for k, v in settings.items()))
    try:
        plan = lab.world.plan(lab.before, "t31")
        assert {str(c): n for c, n in plan.counts.items()} == {"lost": 1}
        lab.back("t31")
    finally:
        lab.world.run(*(f"alter database {name} reset {k}" for k in settings))
    rows = lab.world.run("select regexp_replace(t31::text, '^.[0-9]+', '') from t31")
    assert len(before) == 2
    assert len(rows) == 3
    assert len(set(rows)) == 1


trap(
    "create table t32 (id int primary key, j json, p point, x xml, b jsonb)",
    "insert into t32 select i, '{\"a\" : 1}', '(1,2)', '<a/>', '{}' from generate_series(1, 3) i",
    damage=("delete from t32 where id = 1", "update t32 set j = '{\"a\": 1}' where id = 2"),
)


def test_t32_types_without_equality(lab: Lab) -> None:
    """Json that differs in a blank is another text."""
    changed = lab.back("t32")
    assert len(changed["public.t32"][0]) == 1
    assert lab.world.run("select count(distinct j::text), count(*) from t32") == [(1, 3)]


trap(
    "create collation t33_ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    "create table t33 (k text collate t33_ci primary key, a text collate t33_ci)",
    "insert into t33 values ('One', 'x'), ('Two', 'y'), ('Three', 'z')",
    damage=("delete from t33 where k = 'one'", "update t33 set a = 'Y' where k = 'two'"),
)


def test_t33_keys_match_by_the_collation_and_values_by_their_bytes(lab: Lab) -> None:
    """A row put in as 'ONE' has taken the key of 'One'; 'Y' for 'y' is damage."""
    lab.world.run("insert into t33 values ('ONE', 'new')")
    assert lab.blocked("t33") == {"key_reused": [("One",)]}
    assert lab.back("t33", on_conflict="skip") == {"public.t33": (["(Two,Y)"], ["(Two,y)"])}


trap(
    "create table t34 (id int primary key, c char(5), a int[], r int4range, v varchar(3))",
    "insert into t34 values (1, 'x', '[0:1]={1,2}', '[1,2]', 'abc'), (2, '', '{}', 'empty', '')",
    damage="delete from t34 where id = 1",
)


def test_t34_padding_bounds_and_ranges_are_kept(lab: Lab) -> None:
    """An array keeps its bounds, a char its blanks; nothing else differs."""
    changed = lab.back("t34")
    assert changed == {"public.t34": ([], ['(1,"x    ","[0:1]={1,2}","[1,3)",abc)'])}


trap(
    "create type t35_mood as enum ('a', 'b')",
    "create domain t35_dom as int",
    "create table t35 (id int primary key, m t35_mood, d t35_dom, c int)",
    "insert into t35 values (1, 'b', 1, 1), (2, 'a', -1, 1), (3, 'a', 1, -1), (4, 'a', 1, 1)",
    damage="delete from t35",
)


def test_t35_t53_values_that_types_and_checks_of_today_refuse(lab: Lab) -> None:
    """An enum label that is gone, a domain and a check that are NOT VALID: each row is named.

    None is skipped without a word.
    """
    lab.world.run(
        "alter table t35 alter m type text",
        "drop type t35_mood",
        "create type t35_mood as enum ('a')",
        "alter table t35 alter m type t35_mood using m::t35_mood",
        "alter domain t35_dom add constraint t35_positive check (value > 0) not valid",
        "alter table t35 add constraint t35_c check (c > 0) not valid",
    )
    found = lab.merge("t35")[0].plan.blocking
    assert {one.keys for one in found} == {(("1",),), (("2",),), (("3",),)}
    assert lab.back("t35", on_conflict="skip") == {"public.t35": ([], ["(4,a,1,1)"])}


trap(
    "create extension hstore",
    "create type t36_pair as (a int, b text)",
    "create table t36 (id int primary key, h hstore, p t36_pair, ps t36_pair[])",
    "insert into t36 values (1, 'a=>1', (1, 'x,y'), array[(1, null)::t36_pair]), (2, null, null,"
    " null)",
    damage="delete from t36",
)


def test_t36_composite_and_extension_types_travel_as_text(lab: Lab) -> None:
    """Back exactly, NULL inside included."""
    lab.back("t36")
    rows = lab.world.run("select h->'a', (p).b, (ps[1]).b is null, p is null from t36 order by id")
    assert rows[0] == ("1", "x,y", True, False)
    assert rows[1][3]


trap(
    "create table t37 (id int primary key, o oid)",
    "insert into t37 select i, lo_from_bytea(0, 'x') from generate_series(1, 2) i",
    "insert into t37 values (3, 12345)",
    damage=("select lo_unlink(o) from t37 where id = 1", "delete from t37"),
)


def test_t37_large_objects(lab: Lab) -> None:
    """A row whose object is gone is a blocker; an object that is there, or was none, is not."""
    assert warned(lab.plan("t37"), "large objects")
    assert lab.blocked("t37") == {"parent_missing": [("1",)]}
    lab.back("t37", on_conflict="skip")
    assert lab.world.run("select id from t37 order by id") == [(2,), (3,)]


trap(
    "create table t38 (id int primary key, b bytea)",
    "insert into t38 select 1, decode(repeat('00ff', 8000000), 'hex')",
    damage="delete from t38",
)


def test_t38_large_values(lab: Lab) -> None:
    """Sixteen megabytes in one value."""
    image = lab.world.run("select md5(b) from t38")
    assert lab.world.merge(lab.before, "t38", after=lab.after).code == 0
    assert lab.world.run("select length(b) from t38") == [(16_000_000,)]
    assert image == []


trap(
    "create unlogged table t39 (id int primary key)",
    "create view t39_view as select 1 as a",
    damage="delete from t39",
)


@pytest.mark.parametrize("table", ["t39", "t39_view"])
def test_t39_unlogged_tables_and_views_are_refused_at_once(lab: Lab, table: str) -> None:
    """Their rows are not in the WAL."""
    assert lab.fails(table).code == 3


# --- schema drift --------------------------------------------------------------------------------

trap(
    "create table t40 (id int primary key, a text)",
    "insert into t40 values (1, 'x')",
    damage="delete from t40",
)


def test_t40_column_that_was_added_and_must_not_be_null(lab: Lab) -> None:
    """It needs --set, whose expression is over the row as it was; one with a default does not."""
    lab.world.run("alter table t40 add b text not null, add c int not null default 7")
    assert list(lab.blocked("t40")) == ["schema_drift"]
    for name in ("a", "no_such", "t40.a", "other.b"):
        with pytest.raises(UsageError, match=f"--set {name} names no column"):
            lab.plan("t40", set_columns={name: "1"})
    assert lab.back("t40", set_columns={"b": "a || id"}) == {"public.t40": ([], ["(1,x,x1,7)"])}


trap(
    "create table t41 (id int primary key, a text, gone text)",
    "insert into t41 values (1, 'x', 'y')",
    damage="delete from t41",
)


def test_t41_column_that_was_dropped_stays_dropped(lab: Lab) -> None:
    """The row comes back without it, and that is said."""
    lab.world.run("alter table t41 drop gone")
    assert warned(lab.plan("t41"), "gone since", "gone")
    assert lab.back("t41") == {"public.t41": ([], ["(1,x)"])}


trap(
    'create table t42 (id int primary key, a text, "b B" int)',
    "insert into t42 values (1, 'x', 1), (2, 'y', 2)",
    damage=("delete from t42 where id = 1", "update t42 set a = '' where id = 2"),
)


def test_t42_renamed_column_and_table(lab: Lab) -> None:
    """Followed by their numbers; another column may have the old name."""
    lab.world.run(
        "alter table t42 rename a to b",
        "alter table t42 add a int",
        "alter table t42 rename to t42n",
    )
    plan = lab.plan("t42")
    assert warned(plan, "a is called b now")
    assert warned(plan, "has another name")
    assert lab.back("t42") == {"public.t42n": (['(2,"",2,)'], ["(1,x,1,)", "(2,y,2,)"])}


trap(
    "create table t43 (id int primary key, a text, n int)",
    "insert into t43 values (1, '12', 1), (2, '007', 2), (3, 'word', 3)",
    damage="delete from t43",
)


def test_t43_type_that_would_alter_or_refuse_values(lab: Lab) -> None:
    """'12' becomes 12; '007' would lose its zeros and 'word' is no number: both are named."""
    lab.world.run("alter table t43 alter a type int using a::int, alter n type bigint")
    assert lab.blocked("t43") == {"check_failed": [("3",)], "schema_drift": [("2",)]}
    assert lab.back("t43", on_conflict="skip") == {"public.t43": ([], ["(1,12,1)"])}


trap(
    "create table t44 (id int primary key, a text default 'x')",
    "insert into t44 values (1, 'x')",
    damage="delete from t44",
)


def test_t44_other_default_or_nullability_is_no_obstacle(lab: Lab) -> None:
    """The value of the row counts."""
    lab.world.run("alter table t44 alter a set default 'y', alter a set not null")
    assert lab.back("t44") == {"public.t44": ([], ["(1,x)"])}


# --- privileges and row security -----------------------------------------------------------------

trap(
    "create table t45 (id int primary key, who text)",
    "insert into t45 values (1, 'a'), (2, 'b')",
    "create role t45_role login",
    "grant all on t45 to t45_role",
    "alter table t45 enable row level security",
    "create policy mine on t45 using (who = 'a')",
    damage="delete from t45 where id = 1",
)


def test_t45_row_security_that_hides_rows(lab: Lab) -> None:
    """Hidden rows would look lost: exit 3. The owner sees all of them."""
    outcome = lab.fails("t45", user="t45_role")
    assert outcome.code == 3
    assert outcome.error is not None
    assert "rls_hidden" in outcome.error.message
    assert lab.back("t45") == {"public.t45": ([], ["(1,a)"])}


trap(
    'create table t46 (id serial primary key, a text, "B" int)',
    "insert into t46 values (1, 'x', 1), (2, 'y', 2)",
    "create role t46_role login",
    damage=("delete from t46 where id = 1", "update t46 set a = '' where id = 2"),
)


def test_t46_missing_privileges_are_named_as_grants(lab: Lab) -> None:
    """Exactly those that are missing, column by column; granting them is enough."""
    run = lab.world.run
    first = lab.fails("t46", user="t46_role")
    assert first.code == 3
    assert first.error is not None
    assert 'GRANT SELECT ON "public"."t46" TO "t46_role"' in str(first.error.hint)
    run("grant select on t46 to t46_role", "grant insert (id, a) on t46 to t46_role")
    second = lab.fails("t46", user="t46_role")
    assert second.code == 3
    assert second.error is not None
    grants = str(second.error.hint).removeprefix("As the owner of the tables: ")
    assert 'GRANT INSERT ("B") ON "public"."t46"' in grants
    assert "GRANT SELECT, UPDATE ON SEQUENCE" in grants
    assert "privilege_missing" in {str(b.kind) for b in lab.plan("t46", user="t46_role").blocking}
    run(*(one for one in grants.split(";") if one.strip()))
    changed = lab.back("t46", user="t46_role")
    assert changed == {"public.t46": (['(2,"",2)'], ["(1,x,1)", "(2,y,2)"])}
