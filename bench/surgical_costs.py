"""What else happened to a cluster does not make one table dearer to bring back.

Two lives with the same table of orders and the same changes of it. In one of them, meanwhile, a
table of a given size was loaded and VACUUM FULL'd beside the orders, large objects were written,
and another database was as busy. What `pitr restore` reads and what its sidecar takes is compared.
"""

from __future__ import annotations

from bench.report import Aim, Result, Table, bytes_text
from bench.surgical import surgical
from bench.surgical_life import DATABASE, OTHER, Life, new_folder, push, record, tell
from bench.world import Size
from tools.postgres_servers import Server

_ROW_BYTES = 1024
_OBJECT_BYTES = 1 << 20
_LOADED = (
    "CREATE TABLE loaded AS SELECT i, repeat(md5(i::text), 31) AS filler FROM "
    "generate_series(1, {rows}) AS i"
)
_OBJECTS = (
    "SELECT count(lo_from_bytea(0, decode(repeat(md5(i::text), {repeats}), 'hex'))) FROM "
    "generate_series(1, {objects}) AS i"
)


def run(size: Size) -> Result:
    """Compare a quiet life with one in which so many bytes were loaded."""
    quiet, busy = (_measure(size, is_busy=is_busy) for is_busy in (False, True))
    columns = ["meanwhile", "WAL", "read", "sidecar on disk"]
    loaded = f"{size.name} loaded and VACUUM FULL'd, large objects, another database"
    rows = [[name, *map(bytes_text, found)] for name, found in (("", quiet), (loaded, busy))]
    aims = [
        Aim(f"restore beside {size.name} loaded: {what}", busy[at] / quiet[at], 1.2)
        for at, what in ((1, "bytes read"), (2, "bytes on disk"))
    ]
    return Result([Table("One table back, and what else was done", columns, rows)], aims)


def _measure(size: Size, *, is_busy: bool) -> tuple[int, int, int]:
    """Return the bytes of WAL of a life, those read of its archive, and those of the sidecar."""

    def work(server: Server) -> None:
        if not is_busy:
            return
        objects, repeats = max(1, (size.bytes >> 3) // _OBJECT_BYTES), _OBJECT_BYTES // 16
        for database in (DATABASE, OTHER):
            tell(folder, f"{size.name} of rows and large objects in {database}")
            server.query(_LOADED.format(rows=size.bytes // _ROW_BYTES), database)
            server.query("VACUUM (FULL) loaded", database)
            server.query(_OBJECTS.format(objects=objects, repeats=repeats), database)
        server.query("VACUUM (FULL) pg_class", OTHER)

    with new_folder() as folder:
        life: Life = record(folder, lambda _: None, work, has_peer=False)
        push(life)
        return life.wal_bytes, *surgical(life)
