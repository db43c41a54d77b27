"""Which tables names and patterns of -t mean, among those of a database at a target."""

from __future__ import annotations

import pytest

from pitr.errors import TableUnknown, UsageError
from pitr.postgres.replay.target_tables import TargetRelation, choose_tables

PATH = ("app", "public")
KNOWN = [
    TargetRelation(1, "public", "orders", "r", "p"),
    TargetRelation(2, "app", "orders", "p", "p"),
    TargetRelation(3, "app", "orders_1", "r", "p", parent=2),
    TargetRelation(4, "sales", "orders", "r", "p"),
    TargetRelation(5, "sales", "Orders 2026", "r", "p"),
    TargetRelation(6, "sales", "cache", "r", "u"),
    TargetRelation(7, "sales", "dear", "v", "p"),
    TargetRelation(8, "sales", "far", "f", "p"),
    TargetRelation(9, "old", "items", "r", "p"),
    TargetRelation(10, "older", "items", "r", "p"),
    TargetRelation(11, "old", "größe", "r", "p"),
    TargetRelation(12, "public", "order*", "r", "p"),
]


@pytest.mark.parametrize(
    ("names", "oids"),
    [
        (["orders"], [2]),
        (["ORDERS"], [2]),
        (["public.orders"], [1]),
        (["shop.sales.orders"], [4]),
        (["orders", "app.orders", "sales.orders"], [2, 4]),
        (['sales."Orders 2026"'], [5]),
        (["sales.*"], [4, 5]),
        (["sales.order?"], [4]),
        (["order*"], [12, 2]),  # of the schemas on the path, the first that has the name
        (["app.*"], [2]),  # its partition is in it
        (["app.orders_?"], [3]),
        (['public."order*"'], [12]),
        (["größe"], [11]),
        (["it*"], [9, 10]),  # of no schema on the path: all that there are
        (["*.orders"], [1, 2, 4]),
    ],
)
def test_names_and_patterns_mean_tables(names: list[str], oids: list[int]) -> None:
    """As in pg_dump: unquoted ones are folded and wild, the search_path counts."""
    assert sorted(t.oid for t in choose_tables(KNOWN, names, PATH)) == sorted(oids)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("ordres", TableUnknown, "no table ordres"),
        ("sales.x*", TableUnknown, "no table sales.x*"),
        ("items", UsageError, "several tables are called items"),
        ("sales.cache", UsageError, "is unlogged"),
        ("sales.dear", UsageError, "is a view"),
        ("sales.far", UsageError, "is a foreign table"),
        ('"Orders"', TableUnknown, "no table"),
    ],
)
def test_name_that_means_no_table_or_several_is_refused(
    name: str, kind: type[UsageError], message: str
) -> None:
    """With what is like it, or with the names to choose from."""
    with pytest.raises(kind) as raised:
        choose_tables(KNOWN, [name], PATH)
    assert message in raised.value.message
