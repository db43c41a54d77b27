"""The traps of bringing rows back, one by one, on a real server.

All tables live in one database, of which there is one copy from before the damage and one from just
after it: each test then does its own later work and merges its own tables. After each merge every
row of every other table is what it was, and so is every row that the test does not name.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from pitr.vocabulary.plan import MergeStep, Plan
from tests.postgres.repair_world import Outcome, RepairWorld
from tools.postgres_servers import Server


@dataclass(frozen=True, slots=True)
class Trap:
    """What there is before, and what the damage does."""

    setup: tuple[str, ...]
    damage: tuple[str, ...]


TRAPS: dict[str, Trap] = {}


def trap(name: str, *setup: str, damage: str | tuple[str, ...]) -> None:
    """Register what a test needs from before the damage."""
    TRAPS[name] = Trap(setup, (damage,) if isinstance(damage, str) else damage)


@dataclass(slots=True)
class Lab:
    """The world with its two copies."""

    world: RepairWorld
    before: str
    after: str

    def merge(self, *tables: str, **how: Any) -> tuple[Outcome, dict[str, Any]]:
        """Merge tables; return how it ended, and what has changed in all of the database."""
        image = self.world.image()
        outcome = self.world.merge(self.before, *tables, after=self.after, **how)
        return outcome, self.world.changed_since(image)

    def plan(self, *tables: str, **how: Any) -> Plan:
        """Plan a merge."""
        return self.world.plan(self.before, *tables, after=self.after, **how)

    def back(self, *tables: str, **how: Any) -> dict[str, Any]:
        """Merge tables, which must succeed; return what has changed."""
        outcome, changed = self.merge(*tables, **how)
        assert outcome.code == 0, (outcome.error and outcome.error.detail, outcome.result)
        return changed

    def blocked(self, *tables: str, **how: Any) -> dict[str, list[Any]]:
        """Merge tables, which must be blocked and change nothing; return kinds with their keys."""
        outcome, changed = self.merge(*tables, **how)
        assert outcome.code == 1, outcome
        assert not changed
        return {str(one.kind): list(one.keys) for one in outcome.plan.blocking}

    def fails(self, *tables: str, **how: Any) -> Outcome:
        """Merge tables, which must fail with an error and change nothing."""
        outcome, changed = self.merge(*tables, **how)
        assert outcome.error is not None, outcome
        assert not changed
        return outcome


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One server, one database, every trap's tables in it."""
    with Server(15, settings={"wal_level": "logical"}) as server:
        world = RepairWorld(server, tmp_path_factory.mktemp("state"))
        try:
            for one in TRAPS.values():
                world.run(*one.setup)
            before = world.mark()
            for one in TRAPS.values():
                world.run(*one.damage)
            yield Lab(world, before, world.mark())
        finally:
            world.close()


def warned(plan: Plan, *words: str) -> bool:
    """Return whether one warning has all of the words."""
    return any(all(word in warning for word in words) for warning in plan.warnings)


# --- keys, identity, sequences -------------------------------------------------------------------

trap(
    "t1",
    "create table t1 (id int generated always as identity primary key, a text)",
    "insert into t1 (a) values ('x'), ('y')",
    damage="delete from t1",
)


def test_t1_identity_always_takes_its_old_value(lab: Lab) -> None:
    """Rows come back under their numbers though the column is GENERATED ALWAYS."""
    assert lab.back("t1") == {"public.t1": ([], ["(1,x)", "(2,y)"])}


trap(
    "t2",
    "create table t2 (id int primary key, n int generated always as identity)",
    "insert into t2 values (1)",
    damage="update t2 set n = default",
)


def test_t2_identity_always_cannot_be_updated(lab: Lab) -> None:
    """A changed identity value is a blocker, found before anything is written."""
    assert list(lab.blocked("t2")) == ["check_failed"]


trap(
    "t3",
    "create table t3 (id int primary key, a int, g int generated always as (a * 2) stored)",
    "insert into t3 values (1, 5), (2, 6)",
    damage=("delete from t3 where id = 1", "update t3 set a = 0 where id = 2"),
)


