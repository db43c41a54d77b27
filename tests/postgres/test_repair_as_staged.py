"""Rows that go in exactly as they are staged, without being rehearsed: when that is, and when not.

Goal: the short way is taken where it saves its pass, and whatever is against a row is still found
before anything is written. Method: tables that differ in one thing each, the same rows lost of all.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pitr.postgres.diff.classified import stream_rows
from pitr.postgres.diff.copying import CopiedRows
from pitr.postgres.diff.states import comparing
from pitr.postgres.merge.images import Images
from pitr.postgres.merge.kin import Classifier
from pitr.postgres.merge.plan import make_plan
from pitr.postgres.merge.planned import PlannedTable
from pitr.postgres.merge.undo import classify_merged
from pitr.postgres.tables.session import begin
from pitr.vocabulary.plan import MergeStep
from tests.postgres.repair_world import RepairWorld
from tools.postgres_servers import Server

# Each with what is done to it after the damage.
AS_STAGED = {
    "plain": ("id int primary key, v text", ""),
    "kept": ("id int primary key, v numeric(9, 3) check (v > 0) not null", ""),
    "keyed": ("id numeric, v interval, w varchar(9), primary key (id, w)", ""),
    "folded": ("id int, v text collate ci, primary key (id, v)", ""),
    "unique_": ("id int primary key, v text collate ci unique", ""),
    # More pages than lost rows.
    "grown": (
        "id int primary key, v text) with (autovacuum_enabled = false",
        "alter table grown alter v set storage plain; insert into grown"
        " select i, repeat('x', 5000) from generate_series(100, 120) i;"
        " delete from grown where id >= 100; alter table grown alter v set storage extended",
    ),
}
REHEARSED = {
    "oid_": ("id int primary key, v text, check (tableoid > 0)", ""),
    "added": ("id int primary key, v text", "alter table added add w int default 5"),
    "made": ("id int primary key, v text, g text generated always as (v || 'x') stored", ""),
    "typed": ("id int primary key, v varchar(20)", "alter table typed alter v type varchar(30)"),
    "changed": ("id int primary key, v text", "update changed set v = 'y' where id = 5"),
    "padded": ("id int primary key, v char(9) check (octet_length(v) = 9)", ""),
    "parted": ("id int primary key, v text) partition by range (id", ""),
}
REFUSED = {
    "checked": (
        "id int primary key, v text",
        "alter table checked add check (v <> '2') not valid",
    ),
    "filled": (
        "id int primary key, v text, w int",
        "update filled set w = 1; alter table filled alter w set not null",
    ),
}
TABLES = AS_STAGED | REHEARSED | REFUSED
# A trigger of the second makes the third wrong if that is put in first; the first is right twice.
IN_ORDER = (
    "create table a_plain (id int primary key, v text)",
    "create table b_boxes (id int primary key, n int)",
    "create table c_things (id int primary key, box int, seen int)",
    "create function see() returns trigger language plpgsql as $$ begin"
    " update public.c_things set seen = seen + 1 where box = new.id; return null; end $$",
    "create trigger sees after update on b_boxes for each row execute function see()",
    "insert into a_plain select i, i::text from generate_series(1, 5) i",
    "insert into b_boxes values (1, 5), (2, 5)",
    "insert into c_things select i, 1, i from generate_series(1, 5) i",
)
# The value is equal, and another image all the same.
ALTERING = (
    "create function alter_it() returns trigger language plpgsql as $$ begin"
    " if new.id = 2 then new.n := 2.0; end if; return new; end $$",
    "create trigger alters before insert on altered for each row execute function alter_it()",
)
# A record as merges made them before numerics were staged as they are, of rows put into
# prices (id int primary key, price numeric, note text).
OF_TEXTS = {
    "rows.json": b'[{"oid":1,"schema":"public","name":"prices","key":["id"],"columns":["price",'
    b'"note"],"staged":[["k0","integer"],["c0","text"],["c1","text"]]}]',
    "0.before.zst": b64decode("KLUv/QRIqQAAUEdDT1BZCv8NCgAAAAAAAAAAAP//Yhhd6w=="),
    "0.after.zst": b64decode(
        "KLUv/QRIRQIAcsQOGsAljQH/////PwBN2HU7c1ENguxWJoSK3ESmPzD1/wSmppWISv4PMsWpwjL1IEOcauqpxDJc"
        "AgpgHCoEBAbgy/npbMALXp/qDw=="
    ),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RepairWorld, str]]:
    """Yield a database whose tables have lost rows 1 to 3 of 5, and its copy from before."""
    with Server(15) as server:
        world = RepairWorld(server, tmp_path_factory.mktemp("state"))
        try:
            world.run(
                "create collation ci (provider = icu, locale = 'und-u-ks-level2',"
                " deterministic = false)"
            )
            for name, (columns, _) in TABLES.items():
                world.run(f"create table {name} ({columns})")
                if name == "parted":
                    world.run("create table only_ partition of parted (check (tableoid > 0))"
                              " default")  # fmt: skip
                named = "id, v, w" if name == "keyed" else "id, v"
                value = "i * interval '90 min', i::text" if name == "keyed" else "i::text"
                value = "i + 0.50" if name == "kept" else value
                world.run(f"insert into {name} ({named}) select i, {value}"
                          " from generate_series(1, 5) i")  # fmt: skip
            world.run(*IN_ORDER, "create domain amount as numeric check (value > 0)")
            world.run("create table altered (id int primary key, n numeric)",
                      "insert into altered select i, i from generate_series(1, 5) i")  # fmt: skip
            before = world.mark()
            for name, (_, later) in TABLES.items():
                world.run(f"delete from {name} where id <= 3", *([later] if later else []))
            world.run("delete from altered where id <= 3", *ALTERING)
            world.run("delete from a_plain where id <= 3", "delete from c_things",
                      "update b_boxes set n = 0 where id = 1")  # fmt: skip
            yield world, before
        finally:
            world.close()


def is_as_staged(world: RepairWorld, before: str, name: str) -> bool:
    """Return whether a plan of the table rehearses none of its rows."""
    with world.states(before, name) as states, comparing(states):
        request = world._request("r")
        classified = Classifier(request.options).classify(states)
        (table,) = make_plan(states, classified, request).tables
        return table.is_as_staged


@pytest.mark.parametrize("name", [*AS_STAGED, *REHEARSED])
def test_rows_come_back_and_go_again_either_way(lab: tuple[RepairWorld, str], name: str) -> None:
    """Both ways bring the same rows back, and the record of what was read back takes them back."""
    world, before = lab
    assert is_as_staged(world, before, name) == (name in AS_STAGED)
    left = world.run(f"select {name}::text from {name} order by 1")

    merged = world.merge(before, name)
    assert merged.code == 0, merged
    assert world.run(f"select id::int from {name} order by 1") == [(i,) for i in range(1, 6)]

    undone = world.undo(merged.merge)
    assert undone.code == 0, undone
    assert world.run(f"select {name}::text from {name} order by 1") == left


@pytest.mark.parametrize("name", list(REFUSED))
def test_row_that_the_table_does_not_take_is_found_before(
    lab: tuple[RepairWorld, str], name: str
) -> None:
    """The row is named by the plan, and nothing is written."""
    world, before = lab
    assert not is_as_staged(world, before, name)
    merged = world.merge(before, name)

    assert merged.code == 1
    assert [str(one.kind) for one in merged.plan.blocking] == ["check_failed"]
    assert world.run(f"select count(*) from {name}") == [(2,)]


def test_what_was_read_back_of_an_order_that_failed_is_no_record(
    lab: tuple[RepairWorld, str],
) -> None:
    """Rows that were saved in passing are saved anew when the rows are written in another order."""
    world, before = lab
    names = ("a_plain", "b_boxes", "c_things")
    left = [world.run(f"select * from {name} order by 1") for name in names]
    applied: list[MergeStep] = []

    merged = world.merge(before, *names, on_step=applied.append, update=True)
    assert merged.code == 0, merged
    assert applied.count(MergeStep.APPLIED) == 2
    assert world.run("select count(*) from a_plain") == [(5,)]
    assert world.run("select id, seen from c_things order by 1") == [(i, i) for i in range(1, 6)]

    undone = world.undo(merged.merge)
    assert undone.code == 0, undone
    assert [world.run(f"select * from {name} order by 1") for name in names] == left


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Return a list of how rows as staged were found when they were read back, as it comes.

    And whether they came to what had been staged.
    """
    found: list[tuple[str, bool]] = []
    save_if = Images.save_if

    def saved(
        images: Images, table: PlannedTable, source: str, is_right: Callable[[CopiedRows], bool]
    ) -> bool:
        is_saved = save_if(images, table, source, is_right)
        how = "xmin" if "xmin" in source else "keys" if "EXISTS" in source else "join"
        found.append((how, is_saved))
        return is_saved

    monkeypatch.setattr(Images, "save_if", saved)
    return found


