"""Packs and manifests: round trips, and bytes that contradict themselves."""

from __future__ import annotations

import random
from array import array

import pytest

from pitr.archive.object import ObjectReader
from pitr.errors import CorruptObject, PreconditionFailed
from pitr.postgres.base.contents import CHUNK_BYTES, BaseFile, BaseInfo, DamagedBlocks, Tablespace
from pitr.postgres.base.object import (
    BASE_KIND,
    FIRST_OFFSET,
    NO_PACK,
    BaseManifest,
    ChunkPlace,
    ChunkTable,
    chunk_digest,
    chunk_seed,
    encode_base,
    encode_pack,
    pack_reader,
    read_pack_directory,
)

FRAMES = [b"first", b"", b"the third"]
DIGESTS = b"".join(bytes([n]) * 16 for n in range(3))


def info(base_id: str = "20261128T140000Z.00000001.0000000002000100") -> BaseInfo:
    """Return what a manifest says of the whole."""
    return BaseInfo(
        id=base_id,
        system_identifier="7713215933965017619",
        server_version=150018,
        timeline=1,
        start_lsn="0/2000028",
        end_lsn="0/2000100",
        started_us=1,
        time_us=2,
        label="pitr base backup",
        superuser="postgres",
        from_standby=False,
        block_size=8192,
        wal_segment_bytes=16 << 20,
        data_checksums=True,
        judged_pages=True,
        settings={"max_connections": "100"},
        tablespaces=(Tablespace(16385, "/srv/space"),),
        damaged=(DamagedBlocks("base/5/16384", 3, 5),),
        raw_bytes=10,
        stored_bytes=5,
        bytes=5,
    )


def manifest(data: bytes, key: str) -> BaseManifest:
    """Open a manifest that is in memory."""
    return BaseManifest(ObjectReader.of_bytes(key, data, BASE_KIND))


def test_pack_gives_back_its_directory() -> None:
    """Digests, places and raw lengths come back in order, and the key is made of the bytes."""
    lengths = array("I", [5, 50, 0, 0, 9, 90])
    key, data = encode_pack(FRAMES, DIGESTS, lengths)
    entries = list(read_pack_directory(pack_reader(key, data)))

    assert encode_pack(FRAMES, DIGESTS, lengths) == (key, data)
    assert encode_pack([b"First", *FRAMES[1:]], DIGESTS, lengths)[0] != key
    assert [data[e.offset : e.offset + e.stored] for e in entries] == FRAMES
    assert [e.digest for e in entries] == [DIGESTS[n * 16 : n * 16 + 16] for n in range(3)]
    assert [e.raw for e in entries] == [50, 0, 90]
    assert entries[0].offset == FIRST_OFFSET


@pytest.mark.parametrize("lengths", [[5, 50, 0, 0], [5, 50, 0, 0, 8, 90], [5, 50, 0, 0, 10, 90]])
def test_pack_whose_lengths_contradict_it_is_refused(lengths: list[int]) -> None:
    """A directory that does not fill its pack exactly leads nowhere."""
    key, data = encode_pack(FRAMES, DIGESTS, array("I", lengths))

    with pytest.raises(CorruptObject):
        list(read_pack_directory(pack_reader(key, data)))


def test_manifest_gives_back_files_and_places() -> None:
    """Everything comes back, also across the blocks of references."""
    made = info()
    files = [
        BaseFile("base", 0, 0o700, 5, is_folder=True),
        BaseFile("base/5/16384", 5000 * CHUNK_BYTES + 1, 0o600, -7),
        BaseFile("odd \udcff name", CHUNK_BYTES, 0o640, 1 << 33),
        BaseFile("empty", 0, 0o600, 0),
    ]
    table = ChunkTable()
    places = [ChunkPlace(n % 3, n * 100, n, n.to_bytes(16, "big")) for n in range(5001)] + [
        ChunkPlace(NO_PACK, 0, 0, bytes(16))
    ]
    for place in places:
        table.append(place)
    packs = [f"pack/{n:032x}" for n in range(3)]
    found = manifest(encode_base(made, files, packs, table), f"base/{made.id}")

    assert found.info == made
    assert list(found.files().values()) == [
        (files[0], 0),
        (files[1], 0),
        (files[2], 5001),
        (files[3], 5002),
    ]
    assert found.packs() == packs
    assert found.places(0, 5002) == places
    assert found.places(4090, 4100) == places[4090:4100]
    with pytest.raises(CorruptObject):
        found.places(5000, 5003)


def test_manifest_under_another_name_is_refused() -> None:
    """An object that says it is another base cannot be taken for this one."""
    data = encode_base(info(), [], [], ChunkTable())

    with pytest.raises(CorruptObject):
        manifest(data, "base/20261128T140000Z.00000001.0000000002000200")


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a//b", "a/./b", ".."])
def test_path_that_leads_outside_is_refused(path: str) -> None:
    """No name in a manifest can make an export write outside its folder."""
    data = encode_base(info(), [BaseFile(path, 0, 0o600, 0)], [], ChunkTable())

    with pytest.raises(CorruptObject):
        manifest(data, f"base/{info().id}").files()


def test_newer_format_is_refused() -> None:
    """A manifest of a later version is not guessed at: exit 3."""
    data = bytearray(encode_base(info(), [], [], ChunkTable()))
    data[12] = 2

    with pytest.raises(PreconditionFailed) as caught:
        manifest(bytes(data), f"base/{info().id}")
    assert caught.value.exit_code == 3


def test_damaged_manifest_is_never_read_as_another() -> None:
    """Whatever byte of a manifest changes, reading all of it is refused or gives the same."""
    made = info()
    table = ChunkTable()
    table.append(ChunkPlace(0, 16, 5, b"d" * 16))
    files = [BaseFile("base/5/16384", 100, 0o600, 5)]
    data = encode_base(made, files, [f"pack/{1:032x}"], table)
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    choose = random.Random(seed)
    for _ in range(200):
        damaged = bytearray(data)
        damaged[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
        try:
            found = manifest(bytes(damaged), f"base/{made.id}")
            read = (found.info, found.files(), found.packs(), found.places(0, 1))
        except (CorruptObject, PreconditionFailed):
            continue
        assert read == (
            made,
            {"base/5/16384": (files[0], 0)},
            [f"pack/{1:032x}"],
            [ChunkPlace(0, 16, 5, b"d" * 16)],
        )


def test_digests_differ_between_archives() -> None:
    """Every archive has a seed of its own: equal digests cannot be prepared for all of them."""
    one, other = chunk_seed("a"), chunk_seed("b")

    assert chunk_digest(b"rows", one) == chunk_digest(bytearray(b"rows"), one)
    assert chunk_digest(b"rows", one) != chunk_digest(b"rows", other)
