"""Identity and marks. Goal: one archive holds one source, and a name always means one moment."""

from __future__ import annotations

import json
import string
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.archive.archive import (
    IDENTITY_KEY,
    Identity,
    create_or_adopt,
    open_archive,
    probe_conditional_put,
    read_mark,
    read_marks,
    write_mark,
)
from pitr.archive.document import encode_document
from pitr.archive.local import LocalStore
from pitr.archive.object import Section, encode_object
from pitr.archive.store import ObjectExists, check_key
from pitr.errors import (
    ArchiveLacks,
    CorruptObject,
    IdentityMismatch,
    NotConfigured,
    PreconditionFailed,
    StoreUnusable,
    UsageError,
)
from tests.memory_store import MemoryStore

SHOP = {"path": "/srv/shop.db"}


class OverwritingStore(MemoryStore):
    """A store that ignores create-if-absent, as some S3 servers do."""

    def put_new(self, key: str, data: bytes) -> None:
        self.put(key, data)


# ---- identity ------------------------------------------------------------------------------------


def test_new_archive_is_created_and_opened(tmp_path: Path) -> None:
    """init makes one object, which says whose archive it is."""
    store = LocalStore(tmp_path / "archive")

    created = create_or_adopt(store, engine="sqlite", identity=SHOP)

    assert open_archive(LocalStore(tmp_path / "archive")) == created
    assert (created.engine, created.source, created.format) == ("sqlite", SHOP, 1)
    assert [info.key for info in store.list()] == [IDENTITY_KEY]


def test_archive_of_the_same_source_is_adopted() -> None:
    """A second init of the same source changes nothing."""
    store = MemoryStore()
    created = create_or_adopt(store, engine="sqlite", identity=SHOP)

    assert create_or_adopt(store, engine="sqlite", identity=dict(SHOP)) == created


@pytest.mark.parametrize(
    ("engine", "source"),
    [("sqlite", {"path": "/srv/other.db"}), ("postgresql", SHOP), ("sqlite", {})],
)
def test_archive_of_another_source_is_refused(engine: str, source: dict[str, str]) -> None:
    """A second source at the same place: exit 3, both are named, nothing is written."""
    store = MemoryStore()
    created = create_or_adopt(store, engine="sqlite", identity=SHOP)

    with pytest.raises(IdentityMismatch) as raised:
        create_or_adopt(store, engine=engine, identity=source)

    assert raised.value.exit_code == 3
    detail = raised.value.detail or ""
    assert "sqlite (path /srv/shop.db)" in detail
    assert f"{engine} (" in detail
    assert all(value in detail for value in source.values())
    assert open_archive(store) == created


def test_sources_that_race_for_a_place_leave_one(tmp_path: Path) -> None:
    """Of eight sources that init the same place at once one has it, and the others know."""

    def contend(number: int) -> Identity | None:
        store = LocalStore(tmp_path)
        try:
            return create_or_adopt(store, engine="sqlite", identity={"path": f"/{number}"})
        except IdentityMismatch:
            return None

    with ThreadPoolExecutor(8) as threads:
        found = [identity for identity in threads.map(contend, range(8)) if identity]

    assert found == [open_archive(LocalStore(tmp_path))]


def test_place_without_archive_is_not_configured() -> None:
    """Opening what is not there names the place and the command that makes it."""
    with pytest.raises(NotConfigured, match="no archive at memory") as raised:
        open_archive(MemoryStore())

    assert "pitr init" in (raised.value.hint or "")


@pytest.mark.parametrize("where", ["document", "frame"])
def test_archive_of_a_newer_version_is_refused(where: str) -> None:
    """An archive from the future is neither read wrongly nor called damaged."""
    store = MemoryStore()
    identity = create_or_adopt(store, engine="sqlite", identity=SHOP)
    body = {"archive_id": identity.archive_id, "engine": "sqlite", "source": SHOP, "created_us": 1}
    if where == "document":
        data = encode_document(b"IDEN", body | {"format": 2, "unknown": [1]})
    else:
        section = Section(1, json.dumps({"other": "fields"}).encode(), compress=False)
        data = encode_object(b"IDEN", 2, [section])
    store.put(IDENTITY_KEY, data)

    with pytest.raises(PreconditionFailed, match="newer version of pitr") as raised:
        open_archive(store)
    assert raised.value.exit_code == 3


@pytest.mark.parametrize(
    "data",
    [
        b"", b"not an object", encode_document(b"LEAS", {}), encode_document(b"IDEN", {}),
        encode_document(b"IDEN", [1]), encode_object(b"IDEN", 1, []),
        encode_object(b"IDEN", 1, [Section(1, b"{", compress=False)]),
        encode_object(b"IDEN", 1, [Section(1, b'{"engine": "\xff"}', compress=False)]),
    ],
)  # fmt: skip
def test_damaged_identity_is_named(data: bytes) -> None:
    """What does not decode is damage, exit 5, with the name of the object."""
    store = MemoryStore()
    store.put(IDENTITY_KEY, data)

    with pytest.raises(CorruptObject, match=IDENTITY_KEY) as raised:
        open_archive(store)
    assert raised.value.exit_code == 5


