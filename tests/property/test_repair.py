"""Random schemas, histories, damage and later work: what a merge does, judged by its own model.

The model reads whole tables as the application sees them, before (B), after (D) and live (C), and
says row by row and column by column what a repair has to make of them. It knows nothing of classes,
plans or SQL. Rows that a unique value or a foreign key keeps out are allowed to stay as they are if
the plan says so, and if the database itself would not take them.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pitr.vocabulary.row_class import Action
from tests.property.repair_model import (
    Row,
    Rows,
    Story,
    Verdict,
    wanted_alone,
    wanted_by_count,
    wanted_of_three,
)
from tests.sqlite.capture_world import AppError
from tests.sqlite.merge_world import MergeWorld

SECONDS = 40.0
_VALUES = ("NULL", "0", "1", "2", "1.0", "'1'", "'a'", "'A'", "''", "x'00'", "9007199254740993")


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its text, the places of its key among its columns, and how to make a row."""

    name: str
    sql: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    is_constrained: bool

    @property
    def referable(self) -> list[str]:
        """Return the columns that a foreign key may name."""
        return [name for name in ("id", "u") if (name,) == self.key or name in self.columns[-2:]]

    def place(self, column: str) -> int:
        return self.columns.index(column)

    def keyed(self, rows: Counter[Row], key: tuple[str, ...]) -> Rows:
        """Return the rows by key."""
        places = [self.place(column) for column in key]
        return {tuple(row[at] for at in places): row for row in rows.elements()}

    def key_in(self, *states: Counter[Row] | None) -> tuple[str, ...]:
        """Return the key; a unique column without NULL is as good as a declared one."""
        if self.key or "u" not in self.columns:
            return self.key
        at = self.place("u")
        nulls = any(row[at] == "NULL" for state in states if state for row in state)
        return () if nulls else ("u",)


def random_table(rng: random.Random, number: int, others: list[Table]) -> Table:
    """Return a table of random shape; it may name rows of an earlier one."""
    name = f"t{number}"
    columns = ["a", "b", "c"]
    parts = ["a", rng.choice(["b TEXT", "b INT", "b REAL"]), "c TEXT DEFAULT 'd'"]
    is_constrained = False
    if rng.random() < 0.4:
        columns.append("u")
        parts.append(rng.choice(["u TEXT UNIQUE", "u INT UNIQUE ON CONFLICT REPLACE"]))
        is_constrained = True
    kind = rng.choice(["rowid", "rowid", "text", "pair", "nocase", "none"])
    parents = [(table.name, name) for table in others for name in table.referable]
    if kind == "rowid":
        parents.append((name, "id"))
    if parents and rng.random() < 0.6:
        columns.append("p")
        parent, named = rng.choice(parents)
        actions = ["", "ON DELETE CASCADE", "ON DELETE SET NULL", "ON UPDATE CASCADE"]
        actions.append("ON DELETE CASCADE ON UPDATE SET NULL")
        declared = rng.choice(["INT", "TEXT"])
        parts.append(f"p {declared} REFERENCES {parent} ({named}) {rng.choice(actions)}")
        is_constrained = True
    heads = {
        "rowid": (["id"], ["id INTEGER PRIMARY KEY"], "", ("id",)),
        "text": (["id"], ["id TEXT PRIMARY KEY NOT NULL"], "", ("id",)),
        "nocase": (["k"], ["k TEXT COLLATE NOCASE PRIMARY KEY NOT NULL"], "", ("k",)),
        "pair": (["k", "n"], ["k TEXT", "n INT"], "WITHOUT ROWID", ("k", "n")),
        "none": ([], [], "", ()),
    }
    own, texts, options, key = heads[kind]
    parts = [*texts, *parts] + (["PRIMARY KEY (k, n)"] if kind == "pair" else [])
    if kind in ("text", "nocase") and parents and rng.random() < 0.5:
        options = "WITHOUT ROWID"
    sql = f"CREATE TABLE {name} ({', '.join(parts)}) {options}"
    return Table(name, sql, (*own, *columns), key, is_constrained)


