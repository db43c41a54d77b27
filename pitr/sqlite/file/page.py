"""Pages of a SQLite database: header, b-trees, records, overflow, freelist, pointer map.

No I/O: bytes in, values out. Specification: docs/formats/sqlite-page.md, after SQLite's own
fileformat2.html. Whatever contradicts the format raises CorruptDatabase that names the page.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from itertools import pairwise

from pitr.errors import CorruptDatabase

MAGIC = b"SQLite format 3\x00"
LOCK_BYTE_OFFSET = 0x40000000
# SQLite itself holds no value longer than this.
PAYLOAD_BYTES_MAX = 0x7FFFFFFF
_ENCODINGS = {0: "utf-8", 1: "utf-8", 2: "utf-16-le", 3: "utf-16-be"}
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_U32 = struct.Struct(">I")
_REAL = struct.Struct(">d")

Value = int | float | str | bytes | None


class PageKind(enum.IntEnum):
    """The first byte of a b-tree page."""

    INTERIOR_INDEX = 0x02
    INTERIOR_TABLE = 0x05
    LEAF_INDEX = 0x0A
    LEAF_TABLE = 0x0D

    @property
    def is_leaf(self) -> bool:
        """Return whether the page has no children."""
        return self in (PageKind.LEAF_INDEX, PageKind.LEAF_TABLE)

    @property
    def is_index(self) -> bool:
        """Return whether the page belongs to an index b-tree: an index or WITHOUT ROWID table."""
        return self in (PageKind.INTERIOR_INDEX, PageKind.LEAF_INDEX)


class PointerKind(enum.IntEnum):
    """The type of an entry of the pointer map; what its parent is depends on it."""

    ROOT = 1  # parent 0
    FREE = 2  # parent 0
    OVERFLOW_FIRST = 3  # parent: the b-tree page with the cell
    OVERFLOW_NEXT = 4  # parent: the overflow page before
    BTREE = 5  # parent: the b-tree page above


_KINDS = {int(kind): kind for kind in PageKind}


@dataclass(frozen=True, slots=True)
class DatabaseHeader:
    """The first 100 bytes of the database, as far as a reader of the past needs them."""

    page_size: int
    usable_size: int  # page size without the bytes reserved at each page's end
    page_count: int  # 0 when an old library did not keep it; the archive knows better
    freelist_trunk: int
    freelist_count: int
    schema_cookie: int
    auto_vacuum: bool  # then there is a pointer map
    encoding: str  # a Python codec name


@dataclass(frozen=True, slots=True)
class Cell:
    """One row or index entry as far as its b-tree page holds it."""

    rowid: int | None  # None in an index b-tree
    payload_size: int
    local: bytes  # the beginning of the payload
    overflow: int  # the first overflow page, 0 when all of the payload is local


def damaged(page_number: int, reason: str) -> CorruptDatabase:
    """Return the error for a page that contradicts the format; `reason` is a full sentence."""
    return CorruptDatabase(
        f"database page {page_number} contradicts the SQLite file format",
        detail=reason,
        hint="Run 'pitr verify' to tell damage in the archive from damage in the source.",
    )


def lock_byte_page(page_size: int) -> int:
    """Return the number of the page that SQLite never uses, whether or not the file has it."""
    return LOCK_BYTE_OFFSET // page_size + 1


def decode_header(image: bytes) -> DatabaseHeader:
    """Decode the database header from page 1."""
    if len(image) < 512 or image[:16] != MAGIC:
        raise damaged(1, "It does not begin with the SQLite header.")
    (page_size,) = struct.unpack_from(">H", image, 16)
    page_size = 65536 if page_size == 1 else page_size
    if page_size != len(image) or page_size & (page_size - 1):
        raise damaged(1, f"It declares pages of {page_size} bytes and has {len(image)}.")
    usable_size = page_size - image[20]
    page_count, trunk, free_count, cookie = struct.unpack_from(">IIII", image, 28)
    (encoding,) = _U32.unpack_from(image, 56)
    if usable_size < 480 or encoding not in _ENCODINGS:
        raise damaged(1, f"Reserved bytes {image[20]} or text encoding {encoding} is impossible.")
    return DatabaseHeader(
        page_size=page_size,
        usable_size=usable_size,
        page_count=page_count,
        freelist_trunk=trunk,
        freelist_count=free_count,
        schema_cookie=cookie,
        auto_vacuum=any(image[52:56]),
        encoding=_ENCODINGS[encoding],
    )


# --- b-tree pages --------------------------------------------------------------------------------


def page_kind(image: bytes, page_number: int) -> PageKind:
    """Return what b-tree page this is."""
    kind = _KINDS.get(image[100 if page_number == 1 else 0])
    if kind is None:
        raise damaged(page_number, "A b-tree page was expected; its first byte is none.")
    return kind


def cell_count(image: bytes, page_number: int) -> int:
    """Return the number of cells of a b-tree page."""
    at = 103 if page_number == 1 else 3
    return image[at] << 8 | image[at + 1]


def _cell_pointers(image: bytes, page_number: int, usable_size: int) -> list[int]:
    """Return the offsets of the cells in key order, each inside the cell area."""
    header_end = (100 if page_number == 1 else 0) + (8 if is_leaf(image, page_number) else 12)
    count = cell_count(image, page_number)
    content_begin = header_end + 2 * count
    if content_begin > usable_size:
        raise damaged(page_number, f"It declares {count} cells, more than fit.")
    pointers = list(struct.unpack_from(f">{count}H", image, header_end))
    if pointers and not (content_begin <= min(pointers) and max(pointers) <= usable_size - 4):
        raise damaged(page_number, "A cell pointer leads outside the cell area.")
    return pointers


def is_leaf(image: bytes, page_number: int) -> bool:
    """Return whether a b-tree page has no children."""
    return page_kind(image, page_number).is_leaf


def child_pages(image: bytes, page_number: int, usable_size: int) -> list[int]:
    """Return the children of an interior page in key order."""
    if is_leaf(image, page_number):
        raise damaged(page_number, "An interior page was expected, this is a leaf.")
    pointers = _cell_pointers(image, page_number, usable_size)
    children = [_U32.unpack_from(image, at)[0] for at in pointers]
    children.append(_U32.unpack_from(image, 108 if page_number == 1 else 8)[0])
    return children


def cell_extents(
    image: bytes, page_number: int, usable_size: int, *, is_index: bool
) -> list[bytes]:
    """Return for each cell, in no order, its bytes and what lies unused behind them.

    Equal extents are equal cells; unequal ones may still be equal. This costs a tenth of decoding,
    and most cells of a changed page have not changed. In interior index pages the child pointer
    is left out. A page that carries no rows of that kind of b-tree is damage.
    """
    kind = page_kind(image, page_number)
    if kind.is_index is not is_index or kind is PageKind.INTERIOR_TABLE:
        raise damaged(page_number, "It is not the kind of page that its b-tree says.")
    skip = 4 if kind is PageKind.INTERIOR_INDEX else 0
    pointers = _cell_pointers(image, page_number, usable_size)
    pointers.sort()
    pointers.append(usable_size)
    return [image[begin + skip : end] for begin, end in pairwise(pointers)]


def decode_cell(extent: bytes, page_number: int, usable_size: int, *, is_index: bool) -> Cell:
    """Decode the cell at the beginning of an extent from `cell_extents`."""
    try:
        payload_size, at = read_varint(extent, 0)
        rowid = None
        if not is_index:
            unsigned, at = read_varint(extent, at)
            rowid = unsigned - (1 << 64) if unsigned >> 63 else unsigned
        if payload_size > PAYLOAD_BYTES_MAX:
            raise damaged(page_number, f"A cell declares {payload_size} bytes.")
        local_size = local_payload_size(payload_size, usable_size, is_index=is_index)
        end = at + local_size
        overflow = 0 if local_size == payload_size else _U32.unpack_from(extent, end)[0]
    except (IndexError, struct.error):
        raise damaged(page_number, "A cell is cut short.") from None
    local = extent[at:end]
    if len(local) < local_size or (local_size < payload_size and not overflow):
        raise damaged(page_number, "A cell is cut short.")
    return Cell(rowid, payload_size, local, overflow)


def local_payload_size(payload_size: int, usable_size: int, *, is_index: bool) -> int:
    """Return how many bytes of a payload lie on the b-tree page itself."""
    local_max = local_payload_max(usable_size, is_index=is_index)
    if payload_size <= local_max:
        return payload_size
    local_min = (usable_size - 12) * 32 // 255 - 23
    wanted = local_min + (payload_size - local_min) % (usable_size - 4)
    return wanted if wanted <= local_max else local_min


def local_payload_max(usable_size: int, *, is_index: bool) -> int:
    """Return the largest payload that needs no overflow page."""
    return (usable_size - 12) * 64 // 255 - 23 if is_index else usable_size - 35


def separator_rowids(image: bytes, page_number: int, usable_size: int) -> list[int]:
    """Return the keys of an interior table page: child i holds rowids up to key i."""
    rowids = []
    for at in _cell_pointers(image, page_number, usable_size):
        try:
            unsigned, _ = read_varint(image, at + 4)
        except IndexError:
            raise damaged(page_number, "A cell is cut short.") from None
        rowids.append(unsigned - (1 << 64) if unsigned >> 63 else unsigned)
    return rowids


# --- overflow, freelist, pointer map -------------------------------------------------------------


def overflow_page_count(cell: Cell, usable_size: int) -> int:
    """Return how many overflow pages the payload of a cell needs."""
    return -(-(cell.payload_size - len(cell.local)) // (usable_size - 4))


def next_overflow_page(image: bytes) -> int:
    """Return the page that follows an overflow page in its chain, 0 after the last."""
    return int(_U32.unpack_from(image)[0])


def decode_trunk(image: bytes, page_number: int, usable_size: int) -> tuple[int, tuple[int, ...]]:
    """Return (next trunk page or 0, free leaf pages) of a freelist trunk page."""
    following, count = struct.unpack_from(">II", image)
    if 8 + 4 * count > usable_size:
        raise damaged(page_number, f"A freelist trunk declares {count} pages, more than fit.")
    return following, struct.unpack_from(f">{count}I", image, 8)


def pointer_map_page(page_number: int, page_size: int, usable_size: int) -> int:
    """Return the pointer map page that has the entry of a page; itself for a pointer map page."""
    pages_per_map = usable_size // 5 + 1
    found = (page_number - 2) // pages_per_map * pages_per_map + 2
    return found + 1 if found == lock_byte_page(page_size) else found


def decode_pointer(image: bytes, map_page: int, page_number: int) -> tuple[PointerKind, int]:
    """Return (type, parent page) of a page from the pointer map page that has its entry."""
    at = 5 * (page_number - map_page - 1)
    if at < 0 or at + 5 > len(image):
        raise damaged(map_page, f"It has no pointer map entry for page {page_number}.")
    kind, parent = struct.unpack_from(">BI", image, at)
    if not PointerKind.ROOT <= kind <= PointerKind.BTREE:
        raise damaged(map_page, f"The pointer map entry of page {page_number} has type {kind}.")
    return PointerKind(kind), parent


# --- records -------------------------------------------------------------------------------------


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return (unsigned value, offset behind it). Raises IndexError at the end of the data."""
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value = byte & 0x7F
    for offset in range(at + 1, at + 8):
        byte = data[offset]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, offset + 1
    return value << 8 | data[at + 8], at + 9


