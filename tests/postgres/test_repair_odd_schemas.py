"""Odd schemas, from plan to undo, and the plan as a script: what a hostile reader tried.

See `trap_lab` for what they share. The sessions are those of the commands, settings included.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres.trap_lab import Lab, Traps, making_lab, warned

trap = Traps()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One server, one database, every trap's tables in it."""
    with making_lab(trap, tmp_path_factory.mktemp("state")) as made:
        yield made


def rows(lab: Lab, *tables: str, database: str | None = None) -> list[list[tuple[object, ...]]]:
    """Return every row of some tables, as texts."""
    name = database or lab.world.name
    return [
        lab.world.server.query(f"select t::text from {t} as t order by 1", name) for t in tables
    ]


def is_back(lab: Lab, *tables: str, by_script: bool = True, **how: object) -> None:
    """Merge tables, undo, and run the plan as a script: rows and back and rows as they were."""
    was, damaged = rows(lab, *tables, database=lab.before), rows(lab, *tables)
    assert was != damaged
    outcome, _ = lab.merge(*tables, **how)
    assert outcome.code == 0, (outcome.error and outcome.error.detail, outcome.result)
    assert rows(lab, *tables) == was
    undone = lab.world.undo(outcome.merge)
    assert undone.code == 0, undone.error and undone.error.detail
    assert rows(lab, *tables) == damaged
    if by_script:
        run_script(lab, *tables, **how)
        assert rows(lab, *tables) == was


def run_script(lab: Lab, *tables: str, **how: object) -> None:
    """Run the plan as a script by psql; fail with what psql says."""
    script = lab.plan(*tables, **how).script
    assert script is not None
    file = lab.world.server.folder / "plan.sql"
    file.write_text(script)
    file.chmod(0o644)
    lab.world.server.run("psql", "-qXf", str(file), "-d", lab.world.name)


# --- the application's own settings --------------------------------------------------------------

trap(
    "create schema own",
    "create view own.only_here as select 1",
    "create table own_log (id int, day text)",
    "create function own_note() returns trigger language plpgsql as $$ begin"
    " perform from only_here; insert into public.own_log values (new.id, '05/04/2026'::date);"
    " return new; end $$",
    "create table own (id int primary key, words text[], said text)",
    "insert into own values (1, array['x', null, 'NULL'], E'back\\\\slash :v'), (2, null, '')",
    "create trigger note after insert on own for each row execute function own_note()",
    damage="delete from own where id = 1",
)


def test_triggers_find_the_settings_of_the_application(lab: Lab) -> None:
    """search_path and DateStyle of the database; what would harm the values is set otherwise."""
    odd = (
        "search_path = own, public", "datestyle = 'SQL, MDY'", "array_nulls = off",
        "default_transaction_read_only = on", "standard_conforming_strings = off",
        "client_encoding = latin1", "statement_timeout = '50s'", "quote_all_identifiers = on",
        "intervalstyle = sql_standard", "timezone = 'Asia/Kolkata'",
        "session_replication_role = replica",
    )  # fmt: skip
    was = rows(lab, "own", database=lab.before)
    lab.world.run(*(f"alter database {lab.world.name} set {one}" for one in odd))
    try:
        changed = lab.back("own")
        assert changed.pop("public.own_log") == ([], ["(1,05/04/2026)"])
        assert rows(lab, "own") == was
        lab.world.run("delete from own where id = 1")
        with pytest.raises(Exception, match="exit status 3"):
            run_script(lab, "own")
        lab.world.run(f"alter database {lab.world.name} reset session_replication_role")
        run_script(lab, "own")
        assert rows(lab, "own") == was
    finally:
        lab.world.run(f"alter database {lab.world.name} reset all")


# --- keys and indexes ----------------------------------------------------------------------------

trap(
    "create extension if not exists citext",
    "create extension if not exists hstore",
    "create table ext (k citext, h hstore, v text, primary key (k, h))",
    "insert into ext values ('One', 'a=>1', 'x'), ('Two', '', 'y'), ('Three', 'b=>NULL', 'z')",
    damage=("delete from ext where k = 'one'", "update ext set v = '' where k = 'two'"),
)