class Repair:
    """One random world, from its schema to the undo of its merge."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = random.Random(seed)
        folder.mkdir()
        mode = self.rng.choice(["WAL", "WAL", "WAL", "DELETE"])
        self.world = MergeWorld(folder, mode=mode)
        self.enforces = self.rng.choice(["ON", "OFF"])
        self.world.run(f"PRAGMA foreign_keys = {self.enforces}")
        # Few values make copies of rows that have no key.
        self.values = self.rng.choice([_VALUES, _VALUES, ("NULL", "1", "'a'")])
        self.tables: list[Table] = []
        for number in range(self.rng.randint(1, 3)):
            self.tables.append(random_table(self.rng, number, self.tables))
            self.world.run(self.tables[-1].sql)

    # --- what happens ----------------------------------------------------------------------------

    def value(self, column: str) -> str:
        if column in ("id", "n", "p"):
            return str(self.rng.randint(1, 14))
        if column == "k":
            return f"'{self.rng.choice('aAbBcdefg')}'"
        if column == "u":
            return self.rng.choice(["NULL", *(f"'{n}'" for n in range(12))])
        return self.rng.choice(self.values)

    def work(self, statements: int, *, heavy: bool = False) -> None:
        """Run statements; those that the database refuses are part of life."""
        for _ in range(statements):
            try:
                self.world.run(self.statement(self.rng.choice(self.tables), heavy=heavy))
            except AppError:
                continue

    def statement(self, table: Table, *, heavy: bool) -> str:
        some = self.rng.choice(table.columns)
        where = f"WHERE {some} {self.rng.choice(['=', '<>', '<', 'IS'])} {self.value(some)}"
        if heavy and self.rng.random() < 0.3:
            where = ""
        kind = self.rng.choice(
            ["delete", "update", "insert"] if heavy else ["insert"] * 3 + ["update", "delete"]
        )
        if kind == "delete":
            return f"DELETE FROM {table.name} {where}"
        if kind == "update":
            column = self.rng.choice(table.columns)
            return f"UPDATE {table.name} SET {column} = {self.value(column)} {where}"
        values = ", ".join(self.value(column) for column in table.columns)
        return f"INSERT INTO {table.name} VALUES ({values})"

    def damage(self) -> None:
        """Run one transaction of heavy statements."""
        self.world.run("BEGIN")
        self.work(self.rng.randint(1, 4), heavy=True)
        self.world.run("COMMIT")

    # --- the model -------------------------------------------------------------------------------

    def images(self) -> dict[str, Counter[Row]]:
        """Return the rows of the tables as the application sees them."""
        found = self.world.image()
        return {table.name: found[table.name] for table in self.tables}

    def judge(self, table: Table, story: Story, how: dict[str, Any]) -> Verdict:
        """Compare a table after a repair with what the rules say of its rows."""
        before, after, live, final = story.of(table)
        table = replace(table, key=table.key_in(before, after, live))
        if not table.key:
            wanted = wanted_by_count(before, after, live, is_undo=how.get("is_undo", False))
            missing, extra = wanted - final, final - wanted
            kept_out = [(None, row) for row in missing.elements()]
            kept_out += [(row, None) for row in extra.elements()]
            assert not (final - live - wanted), table
            return Verdict(0, kept_out)
        b, d, c, f = (
            None if one is None else self.by_key(table, one) for one in (before, after, live, final)
        )
        assert b is not None and c is not None and f is not None  # noqa: PT018
        found = Verdict(0, [])
        for key in b.keys() | (d or {}).keys() | c.keys() | f.keys():
            was, now = b.get(key), c.get(key)
            if d is None:
                wanted_row, is_aside = wanted_alone(was, now, how)
            else:
                wanted_row, is_aside = wanted_of_three(was, d.get(key), now, how)
            found.aside += is_aside
            if f.get(key) != wanted_row:
                assert f.get(key) == now, (table.name, key, wanted_row, f.get(key), now)
                found.kept_out.append((now, wanted_row))
        return found

    def by_key(self, table: Table, rows: Counter[Row]) -> Rows:
        """Return the rows by key; under NOCASE keys differ by more than case."""
        found = table.keyed(rows, table.key)
        if table.key == ("k",):
            return {tuple(value.lower() for value in key): row for key, row in found.items()}
        return found

    def is_refused(self, table: Table, now: Row | None, wanted: Row | None) -> bool:
        """Return whether the database would not take a row that was kept out."""
        run = self.world.app.run
        run("PRAGMA foreign_keys = OFF")  # else a row could go, and take others along
        violations = Counter(map(tuple, run("PRAGMA foreign_key_check")))
        (before,) = run(f"SELECT count(*) FROM {table.name}")
        run("BEGIN")
        try:
            if now is not None:
                pairs = zip(table.columns, now, strict=True)
                where = " AND ".join(f"{column} IS {value}" for column, value in pairs)
                run(f"DELETE FROM {table.name} WHERE {where}")
            if wanted is not None:
                # A row that had no parent may not get another one that is missing.
                violations = Counter(map(tuple, run("PRAGMA foreign_key_check")))
                run(f"INSERT OR ABORT INTO {table.name} VALUES ({', '.join(wanted)})")
            (after,) = run(f"SELECT count(*) FROM {table.name}")
            expected = before[0] - (now is not None) + (wanted is not None)
            more = Counter(map(tuple, run("PRAGMA foreign_key_check"))) - violations
            return bool(more) or after != [expected]
        except AppError:
            return True
        finally:
            run("ROLLBACK")
            run(f"PRAGMA foreign_keys = {self.enforces}")

    def settle(self, story: Story, chosen: list[Table], how: dict[str, Any]) -> int:
        """Judge all tables of a repair that may skip; return how many rows it has to report."""
        reported = 0
        for table in self.tables:
            if table not in chosen:
                assert story.final[table.name] == story.live[table.name], table.name
                continue
            found = self.judge(table, story, how)
            reported += found.aside + len(found.kept_out)
            for now, wanted in found.kept_out:
                assert any(one.is_constrained for one in self.tables), (table, now, wanted)
                assert self.is_refused(table, now, wanted), (table, now, wanted)
        return reported


def repair(seed: int, folder: Path) -> int:
    """Live through one world; return the rows that came back."""
    one = Repair(seed, folder)
    rng, world = one.rng, one.world
    try:
        one.work(rng.randint(15, 60))
        before_commit = world.mark()
        before = one.images()
        one.damage()
        after_commit = world.mark() if rng.random() < 0.7 else None
        after = one.images() if after_commit is not None else None
        one.work(rng.randint(0, 12))
        live = one.images()
        chosen = [table for table in one.tables if rng.random() < 0.8] or one.tables[:1]
        how: dict[str, Any] = {
            "delete_extra": rng.random() < 0.5,
            "update": rng.random() < 0.5,
            "on_conflict": rng.choice(["skip", "skip", "skip", "abort", "overwrite"]),
        }
        names = [table.name for table in chosen]
        done = world.merge(before_commit, *names, after=after_commit, **how)
        assert done.result is not None, (done.error, done.error and done.error.detail)
        final = one.images()
        if done.result.plan.blocking:
            assert how["on_conflict"] != "skip", done.result.plan.blockers
            assert done.code == 1
            assert final == live
            return 0
        reported = one.settle(Story(before, after, live, final), chosen, how)
        assert done.result.plan.actions[Action.SKIP] == reported
        if done.result.merge is not None:
            undo_all(one, done.result.merge, live, final, chosen)
        assert world.app.run("PRAGMA integrity_check") == [["ok"]]
        return done.result.inserted + done.result.updated + done.result.deleted
    finally:
        world.close()


def undo_all(
    one: Repair,
    merge: str,
    live: dict[str, Counter[Row]],
    final: dict[str, Counter[Row]],
    chosen: list[Table],
) -> None:
    """Take the merge back, at once or after more work of others."""
    if one.rng.random() < 0.5:
        back = one.world.undo(merge)
        assert back.code == 0, back.error or (back.result and back.result.plan.blockers)
        assert one.images() == live
        if back.result is not None and back.result.merge is not None:
            again = one.world.undo(back.result.merge)
            assert again.code == 0, again.error or (again.result and again.result.plan.blockers)
            assert one.images() == final
        return
    one.work(one.rng.randint(1, 8))
    later = one.images()
    back = one.world.undo(merge, on_conflict="skip")
    assert back.result is not None, (back.error, back.error and back.error.detail)
    assert back.code == 0, back.result.plan.blockers
    how = {"delete_extra": True, "update": False, "on_conflict": "skip", "is_undo": True}
    reported = one.settle(Story(live, final, later, one.images()), chosen, how)
    # By the rows that are left a unique column may have become a key since, which tells more.
    if all(table.key for table in chosen):
        assert back.result.plan.actions[Action.SKIP] <= reported


@pytest.mark.parametrize("seed", range(200))
def test_random_repair_is_what_the_model_says(tmp_path: Path, seed: int) -> None:
    """Lost rows are back, others' work is as they left it, undo leads back exactly."""
    repair(seed, tmp_path / "world")


@pytest.mark.soak
def test_ever_new_random_repairs_are_what_the_model_says(tmp_path: Path) -> None:
    """The same with new seeds for as long as SECONDS, each printed."""
    seeds = random.SystemRandom()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        seed = seeds.randrange(1 << 32)
        print(f"seed {seed}")
        repair(seed, tmp_path / str(seed))