def test_t3_generated_columns_are_computed(lab: Lab) -> None:
    """They are never written, and come out as they were."""
    assert lab.back("t3") == {"public.t3": (["(2,0,0)"], ["(1,5,10)", "(2,6,12)"])}


trap(
    "t4",
    "create table t4 (id serial primary key, a text)",
    "insert into t4 (a) select 'x' from generate_series(1, 50)",
    damage="truncate t4 restart identity",
)


def test_t4_sequence_is_raised_past_the_rows(lab: Lab) -> None:
    """After TRUNCATE RESTART IDENTITY the next row gets a number that is free."""
    lab.back("t4")
    assert lab.world.run("insert into t4 (a) values ('new') returning id") == [(51,)]


trap(
    "t5",
    "create table t5 (id serial primary key, a text)",
    "insert into t5 (a) select 'x' from generate_series(1, 5)",
    damage="truncate t5 restart identity",
)


class _Stop(Exception):
    pass


def stopping(at: MergeStep) -> Any:
    """Return what raises when a merge comes to a step."""

    def on_step(step: MergeStep) -> None:
        if step is at:
            raise _Stop

    return on_step


def test_t5_raised_sequence_stays_raised_when_the_merge_is_rolled_back(lab: Lab) -> None:
    """Sequences know no transaction: it leaves numbers out, and nothing else."""
    image = lab.world.image()
    with pytest.raises(_Stop):
        lab.merge("t5", on_step=stopping(MergeStep.VERIFIED))
    assert not lab.world.changed_since(image)
    assert lab.world.run("select last_value from t5_id_seq") == [(5,)]
    assert warned(lab.plan("t5"), "sequences", "rolled back")
    lab.back("t5")


trap(
    "t6",
    "create table t6 (id int primary key, u text unique, e text, p int)",
    "create unique index on t6 (lower(e))",
    "create unique index t6_partial on t6 (p) where p > 10",
    "insert into t6 values (1, 'one', 'E', 1), (2, 'two', 'F', 20), (3, 'three', 'G', 3)",
    damage="delete from t6",
)


def test_t6_unique_value_taken_by_a_new_row(lab: Lab) -> None:
    """By plain, expression and partial indexes; both rows are named; skip leaves them aside."""
    lab.world.run("insert into t6 values (11, 'one', 'x', 3), (12, 'x', 'f', 1)")
    found = lab.merge("t6")[0].plan.blocking
    assert {(b.keys, b.held_by) for b in found} == {
        ((("1",),), (("11",),)),
        ((("2",),), (("12",),)),
    }
    assert lab.back("t6", on_conflict="skip") == {"public.t6": ([], ["(3,three,G,3)"])}


trap(
    "t7",
    "create table t7 (id int primary key, u int unique deferrable initially deferred)",
    "insert into t7 values (1, 1)",
    damage="delete from t7",
)


def test_t7_deferrable_unique_value_taken(lab: Lab) -> None:
    """A deferrable constraint is judged beforehand like any other."""
    lab.world.run("insert into t7 values (2, 1)")
    assert lab.blocked("t7") == {"unique_taken": [("1",)]}


trap(
    "t8",
    "create table t8 (id int primary key, during int4range, exclude using gist (during with &&))",
    "insert into t8 values (1, '[1,5)'), (2, '[10,20)')",
    damage="delete from t8",
)


def test_t8_exclusion_constraint(lab: Lab) -> None:
    """Judged by the operator of the constraint: ranges that overlap."""
    lab.world.run("insert into t8 values (3, '[4,6)')")
    assert lab.blocked("t8") == {"unique_taken": [("1",)]}
    assert lab.back("t8", on_conflict="skip") == {"public.t8": ([], ['(2,"[10,20)")'])}


trap(
    "t9",
    "create table t9 (id int primary key, d int unique, n int unique nulls not distinct)",
    "insert into t9 values (1, null, 1), (2, 2, null)",
    damage="delete from t9",
)