def serial_types(payload: bytes, page_number: int) -> list[int]:
    """Return the serial type of each field of a record; the page number is for the error only."""
    found = []
    try:
        header_size, at = read_varint(payload, 0)
        while at < header_size:
            serial_type, at = read_varint(payload, at)
            found.append(serial_type)
    except IndexError:
        raise damaged(page_number, "The header of a record is cut short.") from None
    if at != header_size:
        raise damaged(page_number, "The header of a record contradicts its length.")
    return found


def is_number(serial_type: int) -> bool:
    """Return whether a field of this type is an integer or a floating-point number."""
    return 1 <= serial_type <= 9


def record_header_size(payload: bytes, page_number: int) -> int:
    """Return the size of a record's header in bytes from the beginning of the record."""
    try:
        return read_varint(payload, 0)[0]
    except IndexError:
        raise damaged(page_number, "The header of a record is cut short.") from None


def decode_record(
    payload: bytes, page_number: int, encoding: str, *, errors: str = "replace"
) -> list[Value]:
    """Return the fields of a record; the page number is for the error only.

    Text that is not valid in the database's encoding is decoded by Python's `errors` rule.
    """
    types = serial_types(payload, page_number)
    at, _ = read_varint(payload, 0)
    values: list[Value] = []
    for serial_type in types:
        end = at + _field_size(serial_type, page_number)
        field = payload[at:end]
        at = end
        if at <= len(payload):
            values.append(_decode_field(serial_type, field, encoding, errors))
    if at != len(payload):
        raise damaged(page_number, "The fields of a record contradict its length.")
    return values


def _field_size(serial_type: int, page_number: int) -> int:
    if serial_type >= 12:
        return (serial_type - 12) // 2
    if serial_type in (10, 11):
        raise damaged(page_number, f"A record has a field of the reserved type {serial_type}.")
    return 8 if serial_type == 7 else _INTEGER_BYTES.get(serial_type, 0)


def _decode_field(serial_type: int, field: bytes, encoding: str, errors: str) -> Value:
    if serial_type >= 12:
        return field.decode(encoding, errors) if serial_type & 1 else field
    if serial_type == 0:
        return None
    if serial_type == 7:
        value = float(_REAL.unpack(field)[0])
        return None if value != value else value  # SQLite reads NaN as NULL
    if serial_type >= 8:
        return serial_type - 8
    return int.from_bytes(field, "big", signed=True)