@pytest.mark.parametrize(
    ("name", "how"),
    [("plain", "xmin"), ("kept", "xmin"), ("keyed", "xmin"), ("grown", "keys")],
)
def test_rows_as_staged_are_read_back_by_what_they_come_to(
    lab: tuple[RepairWorld, str], name: str, how: str, sums: list[tuple[str, bool]]
) -> None:
    """The sums agree at once: rows are found by who put them in, of a large table by their keys."""
    world, before = lab
    merged = world.merge(before, name)
    assert merged.code == 0, merged
    assert sums == [(how, True)]
    undone = world.undo(merged.merge)
    assert undone.code == 0, undone
    assert sums == [(how, True)]  # it puts nothing in


def test_rows_that_an_undo_puts_in_are_read_back_by_what_they_come_to(
    lab: tuple[RepairWorld, str], sums: list[tuple[str, bool]]
) -> None:
    """They were staged out of the record of the merge, which took them away."""
    world, _ = lab
    world.run("create table bogus (id int primary key, n numeric)",
              "insert into bogus values (1, 1)")  # fmt: skip
    before = world.mark()
    world.run("insert into bogus values (2, 2.50), (3, 'NaN'), (4, null)")
    after = world.mark()
    merged = world.merge(before, "bogus", after=after, delete_extra=True)
    assert merged.code == 0, merged
    assert world.run("select id from bogus") == [(1,)]
    assert sums == []

    undone = world.undo(merged.merge)
    assert undone.code == 0, undone
    assert sums == [("xmin", True)]
    assert world.run("select n::text from bogus order by id") == [
        ("1",), ("2.50",), ("NaN",), (None,)
    ]  # fmt: skip