def test_t9_nulls_are_distinct_unless_declared_otherwise(lab: Lab) -> None:
    """NULL takes no NULL's place in a unique index, but in one with NULLS NOT DISTINCT."""
    lab.world.run("insert into t9 values (3, null, null)")
    assert lab.blocked("t9") == {"unique_taken": [("2",)]}


trap(
    "t10",
    "create table t10 (id int primary key, u int unique)",
    "insert into t10 values (1, 10), (2, 20)",
    damage=(
        "update t10 set u = null where id = 1",
        "update t10 set u = 10 where id = 2",
        "update t10 set u = 20 where id = 1",
    ),
)


def test_t10_swapped_unique_values_are_swapped_back(lab: Lab) -> None:
    """Though the constraint is looked at after each row."""
    changed = lab.back("t10")
    assert changed == {"public.t10": (["(1,20)", "(2,10)"], ["(1,10)", "(2,20)"])}


trap(
    "t11",
    "create table t11 (a int, b json)",
    "insert into t11 values (1, '{}'), (1, '{}'), (1, '{}'), (2, null)",
    damage="delete from t11 where a = 1",
)


def test_t11_rows_without_a_key_come_back_as_often_as_they_were(lab: Lab) -> None:
    """Json has no equality; copies are counted, and undo takes as many away."""
    lab.world.run("insert into t11 values (1, '{}')")
    image = lab.world.image()
    outcome, changed = lab.merge("t11")
    assert changed == {"public.t11": ([], ["(1,{})", "(1,{})"])}
    assert lab.world.undo(outcome.merge).code == 0
    assert not lab.world.changed_since(image)


trap(
    "t12",
    "create table t12 (id int primary key, a text)",
    "insert into t12 values (1, 'old')",
    damage="delete from t12",
)


def test_t12_key_that_was_used_again_is_a_conflict(lab: Lab) -> None:
    """Nobody's row is replaced, unless that is asked for."""
    lab.world.run("insert into t12 values (1, 'other')")
    assert lab.blocked("t12") == {"key_reused": [("1",)]}
    assert lab.back("t12", on_conflict="overwrite") == {"public.t12": (["(1,other)"], ["(1,old)"])}


# --- foreign keys --------------------------------------------------------------------------------

trap(
    "t13",
    "create table t13_p (id int primary key)",
    "create table t13 (id int primary key, p int references t13_p)",
    "insert into t13_p values (1), (2)",
    "insert into t13 values (1, 1), (2, 2), (3, null)",
    damage=("delete from t13", "delete from t13_p where id = 1"),
)


def test_t13_missing_parent(lab: Lab) -> None:
    """The rows that name it are a blocker; with skip the others come; with the parent all do."""
    assert lab.blocked("t13") == {"parent_missing": [("1",)]}
    assert lab.back("t13", on_conflict="skip") == {"public.t13": ([], ["(2,2)", "(3,)"])}
    assert lab.back("t13", "t13_p") == {
        "public.t13": ([], ["(1,1)"]),
        "public.t13_p": ([], ["(1)"]),
    }


trap(
    "t14",
    "create table t14 (id int primary key)",
    "create table t14_c (id int primary key, p int references t14 on delete cascade)",
    "create table t14_n (id int primary key, p int references t14 on delete set null)",
    "create table t14_d (id int primary key, p int default 9 references t14 on delete set default)",
    "insert into t14 values (1), (9)",
    "insert into t14_c values (1, 1)",
    "insert into t14_n values (1, 1)",
    "insert into t14_d values (1, 1)",
    damage="delete from t14 where id = 1",
)


def test_t14_children_that_went_or_forgot(lab: Lab) -> None:
    """CASCADE, SET NULL and SET DEFAULT children are repaired with their parent."""
    assert lab.back("t14_c", "t14_n", "t14_d", "t14") == {
        "public.t14": ([], ["(1)"]),
        "public.t14_c": ([], ["(1,1)"]),
        "public.t14_d": (["(1,9)"], ["(1,1)"]),
        "public.t14_n": (["(1,)"], ["(1,1)"]),
    }


