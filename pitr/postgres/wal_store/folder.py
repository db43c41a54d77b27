"""WAL in a plain folder, as archive_command, pg_receivewal or a copy of pg_wal leaves it.

Segments are plain, `.gz` or `.zst`; `.partial` marks one that was never finished. Names of other
forms are passed over. Nothing is written.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pitr.errors import Corrupt, CorruptWal, PreconditionFailed
from pitr.postgres.wal.history import HistoryEntry, parse_history
from pitr.postgres.wal.page import (
    LONG_HEADER_BYTES,
    PAGE_BYTES,
    SegmentHeader,
    decode_page_header,
    decode_segment_header,
)
from pitr.postgres.wal.segment_name import SEGMENT_BYTES_MAX, SegmentName
from pitr.postgres.wal_store.spans import WalSpan, WalSpans, no_wal
from pitr.unpacked import SUFFIXES, UNPACKING_ERRORS, unpacked
from pitr.vocabulary.position import Lsn

_SEGMENT = re.compile(r"([0-9A-F]{24})(\.partial)?(\.gz|\.zst)?")
_HISTORY = re.compile(r"([0-9A-F]{8})\.history(\.gz|\.zst)?")
# Compressed segments are unpacked whole; a reader that goes forward needs one, two at a boundary.
_UNPACKED_MAX = 4
_PART_BYTES = 4 << 20


class WalFolder:
    """The WAL files of one folder. An ArchivedWal; safe to use from several threads at once."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is read before the first question."""
        self._folder = folder
        self._lock = threading.Lock()
        self._header: SegmentHeader | None = None
        self._spans: WalSpans | None = None
        self._unpacked: OrderedDict[str, bytes] = OrderedDict()
        self.bytes_read = 0

    @property
    def segment_bytes(self) -> int:
        """Return the size of a WAL segment. Raises ArchiveLacks when there is no WAL."""
        return self._needed_header().segment_bytes

    @property
    def major(self) -> int:
        """Return the major version of the server that wrote it. Raises ArchiveLacks."""
        return self._needed_header().version.major

    @property
    def system_identifier(self) -> str:
        """Return the cluster's system identifier. Raises ArchiveLacks."""
        return str(self._needed_header().system_identifier)

    def refresh(self) -> None:
        """Look at the folder again.

        Raises PreconditionFailed when it cannot be read; CorruptWal when its segments are of
        several clusters or of several sizes.
        """
        try:
            names = sorted(path.name for path in self._folder.iterdir())
        except OSError as error:
            raise PreconditionFailed(
                f"cannot read the folder of WAL segments: {self._folder}",
                detail=f"{error.strerror}.",
                hint="Name a folder that this user may read.",
            ) from None
        histories = dict(self._read_histories(names))
        self._spans = WalSpans(list(self._read_spans(names)), histories)

    def timelines(self) -> list[int]:
        """Return the timelines that have WAL or a `.history` file, ascending."""
        return self.spans.timelines()

    def history(self, timeline: int) -> tuple[HistoryEntry, ...]:
        """Return the ancestors of a timeline, oldest first; none for one without `.history`."""
        return self.spans.history(timeline)

    def ranges(self, timeline: int) -> list[tuple[Lsn, Lsn]]:
        """Return the stretches of WAL that `read` can serve, ascending."""
        return self.spans.ranges(timeline)

    def read(self, timeline: int, begin: Lsn, end: Lsn) -> bytes:
        """Return the WAL bytes [begin, end) of a timeline.

        Raises ArchiveGap naming the first stretch that is missing; CorruptWal for a file that
        is not what its name says.
        """
        parts = []
        for span, low, high in self.spans.pieces(timeline, begin, end):
            segment_begin = low - low % self.segment_bytes
            parts.append(self._read_file(span.name, low - segment_begin, high - segment_begin))
        return b"".join(parts)

    @property
    def spans(self) -> WalSpans:
        """Return what is there, as of the last look."""
        if self._spans is None:
            self.refresh()
        assert self._spans is not None
        return self._spans

    def _needed_header(self) -> SegmentHeader:
        if self._header is None:
            self.refresh()
        if self._header is None:
            raise no_wal(str(self._folder))
        return self._header

    def _read_histories(self, names: list[str]) -> Iterator[tuple[int, tuple[HistoryEntry, ...]]]:
        for name in names:
            match = _HISTORY.fullmatch(name)
            if match:
                timeline = int(match[1], 16)
                yield timeline, parse_history(timeline, self._whole(name))

    def _read_spans(self, names: list[str]) -> Iterator[WalSpan]:
        found = list(self._read_headers(names))
        newest = {match[1][:8]: match[1] for match, _ in found}
        for match, header in found:
            end = header.begin + header.segment_bytes
            # Only the newest file of a timeline can be one that the server is still filling.
            if match[2] or match[1] == newest[match[1][:8]]:
                end = self._filled_end(match[0], header)
            stat = (self._folder / match[0]).stat()
            timeline = int(match[1][:8], 16)
            stored_us = stat.st_mtime_ns // 1000
            yield WalSpan(header.begin, end, timeline, match[0], stat.st_size, stored_us)

    def _read_headers(self, names: list[str]) -> Iterator[tuple[re.Match[str], SegmentHeader]]:
        """Yield the files that hold the segment that their name says."""
        for match in filter(None, map(_SEGMENT.fullmatch, names)):
            head = self._head(match[0])
            if not any(head):
                continue  # made by the server in advance, never written
            header = self._decode(match[0], head)
            self._require_same_source(match[0], header)
            # With another address it is one that the server keeps for a segment to come.
            if header.begin == _begin_of(match[1], header.segment_bytes):
                yield match, header

    def _decode(self, name: str, head: bytes) -> SegmentHeader:
        try:
            return decode_segment_header(head)
        except Corrupt as error:
            raise CorruptWal(
                f"WAL file is damaged: {self._folder / name}",
                detail=f"Its beginning: {error.message}. {error.detail}",
                hint="Copy it again from where it came from.",
            ) from None

    def _require_same_source(self, name: str, header: SegmentHeader) -> None:
        first = self._header = self._header or header
        if (header.system_identifier, header.segment_bytes) != (
            first.system_identifier,
            first.segment_bytes,
        ):
            raise CorruptWal(
                f"the folder holds WAL of two clusters: {self._folder}",
                detail=f"{name} is of cluster {header.system_identifier} with segments of "
                f"{header.segment_bytes} bytes, others are of {first.system_identifier} with "
                f"{first.segment_bytes}.",
                hint="Keep the WAL of each cluster in a folder of its own.",
            )

    def _filled_end(self, name: str, header: SegmentHeader) -> int:
        """Return the LSN after the last page that was written in this pass over the file.

        Pages are written in order, so the first with another address ends what is there. Its last
        record may be cut short.
        """
        data = self._whole(name)

        def is_unfilled(page: int) -> bool:
            found = decode_page_header(data, page * PAGE_BYTES)
            return found.address != header.begin + page * PAGE_BYTES

        pages = range(len(data) // PAGE_BYTES)
        return header.begin + bisect_left(pages, True, key=is_unfilled) * PAGE_BYTES

    def _read_file(self, name: str, begin: int, end: int) -> bytes:
        if name.endswith(SUFFIXES):
            data = self._unpacked_file(name)[begin:end]
        else:
            with (self._folder / name).open("rb") as file:
                file.seek(begin)
                data = file.read(end - begin)
            self.bytes_read += len(data)
        if len(data) != end - begin:
            raise CorruptWal(
                f"WAL file is cut short: {self._folder / name}",
                detail=f"Bytes {begin} to {end} are asked for; it ends before.",
            )
        return data

    def _unpacked_file(self, name: str) -> bytes:
        with self._lock:
            found = self._unpacked.get(name)
            if found is None:
                found = self._unpacked[name] = self._whole(name)
                if len(self._unpacked) > _UNPACKED_MAX:
                    self._unpacked.popitem(last=False)
            self._unpacked.move_to_end(name)
            return found

    def _head(self, name: str) -> bytes:
        with self._open(name) as file:
            return file.read(LONG_HEADER_BYTES)

    def _whole(self, name: str) -> bytes:
        parts: list[bytes] = []
        left = SEGMENT_BYTES_MAX
        with self._open(name) as file:
            # A small packed file can unpack to any size: stop where no WAL file can go on.
            while left >= 0 and (part := file.read(_PART_BYTES)):
                parts.append(part)
                left -= len(part)
        if left < 0:
            raise CorruptWal(
                f"WAL file is damaged: {self._folder / name}",
                detail=f"It holds more than {SEGMENT_BYTES_MAX >> 20} MiB, the largest segment.",
            )
        data = b"".join(parts)
        self.bytes_read += (self._folder / name).stat().st_size
        return data

    @contextmanager
    def _open(self, name: str) -> Iterator[BinaryIO]:
        """Open a file for reading what it holds unpacked."""
        path = self._folder / name
        try:
            with unpacked(path) as file:
                yield file
        except UNPACKING_ERRORS as error:
            raise CorruptWal(
                f"WAL file is damaged: {path}",
                detail=f"It does not unpack: {error}.",
                hint="Copy it again from where it came from.",
            ) from None
        except OSError as error:
            raise PreconditionFailed(
                f"cannot read the WAL file: {path}", detail=f"{error.strerror}."
            ) from None


def _begin_of(name: str, segment_bytes: int) -> int | None:
    try:
        return SegmentName.parse(name, segment_bytes).begin
    except ValueError:
        return None  # no segment of this size has such a name
