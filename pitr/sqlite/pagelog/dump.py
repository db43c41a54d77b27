"""Describe one archive object in lines of text, for `pitr debug object FILE`.

Says what the bytes say, also when they contradict each other: a dump is asked for when something
is wrong. The layouts are in docs/formats/archive.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from pitr.archive.description import DescribeBody, describe, describe_documents, utc_text
from pitr.archive.object import ObjectReader
from pitr.sqlite.pagelog import pagemap, segment
from pitr.sqlite.pagelog.pagemap import PageMap
from pitr.sqlite.pagelog.segment import CommitRecord, SegmentIndex
from pitr.sqlite.pagelog.verify import check_chain

_PAGES_A_LINE = 8


def describe_object(data: bytes) -> list[str]:
    """Return what the bytes of an object hold, a line each; damage is described, never raised."""
    return describe(data, _BODIES.get(data[8:12], describe_documents))


def _segment(reader: ObjectReader) -> Iterator[str]:
    index = SegmentIndex(reader)
    yield f"commits      {index.first} to {index.last}"
    if index.part or index.continued:
        yield f"part         {index.part}{', more follow' if index.continued else ', the last'}"
    yield f"page size    {index.page_size}"
    yield f"lease        {index.lease}{', ' if index.note else ''}{index.note}"
    yield f"chain before {index.chain_before.hex()}"
    yield f"chain after  {index.chain_after.hex()}"
    for ordinal in range(len(index.records) or 1):
        if index.records:
            yield from _record(index.records[ordinal])
        yield from _pages(index, ordinal)
    if index.part == 0 and not index.continued:
        check_chain([index])
        yield "chain        matches the pages"


def _record(record: CommitRecord) -> Iterator[str]:
    covered = f" (from {record.first_covered})" if record.first_covered < record.number else ""
    yield f"commit       {record.number}{covered}, {record.kind.name}, fork {record.fork}"
    begin, end = utc_text(record.time_begin_us), utc_text(record.time_end_us)
    yield f"  time       after {begin}, until {end}"
    yield f"  database   {record.page_count} pages, change counter {record.change_counter}"
    if mark := record.wal:
        yield (
            f"  WAL        frame {mark.frame}, salts {mark.salt1:08x} {mark.salt2:08x}, "
            f"checksum {mark.checksum1:08x} {mark.checksum2:08x}"
        )
    yield f"  chain      {record.chain.hex()}"


def _pages(index: SegmentIndex, ordinal: int) -> Iterator[str]:
    entries = index.entries_of(ordinal)
    stored = index.offsets[entries.stop] - index.offsets[entries.start]
    yield f"  pages      {len(entries)} in {stored} bytes: number @offset+length"
    for begin in range(entries.start, entries.stop, _PAGES_A_LINE):
        line = range(begin, min(begin + _PAGES_A_LINE, entries.stop))
        yield "    " + "  ".join(
            f"{index.numbers[entry]} @{index.offsets[entry]}+{index.lengths[entry]}"
            for entry in line
        )


def _map(reader: ObjectReader) -> Iterator[str]:
    stored = PageMap(reader)
    yield f"commit       {stored.commit}"
    yield f"chain        {stored.chain.hex()}"
    yield f"database     {stored.page_count} pages of {stored.page_size} bytes"
    commits = stored.load().commits
    begin = 0
    for at in range(1, len(commits) + 1):
        if at == len(commits) or commits[at] != commits[begin]:
            pages = f"{begin + 1}" if at - begin == 1 else f"{begin + 1} to {at}"
            writer = f"written by commit {commits[begin]}" if commits[begin] else "never written"
            yield f"  pages      {pages}: {writer}"
            begin = at


_BODIES: dict[bytes, DescribeBody] = {segment.KIND: _segment, pagemap.KIND: _map}
