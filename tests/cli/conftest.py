"""The world that most tests of the command line look at. They read it; who writes makes its own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.commands import capturing, succeed, wait_until_current, write

ORDERS = "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, cents INTEGER)"


@dataclass(frozen=True, slots=True)
class Shop:
    """A captured shop: commit 1 is its base, the mark `full` has three orders.

    Then order 2 was deleted, order 3 became dearer, the table `visits` came and `notes` went.
    """

    folder: Path
    full: str
    deleted: str
    dearer: str
    visits: str
    dropped: str


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Capture a small life of a shop, each step a transaction seen by itself."""
    folder = tmp_path_factory.mktemp("shop")
    database = folder / "shop.db"
    write(database, ORDERS, "CREATE TABLE notes (text)", "CREATE VIEW dear AS SELECT * FROM orders")
    succeed(folder, "init", "shop.db", "--archive", "archive")
    steps = (
        "DELETE FROM orders WHERE id = 2",
        "UPDATE orders SET cents = 950 WHERE id = 3",
        "CREATE TABLE visits (id INTEGER PRIMARY KEY, page BLOB)",
        "DROP TABLE notes",
    )
    with capturing(folder, PITR_POLL="20ms", PITR_FLUSH="20ms"):
        write(database, "INSERT INTO orders VALUES (1, 'lamp', 1250), (2, 'chair', 4900), "
              "(3, 'kettle', 900)")  # fmt: skip
        full = succeed(folder, "mark", "full", "--json").json["position"]
        write(database, *steps)
        wait_until_current(folder)
    begin = int(full.removeprefix("commit:"))
    return Shop(folder, full, *(f"commit:{begin + step}" for step in (1, 2, 3, 4)))


@pytest.fixture
def copied(shop: Shop, tmp_path: Path) -> Path:
    """Return the archive of the shop alone, on a machine where there is nothing else of it."""
    shutil.copytree(shop.folder / "archive", tmp_path / "copy")
    return tmp_path