def test_keys_of_extension_types_match_by_their_own_equality(lab: Lab) -> None:
    """Its operator is found by the index: a key that was taken again in capitals is taken."""
    is_back(lab, "ext")
    lab.world.run("delete from ext where k = 'one'", "insert into ext values ('ONE', 'a=>1', 'n')")
    assert list(lab.blocked("ext")) == ["key_reused"]


trap(
    "create table c (id int primary key, c int unique)",
    "create table w (id int primary key, w int unique)",
    "insert into c select i, i from generate_series(1, 3) i",
    "insert into w select i, i from generate_series(1, 3) i",
    damage=(
        "delete from c where id = 1",
        "update c set c = 20 where id = 2",
        "delete from w where id = 1",
        "update w set w = 20 where id = 2",
    ),
)


def test_tables_may_be_called_as_our_statements_call_theirs(lab: Lab) -> None:
    """The live table stands under its own name beside them."""
    is_back(lab, "c", "w")


trap(
    "create collation odd_ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    "create table odd_p (id text primary key)",
    "create table collated (id int primary key, mail text)",
    "create unique index on collated (mail collate odd_ci)",
    "create table generated_key (id int primary key, a text,"
    " g text generated always as (lower(a)) stored unique)",
    "create table generated_child (id int primary key, a text,"
    " g text generated always as (lower(a)) stored references odd_p)",
    "insert into odd_p values ('e1'), ('e2')",
    "insert into collated values (1, 'e1'), (2, 'e2')",
    "insert into generated_key values (1, 'E1'), (2, 'E2')",
    "insert into generated_child values (1, 'E1'), (2, 'E2')",
    damage=(
        "delete from collated where id = 1",
        "update generated_key set a = 'gone' where id = 1",
        "update generated_child set a = 'E2' where id = 1",
    ),
)


def test_values_that_an_index_makes_equal_are_found_before_anything_is_written(lab: Lab) -> None:
    """By the collation of the index, and of columns that are computed from what is written."""
    lab.world.run(
        "insert into collated values (9, 'E1')",
        "insert into generated_key values (9, 'e1')",
        "delete from odd_p where id = 'e1'",
    )
    assert lab.blocked("collated") == {"unique_taken": [("1",)]}
    assert lab.blocked("generated_key") == {"unique_taken": [("1",)]}
    assert lab.blocked("generated_child") == {"parent_missing": [("1",)]}


trap(
    "create table leafy (id int primary key, v text, w text) partition by range (id)",
    "create table leafy_1 partition of leafy for values from (0) to (10)",
    "create table leafy_2 partition of leafy for values from (10) to (20)",
    "insert into leafy select i, 'v' || i, nullif(i, 2) from generate_series(1, 15) i",
    damage="delete from leafy where id in (1, 2, 3, 4, 12)",
)


def test_what_only_a_partition_asks_of_its_rows(lab: Lab) -> None:
    """Its own check, NOT NULL, unique index and trigger, each found in the plan."""
    lab.world.run(
        "create function leafy_set() returns trigger language plpgsql as"
        " $$ begin new.w := 'set'; return new; end $$",
        "alter table leafy_1 add constraint odd check (id <> 3), alter w set not null",
        "create unique index leafy_v on leafy_1 (v)",
        "create trigger sets before insert on leafy_1 for each row execute function leafy_set()",
        "insert into leafy values (9, 'v1', '') on conflict (id) do update set v = 'v1'",
    )
    plan = lab.plan("leafy")
    found = {str(key[0]): one for one in plan.blocking for key in one.keys}
    assert {key: str(one.kind) for key, one in found.items()} == {
        "1": "unique_taken", "2": "check_failed", "3": "check_failed",
    }  # fmt: skip
    assert "the constraint odd of the partition leafy_1" in found["3"].detail
    assert warned(plan, "trigger sets of the partition leafy_1", "sets w")
    back = lab.back("leafy", on_conflict="skip")
    assert back == {"public.leafy": ([], ["(12,v12,12)", "(4,v4,set)"])}


trap(
    "create table swapped (id int primary key, place int not null unique, a text)",
    "insert into swapped select i, i, 'x' from generate_series(1, 9) i",
    damage=("update swapped set place = place + 100", "update swapped set place = 1 + place % 9"),
)


def test_t10_swapped_values_of_a_column_that_cannot_be_null(lab: Lab) -> None:
    """The rows are taken out and put in again, where nothing refers to them."""
    is_back(lab, "swapped", by_script=False)


