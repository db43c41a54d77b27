"""The application of the demo: a small shop on SQLite that knows nothing of pitr.

Run by `pitr demo` in processes of its own, with Python's own sqlite3 module:
`python -m pitr.cli.demo_shop create|serve|accident|count DATABASE`.
"""

from __future__ import annotations

import random
import sqlite3
import sys
import time
from pathlib import Path

SCHEMA = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    customer INTEGER NOT NULL REFERENCES customers (id),
    item TEXT NOT NULL,
    cents INTEGER NOT NULL CHECK (cents > 0),
    status TEXT NOT NULL DEFAULT 'open'
);
CREATE INDEX orders_by_customer ON orders (customer);
CREATE TABLE visits (id INTEGER PRIMARY KEY, customer INTEGER, page TEXT);
"""
ITEMS = ("teapot", "lamp", "chair", "notebook", "umbrella", "kettle")
CUSTOMERS = 500
ORDERS = 20_000


def create(path: Path) -> None:
    """Make the shop: customers, orders, a table of page visits."""
    chance = random.Random(7)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(SCHEMA)
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO customers (name) VALUES (?)",
        ((f"Customer {number}",) for number in range(1, CUSTOMERS + 1)),
    )
    connection.executemany(
        "INSERT INTO orders (customer, item, cents) VALUES (?, ?, ?)",
        (
            (chance.randint(1, CUSTOMERS), chance.choice(ITEMS), chance.randint(100, 90_000))
            for _ in range(ORDERS)
        ),
    )
    connection.execute("COMMIT")
    connection.close()


def serve(path: Path) -> None:
    """Do business until killed: new orders, changed orders, visits; a transaction each."""
    chance = random.Random(11)
    connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    connection.execute("PRAGMA journal_mode = WAL")
    while True:
        connection.execute("BEGIN IMMEDIATE")
        customer = chance.randint(1, CUSTOMERS)
        connection.execute("INSERT INTO visits (customer, page) VALUES (?, '/shop')", (customer,))
        if chance.random() < 0.3:
            connection.execute(
                "INSERT INTO orders (customer, item, cents) VALUES (?, ?, ?)",
                (customer, chance.choice(ITEMS), chance.randint(100, 90_000)),
            )
        if chance.random() < 0.3:
            connection.execute(
                "UPDATE orders SET status = 'paid' WHERE id = ?", (chance.randint(1, ORDERS),)
            )
        connection.execute("COMMIT")
        time.sleep(0.02)


def accident(path: Path) -> None:
    """Run the clean-up script in which somebody forgot the WHERE."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    connection.execute("DELETE FROM orders")
    connection.close()


def count(path: Path) -> None:
    """Print how many orders are open and paid, as the sqlite3 shell would."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    for status, orders in connection.execute("SELECT status, count(*) FROM orders GROUP BY 1"):
        print(f"{status}|{orders}")
    connection.close()


def main() -> None:
    """Run the part named on the command line."""
    parts = {"create": create, "serve": serve, "accident": accident, "count": count}
    parts[sys.argv[1]](Path(sys.argv[2]))


if __name__ == "__main__":
    main()