def test_store_that_ignores_create_if_absent_is_refused() -> None:
    """No archive is made where leases could not hold, and the probe cleans up."""
    store = OverwritingStore()

    with pytest.raises(StoreUnusable, match="ignores create-if-absent"):
        create_or_adopt(store, engine="sqlite", identity=SHOP)
    assert list(store.list()) == []

    probe_conditional_put(MemoryStore())


# ---- marks ---------------------------------------------------------------------------------------


def test_mark_written_reads_back_by_name() -> None:
    """A name leads to its position and time; all marks come by time."""
    store = MemoryStore()
    later = write_mark(store, "after release", position="commit:9", time_us=900)
    earlier = write_mark(store, "before release", position="commit:4", time_us=400)

    assert read_mark(store, "before release") == earlier
    assert read_marks(store) == [earlier, later]
    assert (earlier.name, earlier.position, earlier.time_us) == ("before release", "commit:4", 400)


def test_mark_is_never_moved() -> None:
    """A second mark of one name is refused; the first stays."""
    store = MemoryStore()
    first = write_mark(store, "release", position="commit:4", time_us=400)

    with pytest.raises(PreconditionFailed, match="a mark of this name exists: release"):
        write_mark(store, "release", position="commit:9", time_us=900)

    assert read_marks(store) == [first]


def test_unknown_mark_is_not_in_the_archive() -> None:
    """A target that names no mark: exit 4."""
    with pytest.raises(ArchiveLacks, match="no mark of this name: release") as raised:
        read_mark(MemoryStore(), "release")

    assert raised.value.exit_code == 4


def test_mark_written_decomposed_is_found_composed() -> None:
    """The same name typed on another machine is the same name."""
    store = MemoryStore()
    mark = write_mark(store, "u\u0308ber", position="commit:1", time_us=1)

    assert mark.name == "\u00fcber"
    assert read_mark(store, "\u00fcber") == mark


@pytest.mark.parametrize(
    "name", ["", " ", "\u3000", "a\nb", "a\x00b", "\x1b[31m", "a\u2028b", "\udcff", "x" * 201]
)
def test_text_that_is_no_name_is_refused(name: str) -> None:
    """Nothing that would break a line or a terminal, or that cannot be stored, is a name."""
    for call in (
        lambda: write_mark(MemoryStore(), name, position="commit:1", time_us=1),
        lambda: read_mark(MemoryStore(), name),
    ):
        with pytest.raises(UsageError) as raised:
            call()
        assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("release-1.2_b", "mark/release-1.2_b"),
        ("before release", "mark/before=20release"),
        ("..", "mark/=2E."),
        (".", "mark/=2E"),
        ("a/../b", "mark/a=2F..=2Fb"),
        ("100%=x+y", "mark/100=25=3Dx=2By"),
        ("ü", "mark/=C3=BC"),
        ("x" * 160, "mark/" + "x" * 160),
        ("x" * 161, "mark/" + "x" * 160 + "==20df5c813461d66eb25e057bc244c736"),
    ],
)
def test_name_is_quoted_as_the_format_says(name: str, key: str) -> None:
    """docs/formats/archive-objects.md, section Marks."""
    store = MemoryStore()
    write_mark(store, name, position="commit:1", time_us=1)

    assert [info.key for info in store.list()] == [key]


names = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")) | st.sampled_from("./=%~+ "),
    min_size=1,
    max_size=200,
).filter(str.strip)


@given(st.lists(names, max_size=8, unique=True))
def test_any_names_are_kept_apart(wanted: list[str]) -> None:
    """Whatever the names, each leads to its own mark, under a key that every store takes."""
    store = MemoryStore()
    written = {}
    for number, name in enumerate(wanted):
        try:
            mark = write_mark(store, name, position=f"commit:{number}", time_us=number)
        except (PreconditionFailed, UsageError):
            continue  # the same after normalisation, or longer by it
        written[name] = mark

    assert read_marks(store) == list(written.values())
    for name, mark in written.items():
        assert read_mark(store, name) == mark
    for info in store.list():
        check_key(info.key)
        assert len(info.key) <= 200
        assert set(info.key) <= set(string.ascii_letters + string.digits + "_-.=/")


def test_mark_under_the_key_of_another_is_damage() -> None:
    """A mark object that was copied or renamed does not move the name."""
    store = MemoryStore()
    write_mark(store, "release", position="commit:4", time_us=400)
    (info,) = store.list()
    store.put("mark/other", store.get(info.key))

    with pytest.raises(CorruptObject, match="mark/other"):
        read_mark(store, "other")
    with pytest.raises(ObjectExists):
        store.put_new("mark/other", b"")
