"""The small objects read again: catalog readings, marks, leases, history files, gaps."""

from __future__ import annotations

from collections.abc import Callable

from pitr.archive.archive import IDENTITY_KEY, check_mark
from pitr.archive.lease import check_lease
from pitr.archive.object import verify_object
from pitr.archive.store import ObjectInfo, Store
from pitr.errors import Corrupt, CorruptObject, PitrError
from pitr.postgres.base.object import BASE_PREFIX, PACK_PREFIX
from pitr.postgres.capture.gap import WalGap, check_gap
from pitr.postgres.catalog.reading import PREFIX as CATALOG_PREFIX
from pitr.postgres.catalog.reading import decode_reading, encode_reading
from pitr.postgres.index.name import PREFIX as INDEX_PREFIX
from pitr.postgres.index.name import IndexObject
from pitr.postgres.verification.findings import Findings
from pitr.postgres.wal.history import HistoryEntry, parse_history
from pitr.postgres.wal_store.text import decode_text
from pitr.vocabulary.position import Lsn

_WAL_PREFIX, _TIMELINE_PREFIX, _PROBE_PREFIX = "wal/", "timeline/", "probe/"
# What other modules read; of these only names are looked at here.
_ELSEWHERE = (_WAL_PREFIX, BASE_PREFIX, PACK_PREFIX, INDEX_PREFIX, _TIMELINE_PREFIX, CATALOG_PREFIX)


def verify_histories(store: Store, found: Findings) -> dict[int, tuple[HistoryEntry, ...]]:
    """Read all timeline history files; return the ancestors of each timeline that has one."""
    histories: dict[int, tuple[HistoryEntry, ...]] = {}
    for info in store.list(_TIMELINE_PREFIX):
        digits = info.key.removeprefix(_TIMELINE_PREFIX)
        data = found.get(store, info.key)
        if data is None:
            continue
        try:
            timeline = int(digits, 16) if len(digits) == 8 else 0
            histories[timeline] = parse_history(timeline, decode_text(info.key, data))
        except ValueError:
            found.leftovers.append(info.key)
        except Corrupt as error:
            found.damage(info.key, _reason(error))
    return histories


def verify_backup_histories(store: Store, found: Findings) -> None:
    """Read the backup history files, which lie beside the segments."""
    for info in store.list(_WAL_PREFIX):
        if info.key.endswith(".backup"):
            _judged(store, info, found, decode_text)


def verify_catalog(store: Store, found: Findings) -> None:
    """Read every reading of the catalog; each must rest on one that is there."""
    infos = list(store.list(CATALOG_PREFIX))
    bases: dict[str, str] = {}

    def check(key: str, data: bytes) -> None:
        reading = decode_reading(key, data)
        # By the document's digest, whatever zstd compressed it.
        if encode_reading(reading)[0] != key:
            raise CorruptObject(key, f"By its content it belongs at {encode_reading(reading)[0]}.")
        if reading.base is not None:
            bases[key] = reading.base

    for info in infos:
        _judged(store, info, found, check)
    there = {info.key for info in infos}
    for key, base in bases.items():
        if base not in there:
            found.damage(key, f"It rests on {base}, which is missing.")


def verify_gaps(store: Store, found: Findings) -> list[WalGap]:
    """Read the notes of gaps."""
    gaps: list[WalGap] = []

    def check(key: str, data: bytes) -> None:
        gaps.append(check_gap(key, data))

    for info in store.list("gap/"):
        _judged(store, info, found, check)
    return gaps


def verify_rest(store: Store, found: Findings) -> None:
    """Read identity, leases, marks and records; what has no known name is a leftover."""
    for info in store.list():
        prefix = info.key.partition("/")[0] + "/"
        if prefix == _PROBE_PREFIX or prefix == "gap/":
            continue
        if prefix in _ELSEWHERE:
            if prefix == INDEX_PREFIX and IndexObject.of(info) is None:
                found.leftovers.append(info.key)
            continue
        if info.key == IDENTITY_KEY or prefix in ("verified/", "pruned/", "claim/"):
            _judged(store, info, found, _check_frame)
        elif prefix == "mark/":
            _judged(store, info, found, _check_mark)
        elif prefix == "lease/":
            _judged(store, info, found, check_lease)
        else:
            found.leftovers.append(info.key)


def _judged(
    store: Store, info: ObjectInfo, found: Findings, check: Callable[[str, bytes], object]
) -> None:
    data = found.get(store, info.key)
    if data is None:
        return
    try:
        check(info.key, data)
    except Corrupt as error:
        found.damage(info.key, _reason(error))


def _check_frame(key: str, data: bytes) -> None:
    verify_object(key, data, data[8:12])


def _check_mark(key: str, data: bytes) -> None:
    mark = check_mark(key, data)
    try:
        Lsn.of_position(mark.position)
    except ValueError:
        raise CorruptObject(key, f"Its position is {mark.position!r}.") from None


def _reason(error: PitrError) -> str:
    return error.detail or error.message