# --- sequences -----------------------------------------------------------------------------------

trap(
    "create sequence named",
    "create sequence short maxvalue 10",
    "create sequence down increment -2",
    "create table numbered (id text primary key default 'ORD-' || nextval('named'),"
    " s int default nextval('short'), d numeric default nextval('down'), t serial)",
    "insert into numbered select from generate_series(1, 4)",
    "insert into numbered (s) values (50)",
    damage=("truncate numbered", "alter sequence down restart", "alter sequence numbered_t_seq"
            " restart"),
)  # fmt: skip


@pytest.mark.parametrize("by_script", [True, False])
def test_t4_sequences_that_give_texts_few_numbers_or_fewer_each_time(
    lab: Lab, by_script: bool
) -> None:
    """Only numbers that the sequence can give move it on, in its own direction."""
    lab.world.run("truncate numbered", "select setval('down', -1, false)",
                  "select setval('numbered_t_seq', 1, false)")  # fmt: skip
    if by_script:
        run_script(lab, "numbered")
    else:
        lab.back("numbered")
    assert len(rows(lab, "numbered")[0]) == 5
    assert lab.world.run("select nextval('down'), nextval('numbered_t_seq')") == [(-11, 6)]
    assert lab.world.run("select last_value from short") == [(4,)]


# --- order ---------------------------------------------------------------------------------------

trap(
    "create table counted (id int primary key, n int not null default 0)",
    "create table counting (id int primary key, c int references counted)",
    "create function count_them() returns trigger language plpgsql as $$ begin"
    " if tg_op = 'INSERT' then update public.counted set n = n + 1 where id = new.c;"
    " else update public.counted set n = n - 1 where id = old.c; end if; return null; end $$",
    "create trigger counts after insert or delete on counting for each row"
    " execute function count_them()",
    "insert into counted values (1), (2)",
    "insert into counting select i, 1 + i % 2 from generate_series(1, 9) i",
    damage="delete from counting where id < 6",
)


def test_t21_counters_kept_by_a_trigger_come_out_right_both_ways(lab: Lab) -> None:
    """Of the orders that foreign keys allow the one is taken after which the rows are right."""
    is_back(lab, "counting", "counted")


trap(
    "create table ring (id int primary key, other int)",
    "create table gnir (id int primary key, other int references ring)",
    "alter table ring add foreign key (other) references gnir",
    "create table tops (id int primary key, up int references tops on delete set null)",
    'create table "odd\nname" (id int primary key, up int references tops on delete set null)',
    "insert into ring select i from generate_series(1, 3) i",
    "insert into gnir select i, i from generate_series(1, 3) i",
    "update ring set other = id",
    "insert into tops select i, nullif(i - 1, 0) from generate_series(1, 5) i",
    'insert into "odd\nname" select i, i from generate_series(1, 5) i',
    damage=(
        "with x as (delete from ring where id < 3) delete from gnir where id < 3",
        "delete from tops where id in (1, 3)",
    ),
)


def test_a_script_satisfies_foreign_keys_as_a_merge_does(lab: Lab) -> None:
    """A circle in one statement; parents before children that had forgotten them."""
    is_back(lab, "ring", "gnir")
    was = rows(lab, "tops", '"odd\nname"', database=lab.before)
    run_script(lab, "tops", "odd\nname")
    assert rows(lab, "tops", '"odd\nname"') == was


trap(
    "create table stamped (id int primary key, v text, updated_at timestamptz)",
    "create function stamped_at() returns trigger language plpgsql as"
    " $$ begin new.updated_at := now(); return new; end $$",
    "insert into stamped values (1, 'x', '2020-01-01Z'), (2, 'y', '2020-01-01Z')",
    "create trigger stamp before insert or update on stamped for each row"
    " execute function stamped_at()",
    damage=("delete from stamped where id = 1", "update stamped set v = '' where id = 2"),
)


def test_a_script_leaves_to_triggers_what_a_merge_leaves_to_them(lab: Lab) -> None:
    """It does not ask for the old value of a column that a trigger sets."""
    run_script(lab, "stamped")
    assert lab.world.run("select id, v from stamped order by 1") == [(1, "x"), (2, "y")]


trap("create table nothing ()", "insert into nothing default values", damage="delete from nothing")


def test_a_table_of_no_columns_is_refused_at_once(lab: Lab) -> None:
    """There is nothing to tell its rows by."""
    assert lab.fails("nothing").code == 3


