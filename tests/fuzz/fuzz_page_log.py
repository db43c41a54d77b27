"""Commit segments and page maps. The input: kind, then the open form of the object."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pitr.archive.object import ObjectReader
from pitr.errors import PitrError
from pitr.sqlite.pagelog import pagemap, segment
from pitr.sqlite.pagelog.dump import describe_object
from pitr.sqlite.pagelog.pagemap import CurrentPages, PageMap
from pitr.sqlite.pagelog.segment import SegmentIndex
from pitr.sqlite.pagelog.verify import check_chain, checked_segment
from tests.fuzz import samples
from tests.fuzz.sealing import assemble, open_form, sections

_KINDS = (segment.KIND, pagemap.KIND)


def seeds() -> Iterator[bytes]:
    """Yield segments and a map."""
    for number, kind in enumerate(_KINDS):
        yield from (bytes([number]) + open_form(one) for one in samples.of_kind(kind).values())


def fuzz(data: bytes) -> None:
    """Read the index, every image, the chain; and follow the pages as capture does."""
    number = (data[0] if data else 0) % len(_KINDS)
    parts = sections(data[1:])
    plain = [0, 5] if number == 0 else [2_000_000]
    sealed = assemble(_KINDS[number], parts, plain=plain)
    describe_object(sealed)
    with contextlib.suppress(PitrError):
        _segment(sealed) if number == 0 else _map(sealed)


def _segment(sealed: bytes) -> None:
    reader = ObjectReader.of_bytes("log/fuzzed", sealed, segment.KIND)
    index = SegmentIndex(reader)
    current = CurrentPages(index.page_size)
    for ordinal in range(len(index.records) or 1):
        current.apply(index, ordinal)
        index.find(index.commit_at(ordinal), 2)
    for entry in range(len(index.numbers)):
        index.commit_of(entry)
    if index.part == 0 and not index.continued:
        check_chain([index])
    checked_segment("log/fuzzed", sealed)


def _map(sealed: bytes) -> None:
    found = PageMap(ObjectReader.of_bytes("map/fuzzed", sealed, pagemap.KIND))
    for page in (1, 2, found.page_count, found.page_count + 1):
        if page > 0:
            found.commit_of(page)
    pagemap.encode_map(found.load())
