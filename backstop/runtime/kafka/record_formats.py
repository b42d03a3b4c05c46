"""Parsers for two kinds of bytes that aiokafka's decoder can't take: batches with a damaged record, and message sets.
Pure.

aiokafka's decoder rejects a whole batch at its first malformed record. Here each record is parsed alone, by its own
length. Message sets are the format before Kafka 0.11 (magic 0 and 1): few are left, and compressed ones are unpacked
here within a bound.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

INT64_MAX = 2**63 - 1
NO_TIMESTAMP = -1
HEADERS_MAX = 1_000
"""Per record. A header takes 2 bytes on the wire and 100 in memory;
OpenTelemetry and CloudEvents together write about twenty.
"""
COMPRESSED_RECORDS_MAX = 100_000
"""Per batch: ten megabytes of 100-byte requests. Only an attack has a reason for fewer bytes per record."""
CODEC_MASK = 0x07
LOG_APPEND_TIME = 0x08

_VARINT_BYTES_MAX = 10
_INT32 = struct.Struct(">i")
_MESSAGE = struct.Struct(">qiIbb")
"""Offset, length, CRC, magic, attributes; then the timestamp (magic 1), key and value."""
_TIMESTAMP = struct.Struct(">q")
_LENGTH_END = 12
"""A message's length field counts the bytes after the field."""
_CRC_END = 16


class FormatError(Exception):
    """The bytes violate the format."""


@dataclass(frozen=True, slots=True)
class Read:
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Damaged:
    """A record that can't be read, with the parts that can; with
    `rest`, also all records after it (their offsets are unknown).
    """

    offset: int
    why: str
    key: bytes | None = None
    value: bytes | None = None
    timestamp_ms: int = NO_TIMESTAMP
    rest: bool = False


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """The times of a batch (magic 2). `appended`: the broker stamped it, and `last_ms` is the time of each record."""

    first_ms: int
    last_ms: int
    appended: bool


def has_longer_record(data: memoryview, count: int, bytes_max: int) -> bool:
    """Whether an unpacked record of a batch is longer than `bytes_max`, or has an invalid length."""
    at = 0
    for _ in range(count):
        try:
            length, at = _varint(data, at, len(data))
        except FormatError:
            return True
        if not 0 < length <= bytes_max:
            return True
        at += length
    return False


def records_one_by_one(
    data: memoryview, count: int, base_offset: int, times: BatchTimes, begin: int = 0
) -> Iterator[Read | Damaged]:
    """The unpacked records of a batch (magic 2), from index `begin`."""
    at = 0
    for index in range(count):
        try:
            length, at = _varint(data, at, len(data))
            if not 0 < length <= len(data) - at:
                raise FormatError(f"a record of {length} bytes, but {len(data) - at} are left")
        except FormatError as error:
            yield Damaged(-1, f"record {index} of {count}: {error}", rest=True)
            return
        if index >= begin:
            yield _record(data[at : at + length], base_offset, index, times)
        at += length
    if at != len(data):
        yield Damaged(-1, f"{len(data) - at} bytes after its {count} records", rest=True)


def _record(data: memoryview, base_offset: int, index: int, times: BatchTimes) -> Read | Damaged:
    key = value = None
    offset = base_offset + index
    timestamp_ms = times.last_ms
    try:
        delta_ms, at = _varint(data, 1, len(data))
        timestamp_ms = times.last_ms if times.appended else _int64(times.first_ms + delta_ms)
        delta, at = _varint(data, at, len(data))
        offset = base_offset + delta
        key, at = _nullable(data, at)
        value, at = _nullable(data, at)
        headers, at = _headers(data, at)
        if at != len(data):
            raise FormatError(f"{len(data) - at} bytes after its end")
    except FormatError as error:
        return Damaged(offset, f"record {index}: {error}", key, value, timestamp_ms)
    return Read(offset, timestamp_ms, key, value, headers)


def _headers(data: memoryview, at: int) -> tuple[tuple[tuple[str, bytes | None], ...], int]:
    count, at = _varint(data, at, len(data))
    if not 0 <= count <= HEADERS_MAX:
        raise FormatError(f"{count} headers; the limit is {HEADERS_MAX}")
    headers: list[tuple[str, bytes | None]] = []
    for index in range(count):
        name, at = _nullable(data, at)
        value, at = _nullable(data, at)
        if name is None:
            raise FormatError(f"the name of header {index} is null")
        try:
            headers.append((name.decode(), value))
        except UnicodeDecodeError:
            raise FormatError(f"the name of header {index} is not UTF-8") from None
    return tuple(headers), at


