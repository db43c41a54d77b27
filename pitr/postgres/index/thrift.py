"""The compact protocol of Thrift, as far as the metadata of a Parquet file needs it.

A struct is a mapping from field numbers to values; the Python type of a value says its type on the
wire: bool, int (`Short` and `Byte` for the narrow ones), bytes or str, list, dict. What is read
back has no more than that: integers are `int`, strings are `bytes`.

Specification: Apache Thrift, doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_DEPTH_MAX = 16
_VARINT_BYTES_MAX = 10

Value: TypeAlias = "bool | int | bytes | str | Sequence[Value] | Mapping[int, Value]"
Struct: TypeAlias = "dict[int, Value]"


class Long(int):
    """An integer that the protocol carries with 64 bits."""


class Short(int):
    """An integer that the protocol carries with 16 bits."""


class Byte(int):
    """An integer that the protocol carries as one byte."""


def varint(value: int) -> bytes:
    """Return an unsigned integer with seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value: int) -> bytes:
    """Return a signed integer of at most 64 bits as a varint, small magnitudes short."""
    return varint((value << 1) ^ (value >> 63))


def read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return an unsigned integer and the offset after it. Raises ValueError, IndexError."""
    value = 0
    for count in range(_VARINT_BYTES_MAX):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value, at
    raise ValueError("a number has too many bytes")


def read_zigzag(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return a signed integer and the offset after it. Raises ValueError, IndexError."""
    value, at = read_varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def encode_struct(struct: Mapping[int, Value]) -> bytes:
    """Return the bytes of a struct, its fields in the order of their numbers."""
    out = bytearray()
    last = 0
    for number in sorted(struct):
        value = struct[number]
        kind = _type_of(value)
        out.append((number - last) << 4 | kind)
        if kind > _FALSE:
            out += _encode(kind, value)
        last = number
    out.append(0)
    return bytes(out)


# A table, since a file of the index has thousands of values.
_TYPES: dict[type, int] = {
    Byte: _BYTE,
    Short: _I16,
    int: _I32,
    Long: _I64,
    bytes: _BINARY,
    str: _BINARY,
    list: _LIST,
    dict: _STRUCT,
}


def _type_of(value: Value) -> int:
    if value is True:
        return _TRUE
    return _FALSE if value is False else _TYPES[type(value)]


def _encode(kind: int, value: Any) -> bytes:
    if _I16 <= kind <= _I64:
        return zigzag(value)
    if kind == _BINARY:
        data = value.encode() if isinstance(value, str) else value
        return varint(len(data)) + data
    if kind == _STRUCT:
        return encode_struct(value)
    return bytes([value & 0xFF]) if kind == _BYTE else _encode_list(value)


def _encode_list(values: Sequence[Value]) -> bytes:
    kind = _type_of(values[0]) if values else _STRUCT
    size = len(values)
    head = bytes([size << 4 | kind]) if size < 15 else bytes([0xF0 | kind]) + varint(size)
    return head + b"".join(_encode(kind, value) for value in values)


def decode_struct(data: bytes, at: int = 0) -> tuple[Struct, int]:
    """Return the struct at an offset and the offset after it. Raises ValueError."""
    try:
        return _decode_struct(data, at, 0)
    except IndexError:
        raise ValueError("the metadata is cut short") from None


def _decode_struct(data: bytes, at: int, depth: int) -> tuple[Struct, int]:
    if depth > _DEPTH_MAX:
        raise ValueError("the metadata is nested too deep")
    struct: Struct = {}
    number = 0
    while data[at]:
        head = data[at]
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = read_zigzag(data, at)
        kind = head & 0x0F
        if kind in (_TRUE, _FALSE):
            struct[number] = kind == _TRUE
        else:
            struct[number], at = _decode(data, at, kind, depth)
    return struct, at + 1


def _decode(data: bytes, at: int, kind: int, depth: int) -> tuple[Value, int]:
    if kind == _STRUCT:
        return _decode_struct(data, at, depth + 1)
    if kind in (_I16, _I32, _I64):
        return read_zigzag(data, at)
    if kind == _BINARY:
        size, at = read_varint(data, at)
        if size > len(data) - at:
            raise ValueError("a string reaches past the end of the metadata")
        return data[at : at + size], at + size
    if kind in (_LIST, _SET):
        return _decode_list(data, at, depth + 1)
    if kind in (_BYTE, _TRUE, _FALSE):
        return data[at], at + 1
    raise ValueError(f"the metadata has a value of type {kind}")


def _decode_list(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    if depth > _DEPTH_MAX:
        raise ValueError("the metadata is nested too deep")
    size, kind = data[at] >> 4, data[at] & 0x0F
    at += 1
    if size == 15:
        size, at = read_varint(data, at)
    if size > len(data) - at:
        raise ValueError("a list reaches past the end of the metadata")
    values = []
    for _ in range(size):
        value, at = _decode(data, at, kind, depth)
        values.append(value)
    return values, at
