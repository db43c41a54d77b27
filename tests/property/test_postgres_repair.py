"""Random schemas, histories, damage and later work on PostgreSQL, judged by the same model.

See `repair_model`. Rows that a unique value or a foreign key keeps out are allowed to stay as they
are if the plan says so, and if the database itself would not take them.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pitr.postgres.diff.candidates import Limits
from pitr.vocabulary.row_class import Action
from tests.postgres.repair_world import RepairWorld
from tests.property.repair_model import (
    Row,
    Rows,
    Story,
    Verdict,
    wanted_alone,
    wanted_by_count,
    wanted_of_three,
)
from tools.postgres_servers import Server

SECONDS = 40.0
SEEDS = 15
_VALUES = {
    "text": ("NULL", "'a'", "'A'", "''", "'a '", "E'x\\ny'"),
    "float8": ("NULL", "0", "'-0'", "'NaN'", "0.1", "1e300"),
    "numeric": ("NULL", "1", "1.0", "1.00", "'NaN'", "-0.5"),
    "json": ("NULL", "'{}'", "'{ }'", "'[1]'"),
    "int[]": ("NULL", "'{1}'", "'[0:0]={1}'", "'{NULL}'"),
    "char(3)": ("NULL", "'a'", "'a  '", "'abc'"),
    "interval": ("NULL", "'1 mon'", "'30 days'"),
    "bytea": ("NULL", "'\\x00'", "'\\xff'"),
    "timestamptz": ("NULL", "'2026-01-01 00:00Z'", "'infinity'"),
}
_ACTIONS = ("", "ON DELETE CASCADE", "ON DELETE SET NULL", "ON DELETE SET DEFAULT")


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its text, its columns with their types, and its key."""

    name: str
    sql: str
    types: dict[str, str]
    key: tuple[str, ...]
    folds: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.types)

    def by_key(self, rows: Counter[Row]) -> Rows:
        """Return the rows by key; keys that are equal to the database are one."""
        places = [self.columns.index(column) for column in self.key]
        return {self.folded(tuple(row[at] for at in places)): row for row in rows.elements()}

    def folded(self, key: Row) -> Row:
        if self.folds == "case":
            return tuple(value.lower() for value in key)
        if self.folds == "scale":
            return tuple(str(Decimal(value).normalize()) for value in key)
        return key


def random_table(rng: random.Random, number: int, others: list[Table]) -> Table:
    """Return a table of random shape; it may name rows of an earlier one."""
    name = f"t{number}"
    some = [rng.choice(list(_VALUES)) for _ in range(2)]
    types = {"a": "text", "b": some[0], "c": some[1]}
    parts = [f"{column} {kind}" for column, kind in types.items()]
    kind = rng.choice(["int", "int", "identity", "text", "pair", "case", "scale", "unique", "none"])
    if rng.random() < 0.4:
        types["u"] = "int"
        parts.append(rng.choice(["u int UNIQUE", "u int UNIQUE DEFERRABLE", "u int UNIQUE"]))
    parents = [table for table in others if table.key == ("id",)]
    if parents and rng.random() < 0.7:
        types["p"] = "int"
        parts.append(f"p int REFERENCES {rng.choice(parents).name} (id) {rng.choice(_ACTIONS)}")
    heads: dict[str, tuple[dict[str, str], list[str], tuple[str, ...]]] = {
        "int": ({"id": "int"}, ["id int PRIMARY KEY"], ("id",)),
        "identity": (
            {"id": "int"},
            ["id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY"],
            ("id",),
        ),
        "text": ({"k": "key"}, ["k text PRIMARY KEY"], ("k",)),
        "case": ({"k": "key"}, ["k text COLLATE nocase PRIMARY KEY"], ("k",)),
        "scale": ({"s": "scale"}, ["s numeric PRIMARY KEY"], ("s",)),
        "pair": ({"k": "key", "n": "int"}, ["k text", "n int", "PRIMARY KEY (k, n)"], ("k", "n")),
        "unique": ({"v": "int"}, ["v int NOT NULL UNIQUE"], ("v",)),
        "none": ({}, [], ()),
    }
    own, texts, key = heads[kind]
    sql = f"CREATE TABLE {name} ({', '.join([*texts, *parts])})"
    return Table(name, sql, {**own, **types}, key, kind if kind in ("case", "scale") else "")