trap(
    "t15",
    "create table t15 (id int primary key, up int references t15)",
    "insert into t15 values (3, null), (2, 3), (1, 2)",
    damage="delete from t15",
)


def test_t15_rows_that_name_rows_of_their_own_table(lab: Lab) -> None:
    """Come back in one statement, whatever their order."""
    assert lab.back("t15") == {"public.t15": ([], ["(1,2)", "(2,3)", "(3,)"])}


trap(
    "t16",
    "create table t16_a (id int primary key, b int not null)",
    "create table t16_b (id int primary key, a int not null references t16_a)",
    "alter table t16_a add constraint t16_ab foreign key (b) references t16_b"
    " deferrable initially deferred",
    "begin",
    "insert into t16_a values (1, 1)",
    "insert into t16_b values (1, 1)",
    "commit",
    "alter table t16_a alter constraint t16_ab not deferrable",
    damage="with x as (delete from t16_a) delete from t16_b",
)


def test_t16_circle_of_foreign_keys_that_cannot_be_deferred(lab: Lab) -> None:
    """Both tables are written in one statement; no constraint is touched."""
    assert lab.back("t16_a", "t16_b") == {
        "public.t16_a": ([], ["(1,1)"]),
        "public.t16_b": ([], ["(1,1)"]),
    }


trap(
    "t17",
    "create table t17_p (id int primary key, note text)",
    "create table t17 (id int primary key, p int references t17_p, a text)",
    "insert into t17_p values (1, '')",
    "insert into t17 values (1, 1, 'x'), (2, 1, 'y')",
    damage=("delete from t17 where id = 1", "update t17 set a = '' where id = 2"),
)


def test_t17_t20_locks_are_as_weak_as_they_can_be(lab: Lab) -> None:
    """No table lock but that of any writer; the parent's other columns stay free to be written."""
    modes: list[tuple[str, ...]] = []

    def on_step(step: MergeStep) -> None:
        if step is MergeStep.VERIFIED:
            rows = lab.world.run(
                "select distinct mode from pg_locks l join pg_class c on c.oid = l.relation"
                " where relname like 't17%' and l.locktype = 'relation'"
                " and l.pid <> pg_backend_pid() order by 1"
            )
            modes.extend(rows)
            lab.world.run("set lock_timeout = '2s'", "update t17_p set note = 'while it runs'")

    lab.back("t17", on_step=on_step)
    assert modes == [("AccessShareLock",), ("RowExclusiveLock",), ("RowShareLock",)]


trap(
    "t18",
    "create table t18 (id int primary key, a text)",
    "insert into t18 values (1, 'x'), (2, 'y')",
    "create role t18_role login",
    "grant select, insert, update on t18 to t18_role",
    damage=("delete from t18 where id = 1", "update t18 set a = '' where id = 2"),
)


def test_t18_no_superuser_is_needed(lab: Lab) -> None:
    """A role that may write the table may merge it."""
    changed = lab.back("t18", user="t18_role")
    assert changed == {"public.t18": (['(2,"")'], ["(1,x)", "(2,y)"])}


trap(
    "t19",
    "create table t19_p (id int primary key)",
    "create table t19 (id int primary key, p int references t19_p)",
    "insert into t19_p values (1)",
    "insert into t19 values (1, 1)",
    damage="delete from t19",
)


def test_t19_parent_that_was_deleted_on_purpose_stays_deleted(lab: Lab) -> None:
    """Nobody brings it back without naming its table."""
    lab.world.run("delete from t19_p")
    assert lab.blocked("t19") == {"parent_missing": [("1",)]}
    assert lab.world.run("select count(*) from t19_p") == [(0,)]


# --- triggers and rules --------------------------------------------------------------------------