# --- privileges ----------------------------------------------------------------------------------

trap(
    "create role odd_role login",
    "create table seen_p (id int primary key)",
    "create table seen (id int primary key, p int references seen_p)",
    "create domain seen_domain as int",
    "create table seen_d (id int primary key, d seen_domain)",
    "insert into seen_p values (1)",
    "insert into seen values (1, 1)",
    "insert into seen_d values (1, 1)",
    "grant select, insert on seen, seen_d to odd_role",
    "revoke usage on type seen_domain from public",
    damage=("delete from seen", "delete from seen_d"),
)


def test_t46_grants_beside_those_on_the_table(lab: Lab) -> None:
    """Parents that it cannot see, types it may not use, temporary tables: each by its GRANT."""

    def hint(table: str) -> str:
        outcome = lab.fails(table, user="odd_role")
        assert outcome.code == 3
        assert outcome.error is not None
        return str(outcome.error.hint)

    name = lab.world.name
    assert 'GRANT SELECT ("id") ON "public"."seen_p" TO "odd_role"' in hint("seen")
    assert "GRANT USAGE ON TYPE public.seen_domain TO" in hint("seen_d")
    lab.world.run(f"revoke temporary on database {name} from public")
    try:
        assert f'GRANT TEMPORARY ON DATABASE "{name}" TO "odd_role"' in hint("seen")
    finally:
        lab.world.run(f"grant temporary on database {name} to public")
    lab.world.run("grant select (id) on seen_p to odd_role", "grant usage on type seen_domain to"
                  " odd_role")  # fmt: skip
    assert set(lab.back("seen", "seen_d", user="odd_role")) == {"public.seen", "public.seen_d"}


# --- which table it is ---------------------------------------------------------------------------

trap(
    "create table was_here (id int primary key, v text)",
    "insert into was_here values (1, 'x')",
    damage="delete from was_here",
)


def test_t30_another_table_took_the_name(lab: Lab) -> None:
    """It has other columns, and the table itself is still there: that is the one."""
    lab.world.run("alter table was_here rename to moved", "create table was_here (id int)")
    assert lab.back("was_here") == {"public.moved": ([], ["(1,x)"])}


trap(
    "create table heap (a int, b json)",
    "insert into heap values (1, '{}'), (1, '{}'), (2, null)",
    "create view heap_view as select a from heap",
    "create publication heap_out for table heap",
    "create table tree (id int, r int, primary key (id, r)) partition by range (id)",
    "create table tree_a partition of tree for values from (0) to (10) partition by list (r)",
    "create table tree_a1 partition of tree_a for values in (0)",
    "create table tree_a2 partition of tree_a default",
    "create table pair_a (id int primary key, b int)",
    "create table pair_b (id int primary key, a int references pair_a)",
    "alter table pair_a add foreign key (b) references pair_b",
    "insert into tree select i, i % 2 from generate_series(1, 9) i",
    "insert into pair_a values (1)",
    "insert into pair_b values (1, 1)",
    "update pair_a set b = 1",
    damage="drop table heap, tree_a, pair_a, pair_b cascade",
)


def test_tables_that_were_dropped_without_a_key_in_levels_and_in_a_circle(lab: Lab) -> None:
    """A table without a key, a partition with partitions, two that refer to each other."""
    gone = ("heap", "pair_a", "pair_b")
    was = rows(lab, *gone, "tree", database=lab.before)
    image = lab.world.image()
    assert lab.world.diff(lab.before, "heap", after=lab.after).classes.keys() == {"lost"}
    plan = lab.plan(*gone, "tree", create_missing=True)
    assert warned(plan, 'ALTER PUBLICATION "heap_out" ADD TABLE "public"."heap"')
    assert warned(plan, "the view public.heap_view", "not made again")
    outcome, _ = lab.merge(*gone, "tree", create_missing=True)
    assert outcome.code == 0, (outcome.error and outcome.error.detail, outcome.result)
    assert rows(lab, *gone, "tree") == was
    assert lab.world.run("select count(*) from tree_a1 where r = 0") == [(4,)]
    assert lab.world.run("select count(*) from pg_index where not indisvalid") == [(0,)]
    assert lab.world.undo(outcome.merge).code == 0
    assert not lab.world.changed_since(image)
