"""Keys, foreign keys, triggers, partitions: the traps T1 to T30.

See `trap_lab` for what they share.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pitr.vocabulary.plan import MergeStep
from tests.postgres.trap_lab import Lab, Stop, Traps, making_lab, stopping, warned

trap = Traps()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One server, one database, every trap's tables in it."""
    with making_lab(trap, tmp_path_factory.mktemp("state")) as made:
        yield made


# --- keys, identity, sequences -------------------------------------------------------------------

trap(
    "create table t1 (id int generated always as identity primary key, a text)",
    "insert into t1 (a) values ('x'), ('y')",
    damage="delete from t1",
)


def test_t1_identity_always_takes_its_old_value(lab: Lab) -> None:
    """Rows come back under their numbers though the column is GENERATED ALWAYS."""
    assert lab.back("t1") == {"public.t1": ([], ["(1,x)", "(2,y)"])}


trap(
    "create table t2 (id int primary key, n int generated always as identity)",
    "insert into t2 values (1)",
    damage="update t2 set n = default",
)


def test_t2_identity_always_cannot_be_updated(lab: Lab) -> None:
    """A changed identity value is a blocker, found before anything is written."""
    assert list(lab.blocked("t2")) == ["check_failed"]


trap(
    "create table t3 (id int primary key, a int, g int generated always as (a * 2) stored)",
    "create table t3_f (id int primary key, a int, g int generated always as (a * 2) stored)",
    "insert into t3 values (1, 5), (2, 6)",
    "insert into t3_f values (1, 5)",
    damage=(
        "delete from t3 where id = 1",
        "update t3 set a = 0 where id = 2",
        "delete from t3_f",
    ),
)


def test_t3_generated_columns_are_computed(lab: Lab) -> None:
    """They are never written; where they are computed otherwise now, that is said."""
    assert lab.back("t3") == {"public.t3": (["(2,0,0)"], ["(1,5,10)", "(2,6,12)"])}
    lab.world.run(
        "alter table t3_f drop g", "alter table t3_f add g int generated always as (a * 3) stored"
    )
    assert warned(lab.plan("t3_f"), "generated column g", "otherwise now")
    assert lab.back("t3_f") == {"public.t3_f": ([], ["(1,5,15)"])}


trap(
    "create table t4 (id serial primary key, a text)",
    "insert into t4 (a) select 'x' from generate_series(1, 50)",
    damage="truncate t4 restart identity",
)


def test_t4_sequence_is_raised_past_the_rows(lab: Lab) -> None:
    """After TRUNCATE RESTART IDENTITY the next row gets a number that is free."""
    lab.back("t4")
    assert lab.world.run("insert into t4 (a) values ('new') returning id") == [(51,)]


trap(
    "create table t5 (id serial primary key, a text)",
    "insert into t5 (a) select 'x' from generate_series(1, 5)",
    damage="truncate t5 restart identity",
)


def test_t5_raised_sequence_stays_raised_when_the_merge_is_rolled_back(lab: Lab) -> None:
    """Sequences know no transaction: it leaves numbers out, and nothing else."""
    image = lab.world.image()
    with pytest.raises(Stop):
        lab.merge("t5", on_step=stopping(MergeStep.VERIFIED))
    assert not lab.world.changed_since(image)
    assert lab.world.run("select last_value from t5_id_seq") == [(5,)]
    assert warned(lab.plan("t5"), "sequences", "rolled back")
    lab.back("t5")


trap(
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
    "create table t7 (id int primary key, u int unique deferrable initially deferred)",
    "insert into t7 values (1, 1)",
    damage="delete from t7",
)


def test_t7_deferrable_unique_value_taken(lab: Lab) -> None:
    """A deferrable constraint is judged beforehand like any other."""
    lab.world.run("insert into t7 values (2, 1)")
    assert lab.blocked("t7") == {"unique_taken": [("1",)]}


trap(
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
    "create table t9 (id int primary key, d int unique, n int unique nulls not distinct)",
    "insert into t9 values (1, null, 1), (2, 2, null)",
    damage="delete from t9",
)


def test_t9_nulls_are_distinct_unless_declared_otherwise(lab: Lab) -> None:
    """NULL takes no NULL's place in a unique index, but in one with NULLS NOT DISTINCT."""
    lab.world.run("insert into t9 values (3, null, null)")
    assert lab.blocked("t9") == {"unique_taken": [("2",)]}


trap(
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
    undone = lab.world.undo(outcome.merge)
    assert not lab.world.changed_since(image)
    assert lab.world.undo(undone.merge).code == 0
    assert lab.world.changed_since(image) == changed


trap(
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
    "create table kin_a (id int primary key)",
    "create table kin_b (id int primary key, a int references kin_a)",
    "create table kin_c (id int primary key, b int references kin_b on delete cascade)",
    "create table kin_n (id int primary key, b int references kin_b on delete set null, x int)",
    "create table kin_d (c int references kin_c on delete cascade)",
    "insert into kin_a values (1), (2), (3)",
    "insert into kin_b values (1, 1), (2, 2)",
    "insert into kin_c values (1, 1), (2, 2)",
    "insert into kin_n values (1, 1, 0), (2, 2, 0)",
    "insert into kin_d values (1), (1), (2)",
    damage=("delete from kin_b where id = 1", "delete from kin_a where id = 1"),
)


def test_t13_t14_kin_comes_along_when_it_is_asked_for(lab: Lab) -> None:
    """Parents and children of lost rows, at every level, and no other row of their tables."""
    lab.world.run("delete from kin_a where id = 3", "update kin_n set x = 5")
    assert warned(lab.plan("kin_b"), "kin_c", "CASCADE", "--with-children")
    assert lab.blocked("kin_b", with_children=True) == {"parent_missing": [("1",)]}
    image = lab.world.image()
    outcome, changed = lab.merge("kin_b", with_parents=True, with_children=True)
    assert changed == {
        "public.kin_a": ([], ["(1)"]),
        "public.kin_b": ([], ["(1,1)"]),
        "public.kin_c": ([], ["(1,1)"]),
        "public.kin_d": ([], ["(1)", "(1)"]),
        "public.kin_n": (["(1,,5)"], ["(1,1,5)"]),
    }
    assert lab.world.undo(outcome.merge).code == 0
    assert not lab.world.changed_since(image)


trap(
    "create table t14_one (id int primary key)",
    "create table t14_many (p int references t14_one on delete cascade)",
    "insert into t14_one values (1)",
    "insert into t14_many values (1)",
    damage="delete from t14_one",
)


def test_t14_undo_leaves_a_parent_that_others_name(lab: Lab) -> None:
    """Of copies without a key one is somebody else's: the parent stays, or it would go too."""
    outcome, _ = lab.merge("t14_one", "t14_many")
    lab.world.run("insert into t14_many values (1)")
    image = lab.world.image()
    assert lab.world.undo(outcome.merge).code == 1
    assert not lab.world.changed_since(image)
    assert lab.world.undo(outcome.merge, on_conflict="skip").code == 0
    assert lab.world.changed_since(image) == {"public.t14_many": (["(1)"], [])}


trap(
    "create table t15 (id int primary key, up int references t15)",
    "insert into t15 values (3, null), (2, 3), (1, 2)",
    damage="delete from t15",
)


def test_t15_rows_that_name_rows_of_their_own_table(lab: Lab) -> None:
    """Come back in one statement, whatever their order."""
    assert lab.back("t15") == {"public.t15": ([], ["(1,2)", "(2,3)", "(3,)"])}


trap(
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