class Repair:
    """One random world, from its schema to the undo of its merge."""

    def __init__(self, seed: int, server: Server, folder: Path) -> None:
        self.rng = random.Random(seed)
        self.world = RepairWorld(
            server,
            folder,
            "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2',"
            " deterministic = false)",
            "SET extra_float_digits = 1",
        )
        self.tables: list[Table] = []
        for number in range(self.rng.randint(1, 3)):
            self.tables.append(random_table(self.rng, number, self.tables))
            self.world.run(self.tables[-1].sql)

    # --- what happens ----------------------------------------------------------------------------

    def value(self, table: Table, column: str) -> str:
        kind = table.types[column]
        if kind == "int":
            some = str(self.rng.randint(1, 14))
            return "NULL" if column in ("u", "p") and self.rng.random() < 0.3 else some
        if kind == "key":
            return f"'{self.rng.choice('aAbBcdefg')}'"
        if kind == "scale":
            return self.rng.choice(["1", "1.0", "2", "2.00", "3", "4", "5.5", "5.50"])
        return self.rng.choice(_VALUES[kind])

    def work(self, statements: int, *, heavy: bool = False) -> None:
        """Run statements; those that the database refuses are part of life."""
        for _ in range(statements):
            self.world.run("SAVEPOINT s") if heavy else None
            try:
                self.world.run(self.statement(self.rng.choice(self.tables), heavy=heavy))
            except psycopg.Error:
                self.world.run("ROLLBACK TO s") if heavy else None

    def statement(self, table: Table, *, heavy: bool) -> str:
        some = self.rng.choice([c for c in table.columns if table.types[c] != "json"])
        sign = self.rng.choice(["=", "<>", "<", "IS NOT DISTINCT FROM"])
        where = f"WHERE {some} {sign} {self.value(table, some)}"
        if heavy and self.rng.random() < 0.3:
            where = ""
        kind = self.rng.choice(
            ["delete", "update", "insert"] if heavy else ["insert"] * 3 + ["update", "delete"]
        )
        if kind == "delete":
            return f"DELETE FROM {table.name} {where}"
        if kind == "update":
            column = self.rng.choice(table.columns)
            return f"UPDATE {table.name} SET {column} = {self.value(table, column)} {where}"
        values = ", ".join(self.value(table, column) for column in table.columns)
        return f"INSERT INTO {table.name} OVERRIDING SYSTEM VALUE VALUES ({values})"

    def damage(self) -> None:
        """Run one transaction of heavy statements."""
        self.world.run("BEGIN")
        self.work(self.rng.randint(1, 4), heavy=True)
        self.world.run("COMMIT")

    # --- the model -------------------------------------------------------------------------------

    def images(self) -> dict[str, Counter[Row]]:
        """Return the rows of the tables as the application sees them, each value as text."""
        found: dict[str, Counter[Row]] = {}
        for table in self.tables:
            taken = ", ".join(f"coalesce({c}::text, 'NULL')" for c in table.columns)
            found[table.name] = Counter(self.world.run(f"SELECT {taken} FROM {table.name}"))
        return found

    def judge(self, table: Table, story: Story, how: dict[str, Any]) -> Verdict:
        """Compare a table after a repair with what the rules say of its rows."""
        before, after, live, final = story.of(table)
        if not table.key:
            wanted = wanted_by_count(before, after, live, is_undo=how.get("is_undo", False))
            missing, extra = wanted - final, final - wanted
            kept_out: list[tuple[Row | None, Row | None]] = []
            kept_out += [(None, row) for row in missing.elements()]
            kept_out += [(row, None) for row in extra.elements()]
            assert not (final - live - wanted), table
            return Verdict(0, kept_out)
        b, c, f = (table.by_key(rows) for rows in (before, live, final))
        d = None if after is None else table.by_key(after)
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

    def is_refused(self, table: Table, now: Row | None, wanted: Row | None) -> bool:
        """Return whether the database would not take a row that was kept out, by itself.

        That is also so when other rows would go, or change, with it.
        """
        before = self.images()
        self.world.run("BEGIN")
        try:
            self.world.run(
                self.repair_statement(table, now, wanted), "SET CONSTRAINTS ALL IMMEDIATE"
            )
            after = self.images()
            expected = dict(before)
            own = before[table.name].copy()
            own.subtract([row for row in (now,) if row is not None])
            own.update([row for row in (wanted,) if row is not None])
            expected[table.name] = +own
            return after != expected
        except psycopg.Error:
            return True
        finally:
            self.world.run("ROLLBACK")

    def repair_statement(self, table: Table, now: Row | None, wanted: Row | None) -> str:
        def text(value: str, kind: str) -> str:
            types = {"key": "text", "scale": "numeric"}
            if value == "NULL":
                return "NULL"
            return f"'{value}'::{types.get(kind, kind)}"

        where = ""
        if now is not None:
            tests = [
                f"coalesce({column}::text, 'NULL') COLLATE \"C\" = '{value}'"
                for column, value in zip(table.columns, now, strict=True)
            ]
            own = f"SELECT ctid FROM {table.name} WHERE {' AND '.join(tests)} LIMIT 1"
            where = f"WHERE ctid = ({own})"
        values = {}
        if wanted is not None:
            pairs = zip(table.types.items(), wanted, strict=True)
            values = {column: text(value, kind) for (column, kind), value in pairs}
        if now is None:
            listed = ", ".join(values.values())
            return f"INSERT INTO {table.name} OVERRIDING SYSTEM VALUE VALUES ({listed})"
        if wanted is None:
            return f"DELETE FROM {table.name} {where}"
        differ = [c for c, x, y in zip(table.columns, now, wanted, strict=True) if x != y]
        sets = ", ".join(f"{column} = {values[column]}" for column in differ)
        return f"UPDATE {table.name} SET {sets} {where}"

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
                assert self.is_refused(table, now, wanted), (table, now, wanted)
        return reported