def _nullable(data: memoryview, at: int) -> tuple[bytes | None, int]:
    length, at = _varint(data, at, len(data))
    if length < 0:
        return None, at
    if length > len(data) - at:
        raise FormatError(f"{length} bytes, but {len(data) - at} are left")
    return bytes(data[at : at + length]), at + length


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """A zigzag varint: its value, and the index after it."""
    raw = 0
    for index in range(_VARINT_BYTES_MAX):
        if at + index >= end:
            raise FormatError("truncated within a varint")
        byte = data[at + index]
        raw |= (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            return (raw >> 1) ^ -(raw & 1), at + index + 1
    raise FormatError(f"a varint longer than {_VARINT_BYTES_MAX} bytes")


def _int64(value: int) -> int:
    return max(-INT64_MAX - 1, min(INT64_MAX, value))


Unpack = Callable[[int, memoryview], memoryview]
"""Takes a codec and packed bytes. Its exceptions pass through to the caller."""


def messages(data: memoryview, unpack: Unpack) -> Iterator[Read]:
    """The record of a message (magic 0 or 1), or the records within it if it is compressed.

    :raises FormatError: the message, or one within it, is damaged.
    """
    offset, attributes, timestamp_ms, key, value = _message(data)
    codec = attributes & CODEC_MASK
    if not codec:
        yield Read(offset, timestamp_ms, key, value)
        return
    if value is None:
        raise FormatError("a compressed message without a value")
    inner = [_message(each) for each in islice(_split(unpack(codec, memoryview(value))), COMPRESSED_RECORDS_MAX + 1)]
    if not 0 < len(inner) <= COMPRESSED_RECORDS_MAX:
        raise FormatError(f"a compressed message holds none, or more than {COMPRESSED_RECORDS_MAX} messages")
    # Magic 1: inner offsets count from 0, and the wrapper has the offset of the last. Magic 0: inner offsets are
    # absolute.
    base = offset - inner[-1][0] if data[_CRC_END] else 0
    for own_offset, own_attributes, own_ms, own_key, own_value in inner:
        if own_attributes & CODEC_MASK:
            raise FormatError("a compressed message in a compressed one")
        yield Read(base + own_offset, timestamp_ms if attributes & LOG_APPEND_TIME else own_ms, own_key, own_value)


def _split(data: memoryview) -> Iterator[memoryview]:
    at = 0
    while at < len(data):
        if len(data) - at < _LENGTH_END:
            raise FormatError("truncated between two messages")
        (length,) = _INT32.unpack_from(data, at + 8)
        end = at + _LENGTH_END + length
        if length < 0 or end > len(data):
            raise FormatError(f"a message of {length} bytes, but {len(data) - at - _LENGTH_END} are left")
        yield data[at:end]
        at = end


def _message(data: memoryview) -> tuple[int, int, int, bytes | None, bytes | None]:
    """Offset, attributes, timestamp, key, value."""
    if len(data) < _MESSAGE.size:
        raise FormatError(f"a message of {len(data)} bytes")
    offset, _, crc, magic, attributes = _MESSAGE.unpack_from(data)
    if magic not in (0, 1):
        raise FormatError(f"message format {magic} is unknown")
    if zlib.crc32(data[_CRC_END:]) != crc:
        raise FormatError("wrong checksum")
    at, timestamp_ms = _MESSAGE.size, NO_TIMESTAMP
    try:
        if magic:
            (timestamp_ms,) = _TIMESTAMP.unpack_from(data, at)
            at += _TIMESTAMP.size
        key, at = _sized(data, at)
        value, at = _sized(data, at)
    except struct.error:
        raise FormatError("truncated within a message") from None
    return offset, attributes, timestamp_ms, key, value


def _sized(data: memoryview, at: int) -> tuple[bytes | None, int]:
    (length,) = _INT32.unpack_from(data, at)
    at += _INT32.size
    if length < 0:
        return None, at
    if at + length > len(data):
        raise FormatError(f"{length} bytes, but {len(data) - at} are left")
    return bytes(data[at : at + length]), at + length
