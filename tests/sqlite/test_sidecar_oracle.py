"""Random tables brought back, against the files they came from."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pitr.sqlite.past.replay import open_past
from pitr.sqlite.past.sidecar import restore_tables
from tests.sqlite.past_files import (
    ODD_NAMES,
    assert_same,
    opened,
    quoted,
    restore,
    write_database,
)
from tests.sqlite.recorded import Recorder

# --- against an oracle -------------------------------------------------------------------------

TYPES = ["INTEGER", "TEXT", "REAL", "BLOB", "NUMERIC", "", "VARCHAR(9) COLLATE NOCASE"]
STRICT_TYPES = ["INTEGER", "TEXT", "REAL", "BLOB", "ANY"]
LITERALS = {
    "INTEGER": ["0", "1", "-1", "9223372036854775807", "-128", "70000"],
    "REAL": ["-0.0", "0.1", "1e300", "-9e999", "5.0", "4.9e-324"],
    "TEXT": ["''", "'a'", "'Ä'", "'12'", "CAST(x'6100ff' AS TEXT)", "hex(zeroblob(3000))"],
    "BLOB": ["x''", "x'00ff'", "zeroblob(300)", "randomblob(9000)"],
}


class RandomTables:
    """Statements that make one table of random shape with random rows and a random past."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def statements(self, name: str) -> list[str]:
        rng = self.rng
        strict = rng.random() < 0.3
        types = STRICT_TYPES if strict else TYPES
        columns = {
            f"c{i} {rng.choice(ODD_NAMES)}": rng.choice(types) for i in range(rng.randint(1, 6))
        }
        parts = [f"{quoted(c)} {declared}" for c, declared in columns.items()]
        key = rng.choice(["integer", "autoincrement", "without rowid", "none", "none"])
        if key in ("integer", "autoincrement"):
            auto = "AUTOINCREMENT" if key == "autoincrement" else ""
            parts.insert(rng.randint(0, len(parts)), f"id INTEGER PRIMARY KEY {auto}")
        if key == "without rowid":
            parts += ["id INTEGER NOT NULL", "kind TEXT", "PRIMARY KEY (kind DESC, id)"]
        if rng.random() < 0.4:
            kind = rng.choice(["STORED", "VIRTUAL"])
            word = "ANY" if strict else ""
            generated = f"g {word} AS (typeof({quoted(next(iter(columns)))})) {kind}"
            parts.insert(rng.randint(0, len(columns)), generated)
        ends = ["STRICT"] * strict + ["WITHOUT ROWID"] * (key == "without rowid")
        made = [f"CREATE TABLE {quoted(name)} ({', '.join(parts)}) {', '.join(ends)}"]
        made += [self._index(name, list(columns), i) for i in range(rng.randint(0, 3))]
        rng.shuffle(made[1:])
        for number in range(rng.choice([0, 1, 5, 80])):
            made.append(self._insert(name, columns, key, number * rng.choice([1, 1, 1000])))
        if rng.random() < 0.5:
            made.append(f"DELETE FROM {quoted(name)} WHERE abs(random()) % 3 = 0")
        if rng.random() < 0.3:
            made.append(f"ALTER TABLE {quoted(name)} ADD COLUMN late {rng.choice(types) or 'ANY'}")
        return made

    def _index(self, name: str, columns: list[str], number: int) -> str:
        column = quoted(self.rng.choice(columns))
        where = f"WHERE {column} IS NOT NULL" if self.rng.random() < 0.4 else ""
        part = self.rng.choice([f"{column} DESC", f"length({column})", f"{column} COLLATE NOCASE"])
        end = self.rng.choice(["", " ", " -- why", " /* why */"])
        return f"CREATE INDEX {quoted(f'{name} i{number}')} ON {quoted(name)} ({part}) {where}{end}"

    def _insert(self, name: str, columns: dict[str, str], key: str, number: int) -> str:
        values = {quoted(c): self._value(declared) for c, declared in columns.items()}
        if key != "none":
            values["id"] = str(number)
        if key == "without rowid":
            values["kind"] = self.rng.choice(["'a'", "'b'", "'ä'"])
        rowid = {"rowid": str(number + 3)} if key == "none" else {}
        values = rowid | values
        return (
            f"INSERT OR IGNORE INTO {quoted(name)} ({', '.join(values)})"
            f" VALUES ({', '.join(values.values())})"
        )

    def _value(self, declared: str) -> str:
        if self.rng.random() < 0.15:
            return "NULL"
        kinds = [declared] if declared in LITERALS else list(LITERALS)
        return self.rng.choice(LITERALS[self.rng.choice(kinds)])


@pytest.mark.parametrize("_round", range(4))
def test_random_commits_of_an_archive_come_back_as_they_were(tmp_path: Path, _round: int) -> None:
    """Out of a history of commits, each sampled state gives back its tables as they were then."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    recorder = Recorder(
        tmp_path / "source.db",
        page_size=rng.choice([512, 4096]),
        auto_vacuum=rng.choice([0, 1]),
        wal=rng.random() < 0.7,
    )
    names = ["plain", *rng.sample(ODD_NAMES, 2)]
    for name in names:
        recorder.run(*RandomTables(rng).statements(name))
        if rng.random() < 0.5:
            recorder.run("VACUUM")
    recorder.run(f"DROP TABLE {quoted(names[1])}")
    archive = recorder.archive()

    for number in rng.sample(range(1, recorder.number + 1), min(12, recorder.number)):
        then = tmp_path / f"then-{number}.db"
        then.write_bytes(recorder.states[number])
        sidecar = tmp_path / f"sidecar-{number}.db"
        with opened(then) as native:
            tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> ?"
            present = [row[0] for row in native.execute(tables, ("sqlite_sequence",))]
        if present:
            with open_past(archive.at(number)) as past:
                restore_tables(past, present, sidecar)
        for name in present:
            assert_same(then, sidecar, name)
    recorder.close()


@pytest.mark.parametrize("_round", range(12))
def test_random_tables_come_back_as_they_were(tmp_path: Path, _round: int) -> None:
    """Whatever the shape, every table equals the file in texts, rowids, and bits of every value."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    names = ["plain", *rng.sample(ODD_NAMES, 4)]
    tables = RandomTables(rng)
    statements = [
        f"PRAGMA page_size = {rng.choice([512, 1024, 4096, 65536])}",
        f"PRAGMA auto_vacuum = {rng.choice([0, 1, 2])}",
        f"PRAGMA journal_mode = {rng.choice(['WAL', 'DELETE'])}",
    ]
    for name in names:
        statements += tables.statements(name)
    path = write_database(tmp_path / "source.db", statements)

    results = restore(path, names)

    assert [table.table for table in results] == names
    with opened(path) as native, opened(tmp_path / "sidecar.db") as sidecar:
        for table in results:
            assert table.warnings == ()
            has_rowid = native.execute(
                "SELECT wr = 0 FROM pragma_table_list(?)", (table.table,)
            ).get
            order = "ORDER BY rowid" if has_rowid else ""
            assert_same(path, tmp_path / "sidecar.db", table.table, order=order)
            if has_rowid:
                rowids = f"SELECT rowid FROM {quoted(table.table)}"
                assert sidecar.execute(rowids).fetchall() == native.execute(rowids).fetchall()
            count = f"SELECT count(*) FROM {quoted(table.table)}"
            assert table.rows == native.execute(count).get
