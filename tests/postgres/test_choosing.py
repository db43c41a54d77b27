"""`--where`: what the server of the target makes of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pitr.errors import UsageError
from pitr.postgres.replay.target_tables import search_path
from pitr.postgres.tables.choosing import choose_rows
from pitr.postgres.tables.name import TableName
from pitr.postgres.tables.session import Connection
from tools.postgres_servers import Server

SHOP = TableName("shop", "orders")
OTHER = TableName("Größe", 'Ord "1" x')


@pytest.fixture
def connection(shared_server: Server, database: str) -> Iterator[Connection]:
    """Connect to a database with two tables, whose search_path leads to one schema."""
    shared_server.query(
        f"""CREATE SCHEMA shop; CREATE SCHEMA "Größe";
        ALTER DATABASE {database} SET search_path = shop, public;
        CREATE TYPE shop.status AS ENUM ('open', 'paid');
        CREATE FUNCTION shop.is_dear(numeric) RETURNS boolean LANGUAGE sql AS 'SELECT $1 > 100';
        CREATE FUNCTION shop.same(text, text) RETURNS boolean LANGUAGE sql
            AS 'SELECT lower($1) = lower($2)';
        CREATE OPERATOR shop.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = shop.same);
        CREATE TABLE shop.orders (id int PRIMARY KEY, item text, cents numeric, status shop.status,
            twice numeric GENERATED ALWAYS AS (cents * 2) STORED);
        CREATE TABLE "Größe"."Ord ""1"" x" (id bigint, item varchar);
        """,
        database,
    )
    with shared_server.connect(database) as opened:
        opened.autocommit = True
        opened.execute("SET search_path = pg_catalog")
        yield opened


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("id = 7", "id = 7"),
        ("id IN (1, 2) OR item LIKE 'a%' -- and so on", "(id = ANY (ARRAY[1, 2])) OR item ~~ 'a%'"),
        ("is_dear(cents)", "shop.is_dear(cents)"),
        ("item === 'LAMP'", "OPERATOR(shop.===)"),
        ("status = 'open'", "shop.status"),
        ("orders.id > 5 AND NOT item IS NULL", "id > 5"),
    ],
)
def test_condition_comes_back_with_every_name_in_full(
    connection: Connection, text: str, normal: str
) -> None:
    """So it means the same under any search_path, and can be run where nothing is found by name."""
    found = choose_rows(connection, [SHOP], text, search_path(connection))
    if "LIKE" not in text:
        assert normal in found
    connection.execute(f"SELECT count(*) FROM ONLY shop.orders WHERE {found}".encode())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not understood"),
        ("id = 1; DROP TABLE shop.orders", "more than a condition"),
        ("id = 1) OR (1 = 1", "not understood"),
        ("id = 1 ORDER BY id", "more than a condition"),
        ("id IN (SELECT 1)", "sub-select"),
        ("id", "must be type boolean"),
        ("idd = 1", "does not exist"),
        ("pg_read_file('x') = 'y'", "may not be called"),
        ("count(*) > 1", "aggregate functions are not allowed"),
        ("id = $1", "parameter"),
    ],
)
def test_what_is_no_condition_is_refused_and_leaves_nothing(
    connection: Connection, text: str, said: str
) -> None:
    """In our words or the server's; no view is left."""
    with pytest.raises(UsageError) as raised:
        choose_rows(connection, [SHOP], text, ["shop"])
    assert said in f"{raised.value.message} {raised.value.detail}"
    left = connection.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'pitr%'").fetchone()
    assert left == (0,)


def test_condition_on_several_tables_means_the_same_or_is_refused(connection: Connection) -> None:
    """A text column and a varchar column are compared by different expressions."""
    path = ["shop"]
    assert choose_rows(connection, [SHOP, OTHER], "id = 7", path) == "id = 7"
    with pytest.raises(UsageError, match="different things"):
        choose_rows(connection, [SHOP, OTHER], "item = 'a'", path)
