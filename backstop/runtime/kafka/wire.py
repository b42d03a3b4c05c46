"""Reads and writes Kafka's requests and responses in few steps. Pure.

aiokafka 0.14 describes each request by a schema, and walks the schema for each one: a Python call and an unpacking for
each integer. A fetch of 24 partitions has 170 of them. Here a schema is compiled once: neighbouring fields of fixed
size, with the length of the field after them, are one `struct`.

`backstop.runtime.kafka.client` puts this in place of aiokafka's own codec. The bytes and values are the same. A schema
with other kinds of fields (varints, tags) is left to aiokafka, and so is a message that does not fit its schema: it
raises what aiokafka raises.
"""

import struct
from collections.abc import Callable, Sequence
from functools import cache
from io import BytesIO
from typing import Any

from aiokafka.protocol.struct import Struct
from aiokafka.protocol.types import Array, Boolean, Bytes, Float64, Int8, Int16, Int32, Int64, Schema, String, UInt32

_FIXED: dict[Any, str] = {Int8: "b", Int16: "h", Int32: "i", UInt32: "I", Int64: "q", Float64: "d", Boolean: "?"}

_Read = Callable[[bytes, int], tuple[list[Any], int]]
"""(data, position) → (values of the fields, position after them)."""

_Write = Callable[[Sequence[Any], list[bytes]], None]
"""Appends the bytes of the fields' values to the list."""

_ReadBody = Callable[[bytes, int, int], tuple[Any, int]]
"""(data, position after the length, length) → (value, position after it)."""

_WriteBody = Callable[[Any], tuple[int, Sequence[bytes]]]
"""Value → (its length field, its bytes)."""


class _OtherKindError(Exception):
    """A field that is not compiled, or a value that does not fit."""


def _body(kind: Any) -> tuple[str, _ReadBody, _WriteBody]:
    """The format of the length of a field of variable size, and how to read and write what follows."""
    if kind is Bytes:
        return "i", _read_bytes, _write_bytes
    if isinstance(kind, String) and kind.encoding == "utf-8":
        return "h", _read_text, _write_text
    if isinstance(kind, Array):
        return "i", *_array(kind.array_of)
    raise _OtherKindError


def _read_bytes(data: bytes, at: int, length: int) -> tuple[bytes | None, int]:
    if length < 0:
        return None, at
    end = _within(data, at + length)
    return data[at:end], end


def _write_bytes(value: Any) -> tuple[int, Sequence[bytes]]:
    return (-1, ()) if value is None else (len(value), (value,))


def _read_text(data: bytes, at: int, length: int) -> tuple[str | None, int]:
    found, end = _read_bytes(data, at, length)
    return None if found is None else found.decode(), end


def _write_text(value: Any) -> tuple[int, Sequence[bytes]]:
    if value is None:
        return -1, ()
    text = str(value).encode()
    return len(text), (text,)


def _array(item: Any) -> tuple[_ReadBody, _WriteBody]:
    is_schema = isinstance(item, Schema)
    kinds = item.fields if is_schema else (item,)
    if is_schema and all(_code(kind) for kind in kinds):
        return _records(struct.Struct(">" + "".join(_code(kind) for kind in kinds)))
    read, write = _fields(kinds)

    def read_array(data: bytes, at: int, length: int) -> tuple[list[Any] | None, int]:
        if length == -1:
            return None, at
        found: list[Any] = []
        for _ in range(length):
            values, at = read(data, at)
            found.append(tuple(values) if is_schema else values[0])
        return found, at

    def write_array(items: Any) -> tuple[int, Sequence[bytes]]:
        if items is None:
            return -1, ()
        parts: list[bytes] = []
        for each in items:
            write(each if is_schema else (each,), parts)
        return len(items), parts

    return read_array, write_array


def _records(shape: struct.Struct) -> tuple[_ReadBody, _WriteBody]:
    """An array of items of one fixed size."""
    pack = shape.pack

    def read(data: bytes, at: int, length: int) -> tuple[list[Any] | None, int]:
        if length <= 0:
            return None if length == -1 else [], at
        end = at + length * shape.size
        return list(shape.iter_unpack(data[at:end])), _within(data, end)

    def write(items: Any) -> tuple[int, Sequence[bytes]]:
        return (-1, ()) if items is None else (len(items), [pack(*item) for item in items])

    return read, write


def _within(data: bytes, end: int) -> int:
    if end > len(data):
        raise _OtherKindError
    return end


def _code(kind: Any) -> str:
    """The format of a field of fixed size; empty for another."""
    return "" if isinstance(kind, String | Array | Schema) else _FIXED.get(kind, "")


def _fields(kinds: Sequence[Any]) -> tuple[_Read, _Write]:
    """How to read and write fields in a row: runs of fixed ones, each with the length of the field after it."""
    runs: list[tuple[struct.Struct, int, _ReadBody | None, _WriteBody | None]] = []
    fixed = ""
    for kind in kinds:
        if code := _code(kind):
            fixed += code
            continue
        length, read_body, write_body = _body(kind)
        runs.append((struct.Struct(f">{fixed}{length}"), len(fixed), read_body, write_body))
        fixed = ""
    if fixed:
        runs.append((struct.Struct(f">{fixed}"), len(fixed), None, None))
    fields = len(kinds)

    def read(data: bytes, at: int) -> tuple[list[Any], int]:
        values: list[Any] = []
        for shape, _, read_body, _ in runs:
            values += shape.unpack_from(data, at)
            at += shape.size
            if read_body is not None:
                values[-1], at = read_body(data, at, values[-1])
        return values, at

    def write(values: Sequence[Any], parts: list[bytes]) -> None:
        if len(values) != fields:
            raise _OtherKindError
        begin = 0
        for shape, count, _, write_body in runs:
            end = begin + count
            if write_body is None:
                parts.append(shape.pack(*values[begin:end]))
            else:
                length, body = write_body(values[end])
                parts.append(shape.pack(*values[begin:end], length))
                parts += body
            begin = end + 1

    return read, write


@cache
def compiled(kind: Any) -> tuple[_Read, _Write] | None:
    """How to read and write all fields of a class of requests or responses; None where aiokafka must."""
    try:
        return _fields(kind.SCHEMA.fields)
    except _OtherKindError:
        return None


_MISFITS = (_OtherKindError, struct.error, TypeError, ValueError, IndexError, KeyError, AttributeError)
"""What a value that does not fit raises here. aiokafka then tries and raises its own."""

_encode = Struct.encode
_decode = Struct.decode.__func__  # a class method


def encode(message: Struct) -> bytes:
    """As aiokafka's `Struct.encode`."""
    kind: Any = type(message)
    ways = compiled(kind)
    if ways is not None:
        try:
            values, parts = message.__dict__, list[bytes]()
            ways[1]([values[name] for name in message.SCHEMA.names], parts)
            return b"".join(parts)
        except _MISFITS:
            pass
    whole: bytes = _encode(message)
    return whole


def decode(kind: Any, data: BytesIO | bytes) -> Any:
    """As aiokafka's `Struct.decode`: a stream is read from its position, and stands after the message then."""
    ways = compiled(kind)
    if ways is not None:
        try:
            if isinstance(data, bytes):
                return kind(*ways[0](data, 0)[0])
            values, end = ways[0](data.getvalue(), data.tell())
            data.seek(end)
            return kind(*values)
        except _MISFITS:
            pass
    return _decode(kind, data)
