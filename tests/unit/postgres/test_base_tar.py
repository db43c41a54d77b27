"""The reader of tar streams, held to Python's own tarfile as the writer."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.errors import Corrupt
from pitr.postgres.base.tar import Member, MemberKind, TarStream, read_header

FILES = st.lists(st.binary(max_size=1500), max_size=5)


def archive(contents: list[bytes], *, with_end: bool = True) -> bytes:
    """Return a tar archive as PostgreSQL writes it: ustar, folders among the files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        folder = tarfile.TarInfo("base/1")
        folder.type = tarfile.DIRTYPE
        folder.mode = 0o700
        tar.addfile(folder)
        for number, content in enumerate(contents):
            entry = tarfile.TarInfo(f"base/1/{number}")
            entry.size, entry.mtime, entry.mode = len(content), 1_700_000_000 + number, 0o600
            tar.addfile(entry, io.BytesIO(content))
        length = tar.offset
    # tarfile pads to 10 kB; PostgreSQL ends with two blocks of zeros, before 15 with nothing.
    return buffer.getvalue()[: length + 1024] if with_end else buffer.getvalue()[:length]


def read(data: bytes, cuts: list[int]) -> list[tuple[Member, bytes]]:
    """Feed an archive in pieces of these sizes, again and again; return members with contents."""
    stream = TarStream()
    found: list[tuple[Member, bytearray]] = []
    at = turn = 0
    while at < len(data):
        size = cuts[turn % len(cuts)]
        for part in stream.feed(data[at : at + size]):
            if isinstance(part, Member):
                found.append((part, bytearray()))
            else:
                found[-1][1].extend(part)
        at += size
        turn += 1
    stream.end()
    return [(member, bytes(content)) for member, content in found]


@given(contents=FILES, cuts=st.lists(st.integers(1, 2000), min_size=1), with_end=st.booleans())
def test_stream_cut_anywhere_gives_every_member(
    contents: list[bytes], cuts: list[int], with_end: bool
) -> None:
    """Members and contents come out whole wherever the stream is cut, with an end mark or not."""
    (folder, nothing), *files = read(archive(contents, with_end=with_end), cuts)

    assert (folder.path, folder.kind, folder.mode, nothing) == (
        "base/1",
        MemberKind.FOLDER,
        0o700,
        b"",
    )
    assert [content for _, content in files] == contents
    assert [member.path for member, _ in files] == [f"base/1/{n}" for n in range(len(contents))]
    assert [member.modified_s for member, _ in files] == [
        1_700_000_000 + n for n in range(len(contents))
    ]


def test_header_of_a_huge_file_is_read_in_base_256() -> None:
    """A size beyond 8 GiB does not fit into octal digits; PostgreSQL and GNU tar write base 256."""
    entry = tarfile.TarInfo("pg_stat/huge")
    entry.size = 9 << 30
    block = entry.tobuf(format=tarfile.GNU_FORMAT)
    # PostgreSQL's magic is ustar's, also there.
    plain = bytearray(block)
    plain[257:265] = b"ustar\x0000"
    plain[148:156] = b" " * 8
    plain[148:156] = b"%06o\0 " % sum(plain)

    assert read_header(bytes(plain)).size == 9 << 30


def test_link_is_told_with_where_it_leads() -> None:
    """A tablespace's symbolic link has no content, whatever its size field says."""
    entry = tarfile.TarInfo("pg_tblspc/16385")
    entry.type = tarfile.SYMTYPE
    entry.linkname = "/srv/space"
    member = read_header(entry.tobuf(format=tarfile.USTAR_FORMAT))

    assert (member.kind, member.link, member.size) == (MemberKind.LINK, "/srv/space", 0)


@pytest.mark.parametrize("offset", [0, 100, 130, 150, 257, 400])
def test_damaged_header_is_refused(offset: int) -> None:
    """A byte that changed anywhere in a header contradicts its checksum."""
    data = bytearray(archive([b"x"]))
    data[512 + offset] ^= 0x55

    with pytest.raises(Corrupt):
        read(bytes(data), [10_000])


def test_archive_that_is_cut_short_is_refused() -> None:
    """An end in the middle of a member is none."""
    data = archive([b"x" * 2000])

    for size in (512 + 100, 1024 + 100, 1024 + 2000):
        with pytest.raises(Corrupt):
            read(data[:size], [700])


def test_archive_that_goes_on_after_its_end_is_refused() -> None:
    """A member after the blocks of zeros would be lost by other readers."""
    with pytest.raises(Corrupt):
        read(archive([b"x"]) + archive([b"y"]), [4096])
