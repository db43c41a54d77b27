from typing_extensions import Buffer

def wal_checksum(data: Buffer, s0: int, s1: int, big_endian: bool, /) -> tuple[int, int]: ...
def verify_frames(
    buffer: Buffer,
    page_size: int,
    salt1: int,
    salt2: int,
    s0: int,
    s1: int,
    big_endian: bool,
    /,
) -> tuple[int, int, int]: ...
def scan_wal(
    data: Buffer,
    lsn: int,
    position: int,
    prev: int,
    timeline: int,
    begin: int,
    carry: Buffer,
    segment_bytes: int,
    magic: int,
    image_apply: int,
    image_compressed: int,
    custom_rmgrs: bool,
    toplevel_xid: bool,
    system_identifier: int,
    stop: int,
    /,
) -> tuple[
    int,
    int,
    int,
    int,
    int,
    bytes,
    tuple[bytes, ...],
    tuple[bytes, ...],
    tuple[bytes, ...],
]: ...
def delta_encode(column: Buffer, width: int, /) -> bytes: ...
def delta_decode(data: Buffer, width: int, count: int, /) -> bytes: ...
def sort_rows(high: Buffer, low: Buffer, /) -> bytes: ...
def take_rows(column: Buffer, width: int, order: Buffer, /) -> bytes: ...
def damaged_pages(
    data: Buffer, page_size: int, first_block: int, judged_below: int, /
) -> list[int]: ...
def column_bounds(column: Buffer, width: int, /) -> tuple[int, int]: ...
