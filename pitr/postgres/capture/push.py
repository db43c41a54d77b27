"""Archive one file of pg_wal: what archive_command does with each, in its own process.

A segment becomes the very object that a capture stores, so both may be at work. When this returns,
the file survives a power loss of the machine that asked; when it raises, PostgreSQL keeps the file
and asks again.
"""

from __future__ import annotations

from bisect import bisect_left
from contextlib import suppress
from pathlib import Path

from pitr.archive.archive import Identity
from pitr.archive.store import ObjectExists, Store, find_object
from pitr.errors import (
    Corrupt,
    CorruptObject,
    CorruptWal,
    PitrError,
    PreconditionFailed,
    UsageError,
)
from pitr.postgres.capture.cluster import require_same_cluster
from pitr.postgres.index.segment import index_segment
from pitr.postgres.wal.end import LogEnd
from pitr.postgres.wal.history import parse_history
from pitr.postgres.wal.page import (
    PAGE_BYTES,
    SegmentHeader,
    decode_page_header,
    decode_segment_header,
)
from pitr.postgres.wal.scan import ScanState, scan
from pitr.postgres.wal.segment_name import (
    SegmentName,
    is_backup_name,
    is_partial_name,
    is_segment_name,
    timeline_of_history,
)
from pitr.postgres.wal_store.object import WalHead, WalObject, encode_wal, is_same_content
from pitr.postgres.wal_store.text import backup_history_key, history_key, put_text
from pitr.vocabulary.position import Lsn


def push_file(store: Store, identity: Identity, path: Path) -> str:
    """Archive a file of pg_wal durably; return its key. Done before is done.

    Raises UsageError for a name that no such file has; IdentityMismatch and PreconditionFailed for
    another cluster or another size of segments; CorruptWal for a damaged file; CorruptObject when
    the archive holds another file of this name; StoreUnusable.
    """
    name = path.name
    data = _read(path)
    timeline = timeline_of_history(name)
    if timeline is not None:
        parse_history(timeline, data)
        return put_text(store, history_key(timeline), data)
    if is_backup_name(name):
        return put_text(store, backup_history_key(name), data)
    if not is_segment_name(name) and not is_partial_name(name):
        raise UsageError(
            f"not the name of a WAL file: {name}",
            detail="A segment has 24 hex digits; .partial, .history and .backup files are known.",
            hint="Set archive_command = 'pitr wal-push --config FILE %p'.",
        )
    return _push_segment(store, identity, path, data)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PreconditionFailed(
            f"cannot read the WAL file: {path}",
            detail=f"{error.strerror}.",
            hint="A relative path counts from the data directory, where archive_command runs.",
        ) from None


def _push_segment(store: Store, identity: Identity, path: Path, data: bytes) -> str:
    header = _decode(path, data)
    require_same_cluster(store, identity, str(header.system_identifier))
    segment = _name(path, header)
    _require_same_size(store, segment)
    if len(data) != header.segment_bytes:
        raise _damaged(path, f"It has {len(data)} bytes, a segment {header.segment_bytes}.")
    end = _filled(data, header) if is_partial_name(path.name) else len(data)
    _verify(path, memoryview(data)[:end], header)
    head = WalHead(
        timeline=segment.timeline,
        segment=segment.number,
        segment_bytes=header.segment_bytes,
        begin=0,
        end=end,
        system_identifier=str(header.system_identifier),
        page_magic=header.version.magic,
    )
    stored = encode_wal(head, memoryview(data)[:end])
    try:
        store.put_new(head.key, stored)
    except ObjectExists:
        if not is_same_content(head.key, store.get(head.key), stored):
            raise CorruptObject(
                head.key,
                f"The archive has another segment of this name than {path}.",
                hint="Two servers write one timeline, or this one was restored. Begin a new archive"
                " with 'pitr init' for the server that goes on.",
            ) from None
    else:
        if head.is_whole:
            _index(store, segment, data, header)
    return head.key