trap(
    "t21",
    "create table t21 (id int primary key, a text, updated_at timestamptz)",
    "create table t21_audit (id int, what text)",
    "create function t21_stamp() returns trigger language plpgsql as"
    " $$ begin new.updated_at := now(); insert into t21_audit values (new.id, tg_op);"
    " return new; end $$",
    "insert into t21 values (1, 'x', '2020-01-01Z'), (2, 'y', '2020-01-01Z')",
    "create trigger stamp before insert or update on t21 for each row execute function t21_stamp()",
    damage=("delete from t21 where id = 1", "update t21 set a = '' where id = 2"),
)


def test_t21_t23_triggers_fire_and_are_named(lab: Lab) -> None:
    """They stay on; what a trigger sets itself keeps what it set, and that is said."""
    plan = lab.plan("t21")
    assert warned(plan, "trigger stamp", "public.t21_stamp", "sets updated_at")
    lab.world.run("delete from t21_audit")
    outcome, changed = lab.merge("t21")
    assert outcome.code == 0, outcome.error and outcome.error.detail
    assert changed["public.t21_audit"] == ([], ["(1,INSERT)", "(2,UPDATE)"])
    assert lab.world.run("select id, a from t21 order by id") == [(1, "x"), (2, "y")]
    assert outcome.result is not None
    assert any("triggers have set updated_at" in text for text in outcome.result.warnings)


trap(
    "t22",
    "create table t22 (id int primary key, a text)",
    "insert into t22 values (1, 'x'), (2, 'y')",
    "create function t22_drop() returns trigger language plpgsql as"
    " $$ begin if new.id = 2 then return null; end if; return new; end $$",
    damage=("delete from t22",),
)


def test_t22_trigger_that_drops_a_row_without_an_error(lab: Lab) -> None:
    """Is found by counting; everything is rolled back."""
    lab.world.run("create trigger d before insert on t22 for each row execute function t22_drop()")
    outcome = lab.fails("t22")
    assert outcome.code == 6
    assert outcome.error is not None
    assert "trigger_suppressed" in str(outcome.error.detail)


trap(
    "t22_alter",
    "create table t22_alter (id int primary key, a text)",
    "insert into t22_alter values (1, 'x')",
    "create function t22_alter() returns trigger language plpgsql as"
    ' $$ begin return jsonb_populate_record(new, \'{"a": "altered"}\'); end $$',
    damage="delete from t22_alter",
)


def test_t22_trigger_that_alters_a_row_without_a_word(lab: Lab) -> None:
    """Is found by reading back."""
    lab.world.run(
        "create trigger d before insert on t22_alter for each row execute function t22_alter()"
    )
    assert lab.fails("t22_alter").code == 6


trap(
    "t24",
    "create table t24 (id int primary key)",
    "insert into t24 values (1)",
    damage="delete from t24",
)


def test_t24_rule_is_a_blocker(lab: Lab) -> None:
    """A rule would put another statement in the place of the insert."""
    lab.world.run("create rule nothing as on insert to t24 do instead nothing")
    assert list(lab.blocked("t24")) == ["trigger_suppressed"]


# --- partitions, inheritance, identity -----------------------------------------------------------

trap(
    "t26",
    "create table t26 (id int, at int, primary key (id, at)) partition by range (at)",
    "create table t26_1 partition of t26 for values from (0) to (10)",
    "create table t26_2 partition of t26 for values from (10) to (20)",
    "insert into t26 values (1, 5), (2, 15)",
    damage=("delete from t26 where id = 1", "drop table t26_2"),
)


def test_t26_partition_that_was_dropped(lab: Lab) -> None:
    """Rows that no partition takes are a blocker; the others come back through the root."""
    assert lab.blocked("t26") == {"check_failed": [("2", "15")]}
    assert lab.back("t26", on_conflict="skip") == {"public.t26": ([], ["(1,5)"])}


trap(
    "t27",
    "create table t27 (id int, at int) partition by list (at)",
    "create table t27_1 partition of t27 for values in (1)",
    "create table t27_2 partition of t27 for values in (2)",
    "create table t27_k (id int primary key, at int) partition by hash (id)",
    "create table t27_k1 partition of t27_k for values with (modulus 2, remainder 0)",
    "create table t27_k2 partition of t27_k for values with (modulus 2, remainder 1)",
    "insert into t27 values (1, 1), (1, 1), (2, 2)",
    "insert into t27_k values (1, 1), (2, 2), (3, 3)",
    damage=("update t27 set at = 2 where id = 1", "delete from t27_k"),
)


