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
