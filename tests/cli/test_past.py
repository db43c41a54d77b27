"""log, when, sql, restore: what is printed, in text and in JSON, and how errors read."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.commands import (
    PITR,
    WAIT_SECONDS,
    environment,
    pitr,
    succeed,
    told,
    write,
)
from tests.cli.conftest import ORDERS, Shop
from tests.processes import beside

CHANGE_KEYS = {"table", "inserted", "updated", "deleted", "truncated", "rewritten", "dropped"}


# ---- log and when --------------------------------------------------------------------------------


def test_log_as_json_counts_the_rows_of_each_transaction(shop: Shop) -> None:
    """Each transaction has position, xid, time and its tables with exact counts and flags."""
    listed = succeed(shop.folder, "log", "-t", "orders", "--json").json["transactions"]
    [deleted] = [item for item in listed if item["position"] == shop.deleted]
    [change] = deleted["tables"]

    assert {"position", "xid", "time", "tables"} <= deleted.keys()
    assert deleted["xid"] is None
    assert deleted["kind"] == "commit"
    assert deleted["time"].endswith("Z")
    assert change.keys() >= CHANGE_KEYS
    assert (change["inserted"], change["updated"], change["deleted"]) == (0, 0, 1)
    assert [item["position"] for item in listed][-2:] == [shop.deleted, shop.dearer]


def test_log_as_text_is_a_table_with_local_times(shop: Shop) -> None:
    """Times are those of the machine's zone, which the head names; the base is a line as well."""
    lines = succeed(shop.folder, "log", "--limit", "3").out.splitlines()

    assert lines[0].split() == [
        "position", "time", "(Europe/Paris)", "table", "inserted", "updated", "deleted", "note",
    ]  # fmt: skip
    assert lines[2].split()[0] == shop.dearer
    assert lines[3].endswith("visits         0        0        0  created")
    assert lines[4].endswith("notes          0        0        0  dropped")


def test_log_between_targets_leaves_out_what_is_not_between(shop: Shop) -> None:
    """--since is excluded, --until is included."""
    words = ("log", "--since", shop.deleted, "--until", shop.visits, "--json")
    listed = succeed(shop.folder, *words).json["transactions"]

    assert [item["position"] for item in listed] == [shop.dearer, shop.visits]


def test_when_names_the_transaction_the_row_and_the_way_back(shop: Shop) -> None:
    """The keys are transaction, before and row; the text ends with the line to run."""
    words = ("when", "-t", "orders", "--gone", "id = 2")
    found = succeed(shop.folder, *words, "--json").json
    text = succeed(shop.folder, *words).out

    assert found["transaction"]["position"] == shop.deleted
    assert found["before"] == f"before:{shop.deleted}"
    assert found["row"] == {"id": 2, "item": "chair", "cents": 4900}
    assert f": pitr revert {shop.deleted} -t orders\n" in text.replace(":   ", ": ")
    assert text.endswith(f"  pitr restore -t orders --at before:{shop.deleted}\n")


def test_when_without_an_answer_ends_with_1(shop: Shop) -> None:
    """Not found is an answer, and the answer is no."""
    words = ("when", "-t", "orders", "--gone", "id = 1")
    found = pitr(shop.folder, *words, "--json")
    text = pitr(shop.folder, *words)

    assert (found.code, text.code, text.out) == (1, 1, "")
    assert (found.json["transaction"], found.json["before"], found.json["row"]) == (None,) * 3
    assert text.err.startswith("not found: such a row is still there")


# ---- sql -----------------------------------------------------------------------------------------


def test_sql_prints_csv_and_json(shop: Shop) -> None:
    """Off a terminal it is CSV with a header; the echo of the target goes to stderr."""
    words = ("sql", "--at", "name:full", "SELECT id, item, NULL AS no, x'00ff' AS b FROM orders")
    text, found = succeed(shop.folder, *words), succeed(shop.folder, *words, "--json").json

    assert text.out.splitlines() == [
        "id,item,no,b", "1,lamp,,\\x00ff", "2,chair,,\\x00ff", "3,kettle,,\\x00ff",
    ]  # fmt: skip
    assert found["columns"] == ["id", "item", "no", "b"]
    assert found["rows"][1] == [2, "chair", None, "\\x00ff"]


def test_sql_keeps_numbers_that_json_cannot_carry(shop: Shop) -> None:
    """Integers beyond 2^53 and infinities come as text."""
    statement = "SELECT 9007199254740993, 9007199254740992, 1e999, -1.5"
    [row] = succeed(shop.folder, "sql", "--at", "latest", statement, "--json").json["rows"]

    assert row == ["9007199254740993", 9007199254740992, "inf", -1.5]


def test_target_echo_has_utc_and_local_time_and_age(shop: Shop) -> None:
    """Before any work: the last transaction included and the first one left out, a line each."""
    included, excluded = succeed(
        shop.folder, "sql", "--at", f"before:{shop.deleted}", "SELECT 1"
    ).err.splitlines()

    assert included.startswith(f"last included   {shop.full}  20")
    assert excluded.startswith(f"first excluded  {shop.deleted}  20")
    assert " Europe/Paris  " in included
    assert included.endswith(" ago")
    assert included.split()[3].endswith("Z")


