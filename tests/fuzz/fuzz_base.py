"""Manifests and packs of base backups. The input: kind, then the open form of the object."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from pitr.archive.object import ObjectReader
from pitr.errors import PitrError
from pitr.postgres.base.archive import ArchivedBase
from pitr.postgres.base.object import (
    BASE_KIND,
    BASE_PREFIX,
    PACK_KIND,
    BaseManifest,
    pack_reader,
    read_pack_directory,
)
from pitr.postgres.verification.description import describe_object
from tests.fuzz import samples
from tests.fuzz.sealing import assemble, open_form, sections
from tests.memory_store import MemoryStore

_BYTES_MAX = 1 << 26


def seeds() -> Iterator[bytes]:
    """Yield a manifest and its pack."""
    for number, kind in enumerate((BASE_KIND, PACK_KIND)):
        yield from (bytes([number]) + open_form(one) for one in samples.of_kind(kind).values())


def fuzz(data: bytes) -> None:
    """Read whatever the manifest names, as a restore does; or the directory of the pack."""
    parts = sections(data[1:])
    is_pack = bool(data[:1] > b"\0")
    kind = PACK_KIND if is_pack else BASE_KIND
    plain = [0, 1] if is_pack else [3, *range(2_000_000, 2_000_010)]
    sealed = assemble(kind, parts, plain=plain)
    describe_object(sealed)
    with contextlib.suppress(PitrError):
        _read_pack(sealed) if is_pack else _read_base(_id(parts.get(0, b"")), sealed)


def _read_pack(sealed: bytes) -> None:
    list(read_pack_directory(pack_reader("pack/fuzzed", sealed)))


def _read_base(base_id: str, sealed: bytes) -> None:
    manifest = BaseManifest(ObjectReader.of_bytes(BASE_PREFIX + base_id, sealed, BASE_KIND))
    store = MemoryStore()
    for key, pack in samples.of_kind(PACK_KIND).items():
        store.put_new(key, pack)
    base = ArchivedBase(store, manifest, 7)
    for path, file in base.files().items():
        if file.size <= _BYTES_MAX:
            base.read_file(path)


def _id(head: bytes) -> str:
    try:
        return str(msgspec.json.decode(head, type=dict)["id"])
    except (ValueError, KeyError, RecursionError):
        return "none"
