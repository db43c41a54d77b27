"""Read every object of the index again and check it; what is damaged can be made anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from pitr.archive.store import Store
from pitr.errors import CorruptObject, ObjectMissing
from pitr.postgres.index.file import files_in, is_system, rows_of_file
from pitr.postgres.index.fingerprint import NOTHING, Fingerprint, fingerprint_of
from pitr.postgres.index.name import PREFIX, IndexObject
from pitr.postgres.index.reading import IndexFile


@dataclass(frozen=True, slots=True)
class CheckedIndex:
    """One object that was read, and what is wrong with it, None for nothing.

    `fingerprint` is that of all its rows, to be held against what the WAL itself gives.
    """

    object: IndexObject
    fault: str | None
    fingerprint: Fingerprint = NOTHING


def verify_index(store: Store) -> Iterator[CheckedIndex]:
    """Yield every object of the index, its checksums, its order and its neighbour compared.

    Nothing is lost with a damaged one: delete it, and `complete_index` makes it anew from the WAL,
    segment by segment. What is deleted meanwhile is passed over. Raises StoreUnusable.
    """
    before: IndexFile | None = None
    for info in store.list(PREFIX):
        item = IndexObject.of(info)
        if item is None:
            continue
        try:
            file = IndexFile(store, item)
            fingerprint = _check(file)
            yield CheckedIndex(item, _joint_fault(before, file), fingerprint)
            before = file
        except CorruptObject as error:
            yield CheckedIndex(item, error.reason)
        except ObjectMissing:
            continue  # replaced by a larger object


def _check(file: IndexFile) -> Fingerprint:
    """Read every page, and see that rows stand in the order that questions rest on."""
    if not file.has_magic():
        raise CorruptObject(file.object.key, "It does not begin as a Parquet file does.")
    found = Fingerprint()
    for group in file.groups:
        rows = file.read(group, is_strict=True)
        runs = [rows] if is_system(group) else [rows_of_file(rows, f) for f in files_in(rows)]
        if sum(map(len, runs)) != len(rows):
            raise CorruptObject(file.object.key, "Its rows are not sorted by relation file.")
        if any(a > b for run in runs for a, b in pairwise(run["lsn"])):
            raise CorruptObject(file.object.key, "The rows of a relation file are not in order.")
        found = found.plus(fingerprint_of(rows))
    return found


def _joint_fault(before: IndexFile | None, file: IndexFile) -> str | None:
    """Return what is wrong between an object and the one that ends where it begins."""
    if before is None or before.object.timeline != file.object.timeline:
        return None
    first = min((group.chunks["lsn"].least for group in file.groups), default=None)
    if first is None or before.object.end != file.object.begin:
        return None
    wanted = before.stretch.next_lsn
    # A record cannot begin in a page header, so the next one may begin a little later.
    if wanted <= first <= wanted + 64:
        return None
    return f"Its first record is at {first:X}, and the object before it leads to {wanted:X}."