# ---- restore -------------------------------------------------------------------------------------


def test_restore_as_json_has_the_keys_that_scripts_rely_on(shop: Shop) -> None:
    """Recovery, target, sidecar, tables, seconds and bytes; the sidecar has the rows of then."""
    words = ("restore", "-t", "orders", "--at", "name:full", "--json")
    found = succeed(shop.folder, *words).json
    [table] = found["tables"]

    assert found.keys() >= {"recovery", "target", "sidecar", "tables", "seconds", "bytes_read"}
    assert found["target"].keys() == {"utc", "position", "last_included", "first_excluded"}
    assert found["target"]["last_included"]["position"] == shop.full
    assert found["target"]["first_excluded"]["position"] == shop.deleted
    assert (table["rows"], table["missing_in_live"], table["differs"]) == (3, 1, 1)
    assert table["extra_in_live"] == 0
    with closing(sqlite3.connect(found["sidecar"])) as sidecar:
        rows = sidecar.execute("SELECT id, cents FROM orders ORDER BY id").fetchall()
    assert rows == [(1, 1250), (2, 4900), (3, 900)]


def test_restore_as_text_is_told_in_a_few_lines(shop: Shop, tmp_path: Path) -> None:
    """Where the sidecar is, what it took, and a table of counts; - where nothing was compared."""
    place = str(tmp_path / "orders then.db")
    words = ("restore", "-t", "orders", "--at", shop.full, "--where", "id > 1", "--to", place)
    lines = succeed(shop.folder, *words, "--no-compare").out.splitlines()

    assert lines[0].startswith("recovery  20")
    assert lines[1] == f"sidecar   {place}"
    assert lines[2] == "rows      where id > 1"
    assert lines[3].startswith("took      ")
    assert lines[5] == "table   rows  missing in live  differ  extra in live"
    assert lines[7].split() == ["orders", "2", "-", "-", "-"]
    assert Path(place).is_file()


def test_restore_compares_through_the_archive_what_it_may_not_hold_up(tmp_path: Path) -> None:
    """A rollback journal lets nobody write while it is read: the newest archived state is read."""
    filler = "WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 200000)"
    write(tmp_path / "s.db", ORDERS, f"INSERT INTO orders {filler} SELECT i, hex(i), i FROM n",
          mode="DELETE")  # fmt: skip
    succeed(tmp_path, "init", "s.db", "--archive", "archive")
    succeed(tmp_path, "capture", "--once")
    write(tmp_path / "s.db", "DELETE FROM orders WHERE id % 100 = 0", mode="DELETE")
    succeed(tmp_path, "capture", "--once")
    words = ("restore", "-t", "orders", "--at", "commit:1", "--json")
    [table] = succeed(tmp_path, *words).json["tables"]

    assert (table["rows"], table["missing_in_live"], table["differs"]) == (200_000, 2000, 0)


# ---- errors --------------------------------------------------------------------------------------

TARGET_ERRORS = {
    "02/03/2026": [
        "error: target is not understood: '02/03/2026'",
        "detail: This date can be read in more than one way, or lacks a digit.",
        "hint: Write year-month-day with two digits each, as in '2026-03-02 14:03'.",
    ],
    "2026-03-29 02:30 Europe/Paris": [
        "error: target is not understood: '2026-03-29 02:30 Europe/Paris'",
        "detail: In the zone Europe/Paris this local time never happens: the clocks were turned "
        "forward.",
        "hint: Write '2026-03-29T01:30:00+01:00' or '2026-03-29T03:30:00+02:00'.",
    ],
    "xid:5": [
        "error: this target is not for a SQLite source",
        "detail: An LSN or xid belongs to PostgreSQL; SQLite has commit numbers.",
        "hint: Use 'commit:N' or 'before:commit:N'; 'pitr log' lists them.",
    ],
}


@pytest.mark.parametrize("target", TARGET_ERRORS)
def test_target_that_is_not_understood_says_what_to_write(shop: Shop, target: str) -> None:
    """Message, detail, hint, and exit 2."""
    done = pitr(shop.folder, "sql", "--at", target, "SELECT 1")

    assert (done.code, told(done.err), done.out) == (2, TARGET_ERRORS[target], "")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("2020-01-01 00:00Z", "target 2020-01-01T00:00:00.000Z lies before the archive begins"),
        (
            "2099-01-01 00:00Z",
            "target 2099-01-01T00:00:00.000Z lies after the archive's proven end",
        ),
        ("before:commit:1", "archive holds nothing before commit:1"),
        ("commit:9999", "archive does not hold commit:9999"),
        ("name:nowhere", "no mark of this name: nowhere"),
    ],
)
def test_target_that_the_archive_lacks_ends_with_4(shop: Shop, target: str, message: str) -> None:
    """A target that is understood and not there is no usage error."""
    done = pitr(shop.folder, "restore", "-t", "orders", "--at", target, "--json")

    assert (done.code, done.error["message"], done.out) == (4, message, "")
    assert done.error["hint"]


