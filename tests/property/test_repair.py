"""Random schemas, histories, damage and later work: what a merge does, judged by a model of its own.

The model reads whole tables as the application sees them, before (B), after (D) and live (C), and
says row by row and column by column what a repair has to make of them. It knows nothing of classes,
plans or SQL. Rows that a unique value or a foreign key keeps out are allowed to stay as they are if
the plan says so, and if the database itself would not take them.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pitr.vocabulary.row_class import Action
from tests.sqlite.capture_world import AppError
from tests.sqlite.merge_world import MergeWorld

SECONDS = 40.0
Row = tuple[str, ...]
Rows = dict[Row, Row]
_VALUES = ("NULL", "0", "1", "2", "1.0", "'1'", "'a'", "'A'", "''", "x'00'", "9007199254740993")


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its text, the places of its key among its columns, and how to make a row."""

    name: str
    sql: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    is_constrained: bool

    def place(self, column: str) -> int:
        return self.columns.index(column)

    def keyed(self, rows: Counter[Row]) -> Rows:
        """Return the rows by key."""
        places = [self.place(column) for column in self.key]
        return {tuple(row[at] for at in places): row for row in rows.elements()}


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
    parents = [table for table in others if table.key == ("id",)]
    if parents and rng.random() < 0.6:
        columns.append("p")
        action = rng.choice(["", "ON DELETE CASCADE", "ON DELETE SET NULL"])
        parts.append(f"p INT REFERENCES {rng.choice(parents).name} (id) {action}")
        is_constrained = True
    kind = rng.choice(["rowid", "rowid", "text", "pair", "nocase", "none"])
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
    return Table(name, sql, tuple([*own, *columns]), key, is_constrained)


