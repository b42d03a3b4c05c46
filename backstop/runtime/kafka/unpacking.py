"""Compressed record batches, unpacked into a room of bounded size.

The codecs write into a buffer that they are handed and stop where it ends, so nothing larger is ever in memory. A large buffer is mapped, not
allocated: pages that stay empty cost nothing, and the room may be as large as the bound. Small batches, which are most of them, get a small one.
"""

import mmap
import struct
from collections.abc import Callable
from typing import Any

import cramjam

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
"""Codecs as Kafka numbers them (`attributes`, bits 0 to 2)."""
NAMES = {GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}

_STREAMED: dict[int, Callable[[Any, Any], int]] = {
    GZIP: cramjam.gzip.decompress_into,
    LZ4: cramjam.lz4.decompress_into,
    ZSTD: cramjam.zstd.decompress_into,
}
_XERIAL = b"\x82SNAPPY\x00"
"""Java's snappy library writes blocks behind a header of 16 bytes; librdkafka writes one raw block."""
_XERIAL_BYTES = 16
_BLOCK = struct.Struct(">i")
_NO_ROOM = "failed to write whole buffer"
"""What Rust says where a writer is full. cramjam has one error for all."""
_SMALL_BYTES = 4_096
_SMALL_ROOM_BYTES = 65_536
"""Tried first for a packed batch of at most `_SMALL_BYTES`: a mapping and its page faults cost 20 µs, more than the batch."""


class UnpackError(Exception):
    """Not what its codec makes."""


class TooLargeError(UnpackError):
    """It unpacks to more than it may. How much more is not known, but for snappy."""


def unpack(codec: int, packed: memoryview, prefix: bytes, bytes_max: int) -> memoryview:
    """`prefix` and behind it what `packed` holds, at most `bytes_max` of it.

    :raises UnpackError: it is damaged, or the codec is unknown.
    :raises TooLargeError: it holds more.
    """
    if codec == SNAPPY:
        return _snappy(bytes(packed), prefix, bytes_max)
    if codec not in _STREAMED:
        raise UnpackError(f"compression codec {codec} is unknown")
    data = bytes(packed)
    if len(data) <= _SMALL_BYTES and bytes_max > _SMALL_ROOM_BYTES:
        try:
            return _into(memoryview(bytearray(len(prefix) + _SMALL_ROOM_BYTES)), codec, data, prefix)
        except TooLargeError:
            pass
    return _into(memoryview(mmap.mmap(-1, len(prefix) + bytes_max)), codec, data, prefix)


def _into(room: memoryview, codec: int, data: bytes, prefix: bytes) -> memoryview:
    at = len(prefix)
    try:
        size = _STREAMED[codec](data, room[at:])
    except cramjam.DecompressionError as error:
        if _NO_ROOM in str(error):
            raise TooLargeError(f"{NAMES[codec]}: more than {len(room) - at} bytes unpacked") from None
        raise UnpackError(f"{NAMES[codec]}: {error}") from None
    room[:at] = prefix
    return room[: at + size]


def _snappy(packed: bytes, prefix: bytes, bytes_max: int) -> memoryview:
    """Each block says how large it is, before it is unpacked."""
    blocks = _xerial_blocks(packed) if packed.startswith(_XERIAL) else [packed]
    try:
        sizes = [cramjam.snappy.decompress_raw_len(block) for block in blocks]
        if sum(sizes) > bytes_max:
            raise TooLargeError(f"snappy: {sum(sizes)} bytes unpacked, more than {bytes_max}")
        room = memoryview(bytearray(len(prefix) + sum(sizes)))
        room[: len(prefix)] = prefix
        at = len(prefix)
        for block, size in zip(blocks, sizes, strict=True):
            if size:  # an empty block has nothing to write, and cramjam refuses an empty room
                at += cramjam.snappy.decompress_raw_into(block, room[at : at + size])
    except cramjam.DecompressionError as error:
        raise UnpackError(f"snappy: {error}") from None
    if at != len(room):
        raise UnpackError("snappy: a block holds less than it says")
    return room


def _xerial_blocks(packed: bytes) -> list[bytes]:
    blocks: list[bytes] = []
    at = _XERIAL_BYTES
    while at < len(packed):
        if at + _BLOCK.size > len(packed):
            raise UnpackError("snappy: cut off between two blocks")
        (size,) = _BLOCK.unpack_from(packed, at)
        at += _BLOCK.size
        if size < 0 or at + size > len(packed):
            raise UnpackError(f"snappy: a block of {size} bytes, where {len(packed) - at} are left")
        blocks.append(packed[at : at + size])
        at += size
    return blocks
