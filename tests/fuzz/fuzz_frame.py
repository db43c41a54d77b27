"""The frame around every archive object, and the two describers, which read objects of any kind."""

from __future__ import annotations

from collections.abc import Iterator

from pitr.archive.object import ObjectReader, verify_object, verify_stored
from pitr.errors import PitrError
from pitr.postgres.verification.description import describe_object as describe_postgres
from pitr.sqlite.pagelog.dump import describe_object as describe_sqlite
from tests.fuzz import samples
from tests.fuzz.sealing import reseal, stored

_KEY = "log/of/a/fuzzer"


def seeds() -> Iterator[bytes]:
    """Yield an object of every kind."""
    yield from samples.objects().values()


def fuzz(data: bytes) -> None:
    """Read a damaged object whose checksums are right, and one whose checksums are not."""
    for given in (data, reseal(data)):
        describe_postgres(given)
        describe_sqlite(given)
        _read(given)


def _read(data: bytes) -> None:
    kind = data[8:12]
    try:
        verify_object(_KEY, data, kind)
        verify_stored(stored(_KEY, data), _KEY, len(data))
    except PitrError:
        pass
    try:
        reader = ObjectReader(stored(_KEY, data), _KEY, len(data), kind)
    except PitrError:
        return
    for entry in reader.entries:
        try:
            reader.section(entry.id)
        except PitrError:
            continue
