"""Rows of an R-Tree that differ: its boxes rest inside the nodes of a shadow table.

The shadow table _rowid tells which rows there are and in which node; the boxes themselves are in
the blobs of _node. A node holds big-endian: depth u16 (of the root only), number of entries u16,
then per entry a row's id i64 and its coordinates, four bytes each.
Source: SQLite `ext/rtree/rtree.c`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pitr.sqlite.file.page import Value
from pitr.sqlite.past.schema import SchemaEntry
from pitr.sqlite.rows.rowdiff import RowDiff, TableSide
from pitr.sqlite.statement.tokens import Token, tokens_of

_GEOPOLY_COORDINATES = 4
_ROW_COLUMNS = 2  # of _rowid: the row's id and its node; auxiliary columns follow


def updated_boxes(virtual: SchemaEntry, rowids: RowDiff, nodes: RowDiff | None) -> int:
    """Return how many rows are there before and after, with another box or auxiliary column."""
    updated = {
        change.before.rowid
        for change in rowids.changes()
        if change.before and change.after and rowids.before and rowids.after
        and rowids.before.record(change.before)[_ROW_COLUMNS:]
        != rowids.after.record(change.after)[_ROW_COLUMNS:]
    }  # fmt: skip
    if nodes and nodes.before and nodes.after and rowids.before and rowids.after:
        size = 8 + 4 * _coordinates(virtual)
        old = [change.before for change in nodes.changes() if change.before]
        new = [change.after for change in nodes.changes() if change.after]
        before = {
            rowid: box
            for cell in old
            for rowid, box in _boxes(nodes.before.record(cell), cell.rowid, rowids.before, size)
        }
        after = {
            rowid: box
            for cell in new
            for rowid, box in _boxes(nodes.after.record(cell), cell.rowid, rowids.after, size)
        }
        updated |= {rowid for rowid, box in before.items() if after.get(rowid, box) != box}
    return len(updated)


def _boxes(
    record: list[Value], node: int | None, rowids: TableSide, entry_bytes: int
) -> Iterator[tuple[int, bytes]]:
    """Yield (row's id, coordinates) of a leaf node; nothing for a node above the leaves."""
    data = record[1] if len(record) > 1 else None
    if not isinstance(data, bytes) or len(data) < 4:
        return
    (count,) = struct.unpack_from(">H", data, 2)
    entries = [data[at : at + entry_bytes] for at in range(4, 4 + count * entry_bytes, entry_bytes)]
    if not entries or len(entries[-1]) < entry_bytes:
        return
    parsed = [(int.from_bytes(entry[:8], "big", signed=True), entry[8:]) for entry in entries]
    if _node_of(parsed[0][0], rowids) == node:
        yield from parsed


def _node_of(rowid: int, rowids: TableSide) -> Value:
    """Return the node that holds a row by the shadow table _rowid."""
    cell = rowids.snapshot.seek(rowids.entry.root, rowid)
    record = rowids.record(cell) if cell else []
    return record[1] if len(record) > 1 else None


def _coordinates(virtual: SchemaEntry) -> int:
    """Return how many coordinates a box has, from the arguments of the virtual table."""
    if virtual.module == "geopoly":
        return _GEOPOLY_COORDINATES
    arguments: list[list[Token]] = [[]]
    depth = 0
    for token in tokens_of(virtual.sql or ""):
        depth += token.is_sign("(") - token.is_sign(")")
        if depth == 1 and token.is_sign(","):
            arguments.append([])
        elif depth >= 1:
            arguments[-1].append(token)
    plain = [argument for argument in arguments[1:] if argument and not argument[0].is_sign("+")]
    return len(plain)