def test_table_that_is_not_there_yet_says_since_when_it_is(shop: Shop) -> None:
    """Unknown at the target, known later: the error names the commit that brought it."""
    done = pitr(shop.folder, "restore", "-t", "visits", "--at", "name:full", "--json")

    assert (done.code, done.error["kind"]) == (2, "TableUnknown")
    assert done.error["message"] == "no table visits at this target"
    assert done.error["detail"].startswith(f"It is there from {shop.visits} (20")


def test_table_that_is_gone_says_which_target_still_has_it(shop: Shop) -> None:
    """Unknown at the target, known before: the error names a target that has it."""
    done = pitr(shop.folder, "restore", "-t", "notes", "--at", "latest", "--json")

    assert done.error["detail"].startswith(f"It was there until {shop.dropped} (20")
    assert done.error["detail"].endswith(f"'before:{shop.dropped}' still has it.")


def test_table_with_a_typing_error_gets_the_nearest_name(shop: Shop) -> None:
    """The whole message, as a user reads it."""
    done = pitr(shop.folder, "restore", "-t", "oders", "--at", "latest")

    assert (done.code, told(done.err)) == (
        2,
        ["error: no table oders at this target", "hint: Did you mean orders or dear?"],
    )


@pytest.mark.parametrize(
    ("where", "detail"),
    [
        ("id = 1; DROP TABLE orders", "The ; at character 7 would end the condition."),
        ("id = 1) OR (1", "The ) at character 7 closes nothing."),
        ("nope = 1", "SQLite says: no such column: nope."),
        ("", "It is empty."),
    ],
)
def test_condition_that_is_none_names_the_offending_part(
    shop: Shop, where: str, detail: str
) -> None:
    """Anything but one condition is a usage error."""
    done = pitr(shop.folder, "restore", "-t", "orders", "--at", "latest", "--where", where)

    assert done.code == 2
    assert told(done.err) == [
        "error: the condition on the rows cannot be used",
        f"detail: {detail}",
        "hint: Give one SQL condition over the columns of the table, as in: "
        "id > 100 AND note IS NULL.",
    ]


def test_restore_never_overwrites_a_file(shop: Shop, tmp_path: Path) -> None:
    """--to a file that exists: exit 3, and the file is as it was."""
    place = tmp_path / "there.db"
    place.write_text("mine")
    done = pitr(shop.folder, "restore", "-t", "orders", "--at", "latest", "--to", str(place))

    assert (done.code, place.read_text()) == (3, "mine")
    assert told(done.err)[0] == f"error: {place} exists already"


def test_restore_to_an_address_is_refused(shop: Shop) -> None:
    """Tables of SQLite go into a file."""
    words = ("restore", "-t", "orders", "--at", "latest", "--to", "postgresql://host/db")
    done = pitr(shop.folder, *words)

    assert done.code == 2
    assert told(done.err)[0] == "error: this is no place for a sidecar: 'postgresql://host/db'"


# ---- without the source --------------------------------------------------------------------------


def test_archive_alone_answers_on_a_machine_without_the_source(tmp_path: Path) -> None:
    """log, when, sql, restore, status and verify need nothing but the archive's folder."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    write(here / "s.db", ORDERS, "INSERT INTO orders VALUES (1, 'lamp', 5)")
    succeed(here, "init", "s.db", "--archive", "../there/archive")
    succeed(here, "capture", "--once")
    write(here / "s.db", "DELETE FROM orders")
    succeed(here, "capture", "--once")
    here.rename(tmp_path / "gone")
    home = {"HOME": str(there / "home")}
    given = ("--archive", "archive", "--json")
    when = succeed(there, "when", "-t", "orders", "--gone", "id = 1", *given, **home).json
    words = ("restore", "-t", "orders", "--at", when["before"])
    [table] = succeed(there, *words, *given, **home).json["tables"]
    listed = succeed(there, "recoveries", *given, **home).json["recoveries"]

    assert when["transaction"]["position"] == "commit:2"
    assert succeed(there, "log", *given, **home).json["transactions"]
    assert succeed(there, "sql", "--at", "commit:1", "SELECT 1", *given, **home).json["rows"]
    assert succeed(there, "verify", *given, **home).json["ok"]
    assert succeed(there, "status", *given, **home).json["lag_seconds"] == 0
    assert (table["rows"], table["missing_in_live"], table["extra_in_live"]) == (1, None, None)
    assert listed[0]["sidecar"].startswith(home["HOME"])


ENDLESS = "WITH RECURSIVE t AS (SELECT 1 AS i UNION ALL SELECT i FROM t) SELECT count(*) FROM t"


def test_endless_query_ends_when_nobody_reads_its_answer(shop: Shop) -> None:
    """What started it was killed: its end of the pipe is closed, and there is nobody to tell."""
    reader, writer = os.pipe()
    with beside(
        [*PITR, "sql", "--at", "latest", ENDLESS],
        cwd=shop.folder,
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(writer)
        assert process.stderr is not None
        assert "last included" in process.stderr.readline()  # it has begun
        os.close(reader)
        process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode != 0