def test_row_that_a_trigger_alters_is_seen_in_what_the_rows_come_to(
    lab: tuple[RepairWorld, str],
) -> None:
    """A value that is equal, but another image, is told; the record has it as it is."""
    world, before = lab
    assert is_as_staged(world, before, "altered")
    left = world.run("select * from altered order by 1")

    merged = world.merge(before, "altered")
    assert merged.code == 0, merged
    assert merged.result is not None
    assert merged.result.warnings == (
        "public.altered: triggers have set n in 1 rows that were written",
    )
    undone = world.undo(merged.merge)
    assert undone.code == 0, undone
    assert world.run("select * from altered order by 1") == left


def test_record_of_numerics_as_texts_is_read_as_ever(
    lab: tuple[RepairWorld, str], tmp_path: Path
) -> None:
    """A row of such a record that was written since is found, also by the digits of its number."""
    world, _ = lab
    world.run(
        "create table prices (id int primary key, price numeric, note text)",
        "insert into prices values (1, 1.50, 'a'), (2, 2.5, null), (3, 'NaN', 'c'), (4, null, 'd')",
    )
    for name, data in OF_TEXTS.items():
        (tmp_path / name).write_bytes(data)
    with closing(world.server.connect(world.name)) as live:
        begin(live)
        (table,) = classify_merged(live, tmp_path)
        classes = {row.key[0]: str(row.verdict.row_class) for row in stream_rows(live, table)}
    assert classes == {1: "bogus_insert", 2: "bogus_touched", 3: "bogus_insert", 4: "bogus_insert"}


@pytest.mark.parametrize(
    ("kind", "code"), [("text", 0), ("amount", 0), ("numeric(12, 4)", 1), ("bigint", 7)]
)
def test_undo_of_numbers_whose_column_has_another_type_now(
    lab: tuple[RepairWorld, str], kind: str, code: int
) -> None:
    """A number that has the text of the record is taken back; of other digits, it was touched."""
    world, _ = lab
    world.run(
        "drop table if exists sums",
        "create table sums (id int primary key, n numeric(9, 2))",
        "insert into sums values (1, 1.50), (2, 20)",
    )
    before = world.mark()
    world.run("delete from sums")
    merged = world.merge(before, "sums")
    assert merged.code == 0, merged
    world.run(f"alter table sums alter n type {kind}")
    assert world.undo(merged.merge).code == code
    assert world.run("select count(*) from sums") == [(2 if code else 0,)]