class Repair:
    """One random world, from its schema to the undo of its merge."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = random.Random(seed)
        folder.mkdir()
        mode = self.rng.choice(["WAL", "WAL", "WAL", "DELETE"])
        self.world = MergeWorld(folder, mode=mode)
        self.world.run(f"PRAGMA foreign_keys = {self.rng.choice(['ON', 'OFF'])}")
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
        return self.rng.choice(_VALUES)

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
        kind = self.rng.choice(["delete", "update", "insert"] if heavy else ["insert"] * 3 + ["update", "delete"])
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
        found = self.world.image()
        return {table.name: found[table.name] for table in self.tables}

    def expected_keyless(
        self, before: Counter[Row], after: Counter[Row] | None, live: Counter[Row]
    ) -> Counter[Row]:
        lost = before - live
        if after is not None:
            lost &= before - after
        return live + lost

    def expected_row(
        self, table: Table, was: Row | None, after: Row | None, now: Row | None, how: dict[str, Any]
    ) -> tuple[Row | None, bool]:
        """Return what a row has to become with the state after the damage known, and whether it is
        left aside by the rules.
        """
        if was is None:
            if after is None or now is None:
                return now, False
            is_extra = how["delete_extra"] and now == after
            return (None, False) if is_extra else (now, True)
        if after is None:
            return (was, False) if now is None else (now, now != was)
        damaged = [at for at in range(len(was)) if was[at] != after[at]]
        if not damaged:
            return now, False
        if now is None:
            return None, True
        if any(now[at] not in (was[at], after[at]) for at in damaged):
            return now, True
        return tuple(was[at] if at in damaged else one for at, one in enumerate(now)), False

    def expected_alone(
        self, was: Row | None, now: Row | None, how: dict[str, Any]
    ) -> tuple[Row | None, bool]:
        """Return the same without that state."""
        if was is None or was == now:
            return now, False
        if now is None:
            return was, False
        return (was, False) if how["update"] else (now, True)

    # --- the judgement ---------------------------------------------------------------------------

    def judge(
        self, table: Table, states: list[dict[str, Counter[Row]] | None], how: dict[str, Any]
    ) -> tuple[int, list[tuple[Row | None, Row | None]]]:
        """Compare a table after the merge with the model.

        Return how many rows the rules leave aside, and the rows that were not written although the
        rules would have them: (as they are, as they should be).
        """
        before, after, live, final = (
            None if state is None else state[table.name] for state in states
        )
        assert before is not None
        assert live is not None
        assert final is not None
        if not table.key:
            wanted = self.expected_keyless(before, after, live)
            kept_out = [(None, row) for row in (wanted - final).elements()]
            assert final == wanted or not (final - wanted), (table.name, final - wanted)
            return 0, kept_out
        rows = [None if state is None else self.folded(table, state) for state in (before, after, live, final)]
        b, d, c, f = rows
        assert b is not None
        assert c is not None
        assert f is not None
        aside, kept_out = 0, []
        for key in b.keys() | (d or {}).keys() | c.keys() | f.keys():
            if d is None:
                wanted_row, is_aside = self.expected_alone(b.get(key), c.get(key), how)
            else:
                wanted_row, is_aside = self.expected_row(table, b.get(key), d.get(key), c.get(key), how)
            aside += is_aside
            if f.get(key) == wanted_row:
                continue
            assert f.get(key) == c.get(key), (table.name, key, wanted_row, f.get(key), c.get(key))
            kept_out.append((c.get(key), wanted_row))
        return aside, kept_out

    def folded(self, table: Table, rows: Counter[Row]) -> Rows:
        """Return the rows by key; under NOCASE keys differ by more than case."""
        found = table.keyed(rows)
        if table.key == ("k",):
            return {tuple(value.lower() for value in key): row for key, row in found.items()}
        return found

    def is_refused(self, table: Table, now: Row | None, wanted: Row | None) -> bool:
        """Return whether the database would not take a row that was kept out."""
        run = self.world.app.run
        violations = len(run("PRAGMA foreign_key_check"))
        rows = run(f"SELECT count(*) FROM {table.name}")
        run("BEGIN")
        try:
            if now is not None:
                where = " AND ".join(
                    f"{column} IS {now[table.place(column)]}" for column in table.key
                )
                run(f"DELETE FROM {table.name} WHERE {where}")
            if wanted is not None:
                run(f"INSERT OR ABORT INTO {table.name} VALUES ({', '.join(wanted)})")
            more = len(run("PRAGMA foreign_key_check")) > violations
            expected = rows[0][0] - (now is not None) + (wanted is not None)
            return more or run(f"SELECT count(*) FROM {table.name}") != [[expected]]
        except AppError:
            return True
        finally:
            run("ROLLBACK")


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
        how = {"delete_extra": rng.random() < 0.5, "update": rng.random() < 0.5}
        done = world.merge(
            before_commit,
            *(table.name for table in chosen),
            after=after_commit,
            on_conflict="skip",
            **how,
        )
        assert done.result is not None, (done.error, done.error and done.error.detail)
        assert not done.result.plan.blocking, done.result.plan.blockers
        final = one.images()
        aside, kept_out = 0, []
        for table in one.tables:
            if table not in chosen:
                assert final[table.name] == live[table.name], table.name
                continue
            left, refused = one.judge(table, [before, after, live, final], how)
            aside += left
            kept_out += [(table, now, wanted) for now, wanted in refused]
        assert done.result.plan.actions[Action.SKIP] == aside + len(kept_out), kept_out
        for table, now, wanted in kept_out:
            assert table.is_constrained or any(t.is_constrained for t in one.tables)
            assert one.is_refused(table, now, wanted), (table, now, wanted)
        if done.result.merge is not None:
            back = world.undo(done.result.merge)
            assert back.code == 0, back.error or (back.result and back.result.plan.blockers)
            assert one.images() == live
        assert world.app.run("PRAGMA integrity_check") == [["ok"]]
        return done.result.inserted + done.result.updated + done.result.deleted
    finally:
        world.close()


def test_random_repair_is_what_the_model_says(tmp_path: Path) -> None:
    """Promise: lost rows are back, others' work is as they left it, undo leads back exactly."""
    seeds = random.SystemRandom()
    end = time.monotonic() + SECONDS
    worlds = written = 0
    while time.monotonic() < end:
        seed = seeds.randrange(1 << 32)
        print(f"seed {seed}")
        written += repair(seed, tmp_path / str(seed))
        worlds += 1
    print(f"{worlds} worlds, {written} rows")
    assert worlds > 10
    assert written > worlds