def test_t27_rows_in_partitions(lab: Lab) -> None:
    """Without a key, and by hash; and back again."""
    image = lab.world.image()
    outcome, changed = lab.merge("t27", "t27_k")
    assert changed == {
        "public.t27": ([], ["(1,1)", "(1,1)"]),
        "public.t27_k": ([], ["(1,1)", "(2,2)", "(3,3)"]),
    }
    assert lab.world.undo(outcome.merge).code == 0
    assert not lab.world.changed_since(image)


trap(
    "t29",
    "create table t29 (id int primary key, a text)",
    "create table t29_child (extra text) inherits (t29)",
    "insert into t29 values (1, 'parent'), (2, 'parent')",
    "insert into t29_child values (1, 'child', 'e'), (2, 'child', 'e')",
    damage=("delete from only t29 where id = 1", "update only t29 set a = '' where id = 2"),
)


def test_t29_rows_of_children_by_inheritance_are_other_rows(lab: Lab) -> None:
    """Neither seen as the parent's, nor written."""
    lab.back("t29")
    assert lab.world.run("select id, a from only t29 order by id") == [(1, "parent"), (2, "parent")]
    assert lab.world.run("select id, a from t29_child order by id") == [(1, "child"), (2, "child")]


trap(
    "t30",
    "create table t30 (id int primary key, a text)",
    "insert into t30 values (1, 'x')",
    damage="drop table t30",
)


def test_t30_table_that_was_dropped_and_made_anew(lab: Lab) -> None:
    """While it is gone that is a blocker; a new one of that name pairs by column names."""
    assert list(lab.blocked("t30")) == ["schema_drift"]
    lab.world.run("create table t30 (a text, id int primary key, b int)")
    assert warned(lab.plan("t30"), "dropped and made anew")
    assert lab.back("t30") == {"public.t30": ([], ["(x,1,)"])}


# --- values and types ----------------------------------------------------------------------------

trap(
    "t31",
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
    "t32",
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
    "t33",
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
    "t34",
    "create table t34 (id int primary key, c char(5), a int[], r int4range, v varchar(3))",
    "insert into t34 values (1, 'x', '[0:1]={1,2}', '[1,2]', 'abc'), (2, '', '{}', 'empty', '')",
    damage="delete from t34 where id = 1",
)


def test_t34_padding_bounds_and_ranges_are_kept(lab: Lab) -> None:
    """An array keeps its bounds, a char its blanks; nothing else differs."""
    changed = lab.back("t34")
    assert changed == {"public.t34": ([], ['(1,"x    ","[0:1]={1,2}","[1,3)",abc)'])}


trap(
    "t35",
    "create type t35_mood as enum ('a', 'b')",
    "create domain t35_dom as int",
    "create table t35 (id int primary key, m t35_mood, d t35_dom, c int)",
    "insert into t35 values (1, 'b', 1, 1), (2, 'a', -1, 1), (3, 'a', 1, -1), (4, 'a', 1, 1)",
    damage="delete from t35",
)


def test_t35_values_that_types_and_checks_of_today_refuse(lab: Lab) -> None:
    """An enum label that is gone, a domain and a check that are NOT VALID: each row is named."""
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
    "t36",
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
    "t37",
    "create table t37 (id int primary key, o oid)",
    "insert into t37 values (1, 123456)",
    damage="delete from t37",
)


def test_t37_large_objects_are_told(lab: Lab) -> None:
    """A row names an object by its OID; the object is not in the row."""
    assert warned(lab.plan("t37"), "large objects")


trap(
    "t38",
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
    "t39",
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
    "t40",
    "create table t40 (id int primary key, a text)",
    "insert into t40 values (1, 'x')",
    damage="delete from t40",
)


