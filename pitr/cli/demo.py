"""`pitr demo`: the whole story on a throw-away database, with the real commands."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from pitr.cli.demo_postgres import open_shop, postgres_story
from pitr.cli.demo_stage import PITR, Stage
from pitr.cli.options import json_option
from pitr.cli.render import emit, emit_json

_SHOP = [sys.executable, "-m", "pitr.cli.demo_shop"]


@click.command()
@click.option("--keep", is_flag=True, help="Leave the folder of the demo where it is.")
@click.option(
    "--postgres", is_flag=True, help="On a PostgreSQL server that is started for it, not SQLite."
)
@json_option
def demo(*, keep: bool, postgres: bool, as_json: bool) -> None:
    """Lose rows and get them back, in seconds.

    Makes a throw-away shop with a live writer in another process, captures it, destroys its
    orders, finds the accident, brings the rows back, takes that back and changes its mind. Every
    command is real and shown as it runs.
    """
    folder = Path(tempfile.mkdtemp(prefix="pitr-demo-"))
    try:
        if postgres:
            with open_shop(folder, is_quiet=as_json) as shop:
                found = postgres_story(shop)
        else:
            found = _story(Stage(folder, is_quiet=as_json))
    finally:
        if not keep:
            shutil.rmtree(folder)
    if as_json:
        emit_json({"folder": str(folder) if keep else None, **found})
    elif keep:
        emit(f"\nThe demo's files are in {folder}")


def _story(stage: Stage) -> dict[str, Any]:
    """Play the story; return what was found and recovered."""
    stage.say("A shop with 20,000 orders, and an application that keeps writing to it.")
    stage.run(*_SHOP, "create", "shop.db")
    stage.pitr("init", "shop.db", "--archive", "archive")
    with stage.running(*PITR, "capture"), stage.running(*_SHOP, "serve", "shop.db"):
        stage.wait_for_capture()
        time.sleep(1.5)
        stage.say("Somebody runs a clean-up script without its WHERE. The application goes on.")
        stage.show("sqlite3", "shop.db", "DELETE FROM orders")
        stage.run(*_SHOP, "accident", "shop.db")
        time.sleep(2.5)
        return _recover(stage)


def _recover(stage: Stage) -> dict[str, Any]:
    lost = ("when", "-t", "orders", "--gone", "id = 42")
    stage.say("When did order 42 vanish?")
    stage.pitr(*lost)
    transaction = stage.ask(*lost)["transaction"]
    accident = transaction["position"]
    stage.say("What else happened to the orders just before?")
    stage.pitr("log", "-t", "orders", "--until", accident, "--limit", "4")
    stage.say("What that one transaction destroyed, into a sidecar; live is only read.")
    stage.pitr("revert", accident, "-t", "orders")
    stage.say("The sidecar is a database like any other.")
    query = "SELECT status, count(*) AS orders, sum(cents) / 100 AS total FROM orders GROUP BY 1"
    stage.pitr("recoveries", "sql", query)
    stage.say("What became of its rows? Orders that came in since are not among them.")
    stage.pitr("diff", "--limit", "3")
    stage.say("Put back exactly what is lost, in one transaction; the application goes on.")
    stage.pitr("merge", "--yes")
    recovery = stage.ask("recoveries")["recoveries"][-1]
    merge = recovery["merges"][-1]
    stage.say("If that was a mistake, take it back. Orders that were paid since stay as they are.")
    stage.pitr("undo", merge["merge"], "--on-conflict", "skip", "--yes")
    stage.say("It was none: an undo is a merge as well, and is taken back in the same way.")
    undo = stage.ask("recoveries")["recoveries"][-1]["merges"][-1]
    stage.pitr("undo", undo["merge"], "--yes")
    stage.say("Everything is there: what was lost, what came in since, and what was paid since.")
    stage.show("sqlite3", "shop.db", "SELECT status, count(*) FROM orders GROUP BY 1")
    stage.run(*_SHOP, "count", "shop.db")
    return {"transaction": transaction, "tables": recovery["tables"], "merge": merge, "undo": undo}
