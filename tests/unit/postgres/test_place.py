"""Places of servers, as connection strings."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from pitr.postgres.live.connection import by_role_of

PLACE = "postgresql://pitr@db:5433/shop"


@pytest.mark.parametrize(
    "other", ["postgresql://dba@db:5433/postgres", "host=db port=5433 user=dba"]
)
def test_server_is_reached_by_the_other_role_in_its_own_database(other: str) -> None:
    """However it is written."""
    found = conninfo_to_dict(by_role_of(PLACE, other))
    assert found == {"user": "dba", "host": "db", "port": "5433", "dbname": "shop"}


@pytest.mark.parametrize(
    "other", ["postgresql://dba@db:5432/shop", "postgresql://dba@db/shop", "service=shop"]
)
def test_another_server_is_not_taken_for_it(other: str) -> None:
    """What its role may do there says nothing here."""
    assert by_role_of(PLACE, other) == PLACE