def test_t40_column_that_was_added_and_must_not_be_null(lab: Lab) -> None:
    """It needs --set, whose expression is over the row as it was; one with a default does not."""
    lab.world.run("alter table t40 add b text not null, add c int not null default 7")
    assert list(lab.blocked("t40")) == ["schema_drift"]
    assert lab.back("t40", set_columns={"b": "a || id"}) == {"public.t40": ([], ["(1,x,x1,7)"])}


trap(
    "t41",
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
    "t42",
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
    "t43",
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
    "t44",
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
    "t45",
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
    "t46",
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
    grants = str(second.error.hint).removeprefix("As its owner: ")
    assert 'GRANT INSERT ("B") ON "public"."t46"' in grants
    assert "GRANT SELECT, UPDATE ON SEQUENCE" in grants
    assert "privilege_missing" in {str(b.kind) for b in lab.plan("t46", user="t46_role").blocking}
    run(*(one for one in grants.split(";") if one.strip()))
    changed = lab.back("t46", user="t46_role")
    assert changed == {"public.t46": (['(2,"",2)'], ["(1,x,1)", "(2,y,2)"])}


# --- concurrency ---------------------------------------------------------------------------------

trap(
    "t47",
    "create table t47 (id int primary key, a text, b text)",
    "insert into t47 values (1, 'x', ''), (2, 'y', ''), (3, 'z', '')",
    damage="update t47 set a = ''",
)


def test_t47_t48_rows_that_move_between_plan_and_merge(lab: Lab) -> None:
    """Who was shown the plan gets exit 7; who agreed beforehand gets the plan as it is then."""
    outcome = lab.world.merge(
        lab.before,
        "t47",
        after=lab.after,
        is_agreed=False,
        confirm=lambda _plan: lab.world.run("update t47 set a = 'newer' where id = 1") and None,
    )
    assert outcome.code == 7
    assert lab.world.run("select a from t47 order by id") == [("newer",), ("",), ("",)]
    assert lab.blocked("t47") == {"touched_since": [("1",)]}
    lab.back("t47", on_conflict="skip")
    assert lab.world.run("select a from t47 order by id") == [("newer",), ("y",), ("z",)]


trap(
    "t49",
    "create table t49 (id int primary key, a text)",
    "insert into t49 values (1, 'x')",
    damage="delete from t49",
)


def test_t49_key_that_is_taken_by_a_transaction_still_open(lab: Lab) -> None:
    """The merge waits for it, and then finds the key used: tried again, and a conflict."""
    other = lab.world.server.connect(lab.world.name)
    other.execute("begin")
    other.execute("insert into t49 values (1, 'other')")
    done: list[Outcome] = []
    thread = threading.Thread(
        target=lambda: done.append(
            lab.world.merge(lab.before, "t49", after=lab.after, lock_seconds=20.0)
        )
    )
    thread.start()
    _wait_until_blocked(lab.world)
    other.execute("commit")
    thread.join()
    other.close()
    assert done[0].code == 1
    assert {str(one.kind) for one in done[0].plan.blocking} == {"key_reused"}
    assert lab.world.run("select a from t49") == [("other",)]


def _wait_until_blocked(world: RepairWorld) -> None:
    with world.server.connect() as watcher:
        for _ in range(2000):
            found = watcher.execute(
                "select count(*) from pg_stat_activity where datname = %s and"
                " wait_event_type = 'Lock'",
                (world.name,),
            ).fetchone()
            if found and found[0]:
                return
    raise AssertionError("nobody waits for a lock")


trap(
    "t50",
    "create table t50 (id int primary key, a text, n int default 0)",
    "insert into t50 select i, 'x' from generate_series(1, 200) i",
    damage="update t50 set a = ''",
)


def test_t50_deadlocks_are_tried_again(lab: Lab) -> None:
    """A writer that locks rows against the order of their keys, all the time, loses nothing."""
    stop = threading.Event()

    def write() -> None:
        with lab.world.server.connect(lab.world.name) as other:
            other.execute("set deadlock_timeout = '20ms'")
            while not stop.is_set():
                try:
                    with other.transaction():
                        other.execute("update t50 set n = n + 1 where id = 150")
                        other.execute("update t50 set n = n + 1 where id = 20")
                except psycopg.errors.DeadlockDetected:
                    continue

    thread = threading.Thread(target=write)
    thread.start()
    try:
        outcome = lab.world.merge(lab.before, "t50", after=lab.after, lock_seconds=20.0)
    finally:
        stop.set()
        thread.join()
    assert outcome.code == 0, outcome.error and outcome.error.detail
    assert lab.world.run("select count(*) from t50 where a = 'x'") == [(200,)]
    numbers = lab.world.run("select n from t50 where id in (20, 150)")
    assert numbers[0] == numbers[1]
    assert numbers[0][0] > 0


trap(
    "t51",
    "create table t51 (id int primary key, a text)",
    "insert into t51 values (1, 'x')",
    damage="update t51 set a = ''",
)


def test_t51_lock_timeout(lab: Lab) -> None:
    """A row that somebody holds is waited for so long, then exit 6."""
    with lab.world.server.connect(lab.world.name) as other, other.transaction():
        other.execute("select * from t51 for update")
        assert lab.fails("t51", lock_seconds=0.3).code == 6


trap(
    "t55",
    "create table t55 (id int primary key, a text)",
    "insert into t55 values (1, 'x')",
    damage="delete from t55",
)


def test_t55_nothing_of_a_merge_stays_in_its_session(lab: Lab) -> None:
    """No temporary table, no setting, no lock: a pooler may hand the session on."""
    seen: list[Any] = []
    with lab.world.states(lab.before, "t55", after=lab.after) as states:
        show = "select current_setting('DateStyle'), current_setting('search_path')"
        settings = states.live.execute(show).fetchall()
        from pitr.postgres.diff.classified import classify
        from pitr.postgres.diff.states import comparing

        with comparing(states):
            classify(states)
        seen += states.live.execute(
            "select count(*) from pg_class where relpersistence = 't'"
        ).fetchall()
        assert states.live.execute(show).fetchall() == settings
    assert seen == [(0,)]


trap(
    "t57",
    "create table t57 (id int primary key, a text)",
    "insert into t57 values (1, 'x')",
    damage="delete from t57",
)


def test_t57_two_merges_at_once(lab: Lab) -> None:
    """The second one waits, and gives up with exit 6."""
    with lab.world.server.connect(lab.world.name) as other, other.transaction():
        other.execute("select pg_advisory_xact_lock(%s, 1)", (0x70697472,))
        outcome = lab.fails("t57", lock_seconds=0.3)
    assert outcome.code == 6
    assert outcome.error is not None
    assert "another merge" in outcome.error.message


# --- downstream ----------------------------------------------------------------------------------

trap(
    "t58",
    "create table t58 (a int, b text)",
    "create unique index on t58 (a)",
    "alter table t58 alter a set not null",
    "insert into t58 values (1, 'x'), (2, 'y')",
    damage="update t58 set b = '' where a = 1",
)


def test_t58_t59_published_table_without_replica_identity(lab: Lab) -> None:
    """No row of it can be updated; with an identity it can, and subscribers are named."""
    lab.world.run("create publication t58_pub for table t58")
    assert list(lab.blocked("t58")) == ["check_failed"]
    lab.world.run("alter table t58 replica identity full")
    assert warned(lab.plan("t58"), "subscribers", "t58_pub")
    assert lab.back("t58") == {"public.t58": (['(1,"")'], ["(1,x)"])}


trap(
    "t60",
    "create table t60 (id int primary key)",
    "insert into t60 values (1)",
    "create view t60_v as select * from t60",
    "create materialized view t60_m as select * from t60_v",
    damage="delete from t60",
)


def test_t60_materialised_views_that_stay_stale_are_named(lab: Lab) -> None:
    """Also those that read the table through a view."""
    assert warned(lab.plan("t60"), "materialised view public.t60_m")