def _index(store: Store, segment: SegmentName, data: bytes, header: SegmentHeader) -> None:
    """Store the segment's index too, so that an archive without a capture has one.

    Only where the segment before is archived: it tells which record goes on in this one. What
    cannot be made here, `pitr backup` and captures make later; nothing is lost without it.
    """
    if not segment.number:
        return
    before = segment.previous
    key = f"wal/{before.timeline:08X}/{before}"
    size, version = header.segment_bytes, header.version
    with suppress(PitrError, ObjectExists):
        info = find_object(store, key)
        if info is None:
            return
        raw = WalObject(store, key, info.size).read(0, size)
        fresh = ScanState(before.begin)
        state = scan(raw, before.begin, fresh, version=version, segment_bytes=size).state
        if not state.prev and not state.carry:
            return
        at = max(segment.begin, state.position)
        found = scan(
            memoryview(data)[at - segment.begin :], at, state, version=version, segment_bytes=size
        )
        if found.end.is_fault:
            return
        made, stored = index_segment(
            found,
            timeline=segment.timeline,
            begin=segment.begin,
            end=segment.end,
            version=version,
            segment_bytes=size,
        )
        store.put_new(made, stored)


def _decode(path: Path, data: bytes) -> SegmentHeader:
    try:
        return decode_segment_header(data)
    except Corrupt as error:
        raise _damaged(path, f"Its beginning: {error.sentence}") from None


def _name(path: Path, header: SegmentHeader) -> SegmentName:
    text = path.name.removesuffix(".partial")
    try:
        name = SegmentName.parse(text, header.segment_bytes)
    except ValueError:
        raise _damaged(path, f"No segment of {header.segment_bytes} bytes has its name.") from None
    if name.begin != header.begin:
        raise _damaged(path, f"By its first page it begins at {Lsn(header.begin)}.")
    return name


def _require_same_size(store: Store, segment: SegmentName) -> None:
    """Compare with what is archived: the segment before it, or else the first there is."""
    before = f"wal/{segment.timeline:08X}/{segment.previous}" if segment.number else "wal/"
    info = next(iter(store.list(before)), None) or next(iter(store.list("wal/")), None)
    if info is None or info.key.endswith(".backup"):
        return
    size = WalObject(store, info.key, info.size).head.segment_bytes
    if size != segment.segment_bytes:
        raise PreconditionFailed(
            f"the archive at {store.location} holds WAL segments of another size",
            detail=f"There they have {size} bytes, here {segment.segment_bytes}: somebody ran "
            "pg_resetwal.",
            hint="Begin a new archive with 'pitr init', then run 'pitr backup'.",
        )


def _filled(data: bytes, header: SegmentHeader) -> int:
    """Return the end of the last page that was written; pages are written in order."""

    def is_unfilled(page: int) -> bool:
        found = decode_page_header(data, page * PAGE_BYTES)
        return found.address != header.begin + page * PAGE_BYTES

    return bisect_left(range(len(data) // PAGE_BYTES), True, key=is_unfilled) * PAGE_BYTES


def _verify(path: Path, data: memoryview, header: SegmentHeader) -> None:
    """Check every record that begins and ends in a segment, its CRC included."""
    found = scan(
        data,
        header.begin,
        ScanState(header.begin),
        version=header.version,
        segment_bytes=header.segment_bytes,
        system_identifier=header.system_identifier,
    )
    is_partial = is_partial_name(path.name)
    if found.end in (LogEnd.CLEAN, LogEnd.TORN) or is_partial:
        return
    raise _damaged(path, f"At {Lsn(found.state.position)} {found.end.meaning}.")


def _damaged(path: Path, detail: str) -> CorruptWal:
    return CorruptWal(
        f"the WAL file is damaged: {path}",
        detail=detail,
        hint="PostgreSQL keeps it and asks again. If it stays damaged, check the disk, then run "
        "'pitr backup'.",
    )