def repair(seed: int, server: Server, folder: Path) -> int:
    """Live through one world; return the rows that came back."""
    one = Repair(seed, server, folder)
    rng, world = one.rng, one.world
    try:
        one.work(rng.randint(15, 60))
        before = one.images()
        before_mark = world.mark()
        world.run("SET extra_float_digits = 1")
        one.damage()
        after = one.images() if rng.random() < 0.7 else None
        after_mark = world.mark() if after is not None else None
        one.work(rng.randint(0, 12))
        live = one.images()
        chosen = [table for table in one.tables if rng.random() < 0.8] or one.tables[:1]
        how: dict[str, Any] = {
            "delete_extra": rng.random() < 0.5,
            "update": rng.random() < 0.5,
            "on_conflict": rng.choice(["skip", "skip", "skip", "abort", "overwrite"]),
        }
        limits = Limits(whole_bytes=0, share_max=2) if rng.random() < 0.3 else Limits()
        names = [table.name for table in chosen]
        done = world.merge(before_mark, *names, after=after_mark, limits=limits, **how)
        assert done.result is not None, (done.error, done.error and done.error.detail)
        final = one.images()
        if done.plan.blocking:
            assert how["on_conflict"] != "skip", done.plan.blockers
            assert final == live
            return 0
        reported = one.settle(Story(before, after, live, final), chosen, how)
        assert done.plan.actions[Action.SKIP] == reported
        if done.result.merge is not None:
            undo_all(one, done.result.merge, live, final, chosen)
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
        return
    one.work(one.rng.randint(1, 8))
    later = one.images()
    back = one.world.undo(merge, on_conflict="skip")
    assert back.code == 0, back.error or back.plan.blockers
    how = {"delete_extra": True, "update": False, "on_conflict": "skip", "is_undo": True}
    reported = one.settle(Story(live, final, later, one.images()), chosen, how)
    assert back.plan.actions[Action.SKIP] <= reported


@pytest.fixture(scope="module")
def repair_server() -> Iterator[Server]:
    """A server of this module's own: it makes and drops many databases."""
    with Server(15) as server:
        yield server


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_repair_is_what_the_model_says(
    repair_server: Server, tmp_path: Path, seed: int
) -> None:
    """Lost rows are back, others' work is as they left it, undo leads back exactly."""
    repair(seed, repair_server, tmp_path)


@pytest.mark.soak
def test_ever_new_random_repairs_are_what_the_model_says(
    repair_server: Server, tmp_path: Path
) -> None:
    """The same with new seeds for as long as SECONDS, each printed."""
    seeds = random.SystemRandom()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        seed = seeds.randrange(1 << 32)
        print(f"seed {seed}")
        repair(seed, repair_server, tmp_path / str(seed))
